//! The start of a stage: from nothing, or from the end of an earlier part of its run.

use std::path::{Path, PathBuf};

use kiln_data::{DataConfig, Datasets, is_on_the_hub};

use crate::counted;
use crate::error::TrainError;
use crate::experiment::{Experiment, ExperimentError};
use crate::learner::plan::Plan;
use crate::learner::session::Session;
use crate::run_folder::changed_keys::{
    OF_STAGE_2, ONLY_OF_STAGE_1, ONLY_OF_STAGE_2, require_same_images, require_same_keys,
    say_what_stays, with_tables_of,
};
use crate::run_folder::checkpoints::{CheckpointFolder, GoodCheckpoint};
use crate::run_folder::facts::EarlierSteps;
use crate::run_folder::identity::{Identity, InitialWeights, PerceptualIdentity, VqVaeIdentity};
use crate::run_folder::label::RunLabel;
use crate::run_folder::metrics_table::add_rows;
use crate::run_folder::places::{absolute, find_data};
use crate::run_folder::{RunFolder, StageFolder, WRITTEN_BY, write_atomically};
use crate::script::options::RunOptions;
use crate::script::resume::{find_checkpoint, session};

/// A stage before its first step.
pub(crate) struct Start<'a> {
    pub(crate) options: &'a RunOptions,
    run: &'a RunFolder,
    folder: StageFolder,
    /// The experiment's tables that determine what the stage learns.
    tables: &'static [&'static str],
    /// The experiment, as TOML.
    pub(crate) config: String,
    pub(crate) resume: Option<GoodCheckpoint>,
    pub(crate) session: Session,
}

/// The name of the run so far in errors about its experiment.
pub(crate) const BEFORE: &str = "the experiment of the run so far";

impl<'a> Start<'a> {
    /// The start of a stage of `experiment` in `folder`. `tables` determine what it learns.
    pub(crate) fn of_experiment(
        experiment: &Experiment,
        options: &'a RunOptions,
        run: &'a RunFolder,
        folder: &StageFolder,
        tables: &'static [&'static str],
    ) -> Result<Self, TrainError> {
        let reread = |text: &str| Experiment::parse(text, BEFORE, &[])?.to_toml();
        let mut config = experiment.to_toml()?;
        // The run's file, not the present experiment, describes the training of the other stage.
        let has_begun_stage_2 = || {
            let checkpoints = CheckpointFolder::new(run.stage_2().checkpoints());
            !checkpoints.steps().is_empty()
        };
        let (other, its_tables, is_fixed) = if tables == OF_STAGE_2 {
            ("stage 1", ONLY_OF_STAGE_1, run.stage_1().model().exists())
        } else {
            ("stage 2", ONLY_OF_STAGE_2, has_begun_stage_2())
        };
        if is_fixed && let Ok(before) = Experiment::load(&run.config(), &[]) {
            if tables == OF_STAGE_2 && options.vqvae.is_none() {
                require_same_images(&before.to_toml()?, &config)?;
            }
            let kept = with_tables_of(&before.to_toml()?, &config, its_tables)?;
            if let Ok(kept) = reread(&kept) {
                let why = format!(
                    "{other} has been trained, so its keys can only be set where it goes on itself"
                );
                if options.ranks.is_first() {
                    say_what_stays(&why, &kept, &config)?;
                }
                config = kept;
            }
        }
        Self::new(options, run, folder, tables, config, reread)
    }

    /// Finds earlier parts of the training in `folder`. All ranks must do the same.
    ///
    /// `reread` reads an experiment and writes it again, in the form of `config`.
    ///
    /// # Errors
    /// If the run was another experiment, or there is one and `--resume` was not given.
    pub(crate) fn new(
        options: &'a RunOptions,
        run: &'a RunFolder,
        folder: &StageFolder,
        tables: &'static [&'static str],
        config: String,
        reread: impl Fn(&str) -> Result<String, ExperimentError>,
    ) -> Result<Self, TrainError> {
        let resume = find_checkpoint(folder, options.resume)?;
        let session = session(resume.as_ref(), &options.stop, &options.ranks);
        let ranks = &options.ranks;
        ranks.require_same("version of kiln", env!("CARGO_PKG_VERSION"))?;
        ranks.require_same("experiment", &config)?;
        ranks.require_same("number of devices", options.devices.all().len().to_string())?;
        ranks.require_same("newest checkpoint", session.steps_done().to_string())?;
        if let Some(checkpoint) = &resume {
            let before = match &checkpoint.identity {
                Some(identity) => identity.config.clone(),
                // The checkpoint is from an older kiln, which compared experiments by the run's file.
                None => {
                    let path = run.config();
                    kiln_data::read_text(&path).map_err(TrainError::file("read", path))?
                }
            };
            require_same_keys(tables, &reread(&before)?, &config)?;
        }
        Ok(Self {
            options,
            run,
            folder: folder.clone(),
            tables,
            config,
            resume,
            session,
        })
    }

    /// The identity at the beginning of the run, if the checkpoint has it.
    pub(crate) fn before(&self) -> Option<&Identity> {
        self.resume.as_ref()?.identity.as_ref()
    }

    /// Whether all of `steps` are done, with their validation, and `trained` says that the model has learnt for as many as the checkpoint.
    ///
    /// # Errors
    /// If more steps are done than requested, and there is no such model.
    pub(crate) fn is_finished(
        &self,
        steps: usize,
        trained: impl FnOnce() -> Option<usize>,
    ) -> Result<bool, TrainError> {
        let done = self.session.steps_done();
        if self.resume.is_none() || done < steps {
            return Ok(false);
        }
        let owes_validation =
            (self.resume.as_ref()).is_some_and(|checkpoint| checkpoint.owes_validation);
        let is_finished = !(owes_validation && done == steps) && trained() == Some(done);
        if is_finished && self.options.ranks.is_first() {
            let why = "nothing is left to train, so what was set changes nothing";
            if let Ok(recorded) = kiln_data::read_text(&self.run.config()) {
                say_what_stays(why, &recorded, &self.config)?;
            }
            // No revision of today has trained it, but it may be called something else.
            let label = RunLabel {
                revisions: Vec::new(),
                ..self.options.label.clone()
            };
            label.add_to(&self.run.label())?;
        }
        let rows = self.resume.iter().map(|checkpoint| &checkpoint.rows);
        for rows in rows.filter(|rows| is_finished && !rows.is_empty()) {
            add_rows(&self.folder.metrics(), rows)?;
        }
        if done > steps && !is_finished {
            let table = match self.tables.last() {
                Some(&stage) if stage != "training" => format!("{stage}.training"),
                _ => "training".to_owned(),
            };
            return Err(TrainError::Run(format!(
                "`{table}.steps` is {steps}, but the run already has {}: --set {table}.steps={done} makes a model of these, and more steps continue it",
                counted(done, "step")
            )));
        }
        Ok(is_finished)
    }

    /// The place of the data of `config`: see [`find_data`].
    pub(crate) fn find_data(&self, config: &DataConfig) -> DataConfig {
        if self.options.data_is_named {
            return config.clone();
        }
        let known = || self.before()?.data.clone();
        let found = find_data(config, known);
        if let (Some(lost), Some(place)) = (&config.path, &found.path)
            && lost != place
        {
            tracing::warn!(
                "there is no {} here: going on with the data in {}",
                lost.display(),
                place.display()
            );
        }
        found
    }

    /// The identity that the earlier and the later parts of the run must share.
    pub(crate) fn identity(
        &self,
        data: &DataConfig,
        datasets: &Datasets,
        plan: &Plan,
        vqvae: Option<VqVaeIdentity>,
        perceptual: Option<PerceptualIdentity>,
        initial: Option<InitialWeights>,
    ) -> Identity {
        let place = data.path.as_deref().filter(|path| !is_on_the_hub(path));
        Identity::new(
            &self.config,
            plan.step_images(),
            datasets,
            place.and_then(absolute),
            vqvae,
            perceptual,
            initial,
        )
    }

    /// The model whose weights the stage begins with: the one that is asked for or, if the run is resumed before its
    /// first checkpoint, the one that it began with.
    ///
    /// # Errors
    /// If the record of that model cannot be read.
    pub(crate) fn begins_with(&self) -> Result<Option<PathBuf>, TrainError> {
        match self.options.initial_weights.clone() {
            Some(asked_for) => Ok(Some(asked_for)),
            None => Ok(self.recorded()?.and_then(|recorded| recorded.place)),
        }
    }

    /// The student whose weights a distillation begins with, in the same way.
    ///
    /// # Errors
    /// As [`Self::begins_with`].
    pub(crate) fn begins_with_student(&self) -> Result<Option<PathBuf>, TrainError> {
        match self.options.student.clone() {
            Some(asked_for) => Ok(Some(asked_for)),
            None => Ok(self.recorded()?.and_then(|recorded| recorded.student)),
        }
    }

    /// What a run that is resumed before its first checkpoint began with.
    fn recorded(&self) -> Result<Option<InitialWeights>, TrainError> {
        let path = self.folder.begun_with();
        if !self.options.resume || self.resume.is_some() || !path.exists() {
            return Ok(None);
        }
        let text = kiln_data::read_text(&path).map_err(TrainError::file("read", &path))?;
        serde_json::from_str(&text).map(Some).map_err(|problem| {
            TrainError::Run(format!(
                "{} does not say what the training began with ({problem}): name that model again (`kiln distill --model`, or --initial-weights), or restore the file",
                path.display()
            ))
        })
    }

    /// The network of the initial model, if there is one, read by `load`, and its record. A resumed run has its own
    /// weights and needs only the record.
    ///
    /// # Errors
    /// The errors of `load`.
    pub(crate) fn initial_weights<N>(
        &self,
        load: impl FnOnce(&Path) -> Result<(N, EarlierSteps), TrainError>,
    ) -> Result<(Option<N>, Option<InitialWeights>), TrainError> {
        if let Some(before) = self.before() {
            let known = before
                .initial
                .as_ref()
                .and_then(|initial| initial.place.clone());
            let asked_for = self.options.initial_weights.as_deref();
            if let Some(other) =
                asked_for.filter(|&asked| known.is_none() || known != absolute(asked))
            {
                tracing::warn!(
                    "ignoring the weights in {}: this run continues with its own",
                    other.display()
                );
            }
            let known = before.initial.as_ref().and_then(|it| it.student.clone());
            let asked_for = self.options.student.as_deref();
            if let Some(other) = asked_for.filter(|&asked| known != absolute(asked)) {
                tracing::warn!(
                    "ignoring the student in {}: this run continues with its own weights",
                    other.display()
                );
            }
            return Ok((None, before.initial.clone()));
        }
        let Some(folder) = self.begins_with()? else {
            return Ok((None, None));
        };
        let (network, earlier_steps) = load(&folder)?;
        let place = absolute(&folder);
        Ok((
            Some(network),
            Some(InitialWeights {
                place,
                earlier_steps,
                teacher: None,
                student: None,
            }),
        ))
    }

    /// Writes the experiment to `config.toml`, after a check that the run may continue as `identity`.
    ///
    /// # Errors
    /// If the run began with something else.
    pub(crate) fn begin(&self, identity: &Identity) -> Result<(), TrainError> {
        match (self.before(), &self.resume) {
            (Some(before), _) => before.require_same(identity, self.tables)?,
            (None, Some(_)) => tracing::warn!(
                "the checkpoints of this run are of an older kiln, which did not note their data: whether it is the same cannot be checked"
            ),
            (None, None) => {}
        }
        if !self.options.ranks.is_first() {
            return Ok(());
        }
        self.options.label.add_to(&self.run.label())?;
        if self.resume.is_none() {
            self.record(identity.initial.as_ref())?;
        }
        let version = env!("CARGO_PKG_VERSION");
        let header = format!("{WRITTEN_BY} {version}: what this run was trained with.\n");
        write_atomically(&self.run.config(), (header + &self.config).as_bytes())
    }
    /// Records what the stage begins with, in place of what an earlier training of it began with.
    fn record(&self, initial: Option<&InitialWeights>) -> Result<(), TrainError> {
        let path = self.folder.begun_with();
        match initial {
            Some(initial) => {
                let text = serde_json::to_string_pretty(initial).map_err(std::io::Error::from);
                let text = text.map_err(TrainError::file("write", &path))?;
                write_atomically(&path, text.as_bytes())
            }
            None if path.exists() => {
                std::fs::remove_file(&path).map_err(TrainError::file("remove", &path))
            }
            None => Ok(()),
        }
    }
}
