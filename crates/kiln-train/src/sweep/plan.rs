//! The runs of a sweep: which settings, which seeds, where each one goes.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_checkpoint::{FirstStage, ModelSource};
use serde::{Deserialize, Serialize};
use tracing::subscriber::NoSubscriber;

use super::space::{MOST as MOST_POINTS, Overrides, Setting, grid, random};
use crate::error::TrainError;
use crate::experiment::{
    ClassifierExperiment, Experiment, ExperimentError, describes_classifier, key_of_override,
};
use crate::run_folder::changed_keys::{OF_STAGE_1, ONLY_OF_STAGE_1};

/// The largest number of letters of a run's folder.
const LONGEST_NAME: usize = 100;

/// The largest number of seeds, and of points of which one goes on.
const MOST_SEEDS: usize = 1000;

/// What a sweep is asked for.
#[derive(Debug, Clone, Default)]
pub struct SweepRequest {
    /// The experiments, each with a name and its TOML. Several are tried one after the other.
    pub configs: Vec<(String, String)>,
    /// Settings as `key=value`, the same for all runs, or as `key=a,b,c` or `key=1e-4..1e-2`, varied.
    pub set: Vec<String>,
    /// The number of points to draw; `None` tries all combinations.
    pub random: Option<usize>,
    /// The number of runs of each point. Their seeds are the experiment's and the ones after it.
    pub seeds: usize,
    /// Train the first stage alone.
    pub only_first_stage: bool,
    /// Successive halving: of this many points, the best one goes on.
    pub halving: Option<usize>,
    /// The column of `metrics.csv` to judge by.
    pub metric: String,
    /// Whether higher is better.
    pub maximize: bool,
    /// A trained first stage for all runs.
    pub vqvae: Option<GivenFirstStage>,
}

/// A first stage that was trained before a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenFirstStage {
    /// Its folder.
    pub folder: PathBuf,
    /// The hash of its weights.
    pub hash: String,
}

impl GivenFirstStage {
    /// # Errors
    /// If `folder` has no first stage, or a damaged one.
    pub fn of(folder: &Path) -> Result<Self, TrainError> {
        let source = ModelSource::Folder(folder.to_owned());
        let first_stage = FirstStage::load(&source, &Device::flex())?;
        Ok(Self {
            folder: std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()),
            hash: first_stage.hash(),
        })
    }
}

/// All that determines a sweep. Its folder has it, so that it goes on as it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepPlan {
    /// The version of kiln.
    kiln: String,
    configs: Vec<Config>,
    /// Overrides of all runs.
    fixed: Overrides,
    points: Vec<Point>,
    seeds: usize,
    only_first_stage: bool,
    pub(crate) halving: Option<usize>,
    /// The column of `metrics.csv` to judge by.
    pub metric: String,
    /// Whether higher is better.
    pub maximize: bool,
    /// The first stage of all runs, if it was trained before.
    #[serde(default)]
    pub(crate) vqvae: Option<GivenFirstStage>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Config {
    name: String,
    text: String,
}

/// One combination of settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Point {
    /// The place of its experiment among the configs.
    config: usize,
    set: Overrides,
}

/// One run of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Trial {
    pub(crate) point: usize,
    /// The number of its seed, from zero.
    pub(crate) seed: usize,
}

/// The experiment of a run.
pub(crate) enum Swept {
    Models(Box<Experiment>),
    Classifier(Box<ClassifierExperiment>),
}

impl Swept {
    fn parse(config: &Config, overrides: &[String]) -> Result<Self, ExperimentError> {
        let Config { name, text } = config;
        match describes_classifier(text) {
            true => ClassifierExperiment::parse(text, name, overrides)
                .map(|it| Self::Classifier(Box::new(it))),
            false => Experiment::parse(text, name, overrides).map(|it| Self::Models(Box::new(it))),
        }
    }

    fn seed(&self) -> u64 {
        match self {
            Self::Models(experiment) => experiment.seed,
            Self::Classifier(experiment) => experiment.seed,
        }
    }
}

impl SweepPlan {
    /// # Errors
    /// If a setting cannot be read, if a run's experiment is refused, or if there is nothing to compare.
    pub fn of(request: &SweepRequest) -> Result<Self, TrainError> {
        let settings: Result<Vec<Setting>, String> = (request.set.iter())
            .map(|text| Setting::parse(text))
            .collect();
        let settings = settings.map_err(TrainError::Run)?;
        let fixed = (settings.iter().zip(&request.set))
            .filter(|(setting, _)| !setting.varies())
            .map(|(_, text)| text.clone());
        let points = match request.random {
            Some(count) => random(&settings, count, 0),
            None => grid(&settings),
        };
        let points = points.map_err(TrainError::Run)?;
        let of_config = |config| {
            let points = points.iter().cloned();
            points.map(move |set| Point { config, set })
        };
        let configs = request.configs.iter().cloned();
        let plan = Self {
            kiln: env!("CARGO_PKG_VERSION").to_owned(),
            points: (0..request.configs.len()).flat_map(of_config).collect(),
            configs: configs.map(|(name, text)| Config { name, text }).collect(),
            fixed: fixed.collect(),
            seeds: request.seeds,
            only_first_stage: request.only_first_stage,
            halving: request.halving,
            metric: request.metric.clone(),
            maximize: request.maximize,
            vqvae: request.vqvae.clone(),
        };
        plan.check_settings(&settings)?;
        plan.check()?;
        plan.warn()?;
        Ok(plan)
    }

    /// This plan, judged by another column of `metrics.csv`.
    ///
    /// # Errors
    /// With successive halving, where the column decides which runs go on.
    pub fn judged_by(self, metric: &str, maximize: bool) -> Result<Self, TrainError> {
        if self.halving.is_some() && (metric, maximize) != (&self.metric, self.maximize) {
            return Err(TrainError::Run(format!(
                "this sweep halves its points by {}, so it cannot go on by another column",
                self.metric
            )));
        }
        Ok(Self {
            metric: metric.to_owned(),
            maximize,
            ..self
        })
    }

    /// Whether both have the same runs, whatever they are judged by and wherever their first stage is.
    pub(crate) fn has_the_runs_of(&self, other: &Self) -> bool {
        let hash = |plan: &Self| plan.vqvae.as_ref().map(|given| given.hash.clone());
        let judged = other.clone().judged_by(&self.metric, self.maximize);
        let moved = judged.map(|judged| Self {
            vqvae: self.vqvae.clone(),
            ..judged
        });
        hash(self) == hash(other) && moved.is_ok_and(|moved| moved == *self)
    }

    /// This plan, with its first stage in another place.
    ///
    /// # Errors
    /// If it is another one, or if the sweep trains its own.
    pub fn with_first_stage(self, given: GivenFirstStage) -> Result<Self, TrainError> {
        match &self.vqvae {
            Some(known) if known.hash == given.hash => Ok(Self {
                vqvae: Some(given),
                ..self
            }),
            Some(known) => Err(TrainError::Run(format!(
                "this sweep has another first stage, that of {}: leave out --vqvae",
                known.folder.display()
            ))),
            None => Err(TrainError::Run(
                "this sweep trains its own first stages: leave out --vqvae".to_owned(),
            )),
        }
    }

    fn check_settings(&self, settings: &[Setting]) -> Result<(), TrainError> {
        let refuse = |sentence: String| Err(TrainError::Run(sentence));
        let mut keys: Vec<&str> = Vec::new();
        for setting in settings {
            let key = setting.key.as_str();
            if keys.contains(&key) {
                return refuse(format!("`{key}` is set twice"));
            }
            if key == "seed" && setting.varies() && self.seeds > 1 {
                return refuse("`seed` is varied already: leave out --seeds".to_owned());
            }
            let is_of_stage_1 = ONLY_OF_STAGE_1.contains(&key.split('.').next().unwrap_or(key));
            if self.vqvae.is_some() && setting.varies() && is_of_stage_1 {
                return refuse(format!(
                    "`{key}` changes nothing in a first stage that is trained already: leave out --vqvae, or this key"
                ));
            }
            keys.push(key);
        }
        Ok(())
    }

    /// Tells once what is to be told of each point's experiment.
    fn warn(&self) -> Result<(), TrainError> {
        for trial in self.first_trials() {
            Swept::parse(self.config(trial), &self.overrides(trial, |_| true))?;
        }
        Ok(())
    }

    /// Refuses what cannot be a sweep, or compares a training with itself.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let refuse = |sentence: String| Err(TrainError::Run(sentence));
        let is_in_range = self
            .points
            .iter()
            .all(|point| point.config < self.configs.len())
            && (1..=MOST_SEEDS).contains(&self.seeds)
            && self.points.len() <= MOST_POINTS
            && self
                .halving
                .is_none_or(|keep| (2..=MOST_SEEDS).contains(&keep));
        if !is_in_range {
            return refuse("its numbers cannot be those of a sweep".to_owned());
        }
        if self.points.len() * self.seeds < 2 {
            return refuse(
                "there is only one run in this sweep: give a key several values, as in --set stage_2.training.learning_rate=1e-4,3e-4, or --seeds 3"
                    .to_owned(),
            );
        }
        if self.halving.is_some() && self.points.len() < 2 {
            return refuse("--halving needs several points to choose from".to_owned());
        }
        for trial in self.trials() {
            let experiment = self.experiment(trial)?;
            let is_pixel = matches!(&experiment, Swept::Models(of) if of.first_stage.is_none());
            if self.only_first_stage && (is_pixel || matches!(experiment, Swept::Classifier(_))) {
                return refuse(format!(
                    "{} has no first stage: leave out --first-stage",
                    self.config(trial).name
                ));
            }
            let is_latent = matches!(&experiment, Swept::Models(of) if of.first_stage.is_some());
            if self.vqvae.is_some() && !is_latent {
                return refuse(format!(
                    "{} has no first stage: leave out --vqvae",
                    self.config(trial).name
                ));
            }
        }
        for (point, of) in self.points.iter().enumerate() {
            let same = |other: &Point| {
                let learns = |point: &Point| match self.only_first_stage {
                    true => point
                        .set
                        .iter()
                        .filter(|text| is_of_stage_1(text))
                        .cloned()
                        .collect(),
                    false => point.set.clone(),
                };
                let text = |point: &Point| &self.configs[point.config].text;
                text(other) == text(of) && learns(other) == learns(of)
            };
            if let Some(before) = self.points[..point].iter().position(same) {
                return refuse(format!(
                    "`{}` and `{}` are the same training: name each one once",
                    self.name(before),
                    self.name(point)
                ));
            }
        }
        Ok(())
    }

    /// All runs, by point and seed.
    pub(crate) fn trials(&self) -> impl Iterator<Item = Trial> {
        (0..self.points.len()).flat_map(|point| self.trials_of(point))
    }

    /// The first run of each point.
    pub(crate) fn first_trials(&self) -> impl Iterator<Item = Trial> {
        (0..self.points.len()).map(|point| Trial { point, seed: 0 })
    }

    /// The runs of a point.
    pub(crate) fn trials_of(&self, point: usize) -> impl Iterator<Item = Trial> + use<> {
        (0..self.seeds).map(move |seed| Trial { point, seed })
    }

    /// The number of points.
    pub fn points(&self) -> usize {
        self.points.len()
    }

    /// The number of runs.
    pub fn runs(&self) -> usize {
        self.points.len() * self.seeds
    }

    fn config(&self, trial: Trial) -> &Config {
        &self.configs[self.points[trial.point].config]
    }

    pub(crate) fn experiment(&self, trial: Trial) -> Result<Swept, TrainError> {
        self.parsed(trial, |_| true)
    }

    /// The experiment of the first stage that a run of latent diffusion takes, without what belongs to the second stage.
    pub(crate) fn of_first_stage(&self, trial: Trial) -> Result<Swept, TrainError> {
        self.parsed(trial, is_of_stage_1)
    }

    /// The experiment of a run, with the `wanted` ones of its varied keys. [`Self::warn`] has told its warnings.
    fn parsed(&self, trial: Trial, wanted: fn(&String) -> bool) -> Result<Swept, TrainError> {
        tracing::subscriber::with_default(NoSubscriber::default(), || {
            let mut overrides = self.overrides(trial, wanted);
            let config = self.config(trial);
            if trial.seed > 0 {
                let first = Swept::parse(config, &overrides)?.seed();
                overrides.push(format!("seed={}", first.saturating_add(trial.seed as u64)));
            }
            Ok(Swept::parse(config, &overrides)?)
        })
    }

    /// The overrides of a run, with the `wanted` ones of its varied keys, but without its seed.
    fn overrides(&self, trial: Trial, wanted: fn(&String) -> bool) -> Overrides {
        let varied = self.points[trial.point].set.iter();
        let varied = varied.filter(|text| wanted(text));
        self.fixed.iter().chain(varied).cloned().collect()
    }

    /// What the first stage of a run depends on: runs with the same have the same one.
    fn first_stage_of(&self, trial: Trial) -> (usize, Vec<&String>, usize) {
        let point = &self.points[trial.point];
        let set = point.set.iter().filter(|text| is_of_stage_1(text));
        (point.config, set.collect(), trial.seed)
    }

    /// The folder within the sweep's of the first stage that a run of latent diffusion takes.
    pub(crate) fn first_stage_folder(&self, trial: Trial) -> PathBuf {
        let (own, mut known) = (self.first_stage_of(trial), Vec::new());
        for other in self.trials().map(|other| self.first_stage_of(other)) {
            if !known.contains(&other) {
                known.push(other);
            }
        }
        let number = known.iter().position(|known| *known == own);
        let words = self.words(trial.point, is_of_stage_1);
        let name = self.folder_name(number.unwrap_or_default(), &words, trial.seed);
        Path::new("first-stages").join(name)
    }

    pub(crate) fn is_only_first_stage(&self) -> bool {
        self.only_first_stage
    }

    /// A point in words, such as `learning_rate=0.001, batch_size=8`.
    pub(crate) fn name(&self, point: usize) -> String {
        self.words(point, |_| true)
    }

    /// The `wanted` settings of a point in words.
    fn words(&self, point: usize, wanted: fn(&String) -> bool) -> String {
        let Point { config, set } = &self.points[point];
        let config = (self.configs.len() > 1).then(|| self.configs[*config].name.clone());
        let set = set.iter().filter(|text| wanted(text));
        let set = set.map(|text| self.shortened(text));
        let words: Vec<String> = config.into_iter().chain(set).collect();
        match words.is_empty() {
            true => "as it is".to_owned(),
            false => words.join(", "),
        }
    }

    /// `stage_2.training.learning_rate=0.001` without what no other varied key needs to be told apart.
    fn shortened(&self, text: &str) -> String {
        let key = key_of_override(text);
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let keys = self.points[0].set.iter().map(|text| key_of_override(text));
        let alike = keys.filter(|other| last(other) == last(key)).count();
        let value = text.split_once('=').map_or("", |(_, value)| value.trim());
        match alike {
            0 | 1 => format!("{}={value}", last(key)),
            _ => format!("{key}={value}"),
        }
    }

    /// The folder of a run within the sweep's.
    pub(crate) fn folder(&self, trial: Trial) -> PathBuf {
        let name = self.folder_name(trial.point, &self.name(trial.point), trial.seed);
        name.into()
    }

    /// A number, words as letters that all file systems take, and the seed if there are several.
    fn folder_name(&self, number: usize, words: &str, seed: usize) -> String {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "=._-+".contains(letter);
        let words: String = (words.replace(", ", ",").chars())
            .map(|letter| {
                if is_plain(letter) || letter == ',' {
                    letter
                } else {
                    '_'
                }
            })
            .take(LONGEST_NAME)
            .collect();
        let mut name = format!("{number:03}-{words}");
        if self.seeds > 1 {
            name += &format!(",seed={seed}");
        }
        name
    }
}

#[expect(clippy::ptr_arg, reason = "a filter of strings")]
fn is_of_stage_1(text: &String) -> bool {
    let table = key_of_override(text).split('.').next();
    table.is_some_and(|table| OF_STAGE_1.contains(&table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(set: &[&str], seeds: usize) -> SweepRequest {
        let text = include_str!("../../../../configs/mnist-quick.toml");
        SweepRequest {
            configs: vec![("mnist-quick".to_owned(), text.to_owned())],
            set: set.iter().map(|&text| text.to_owned()).collect(),
            seeds,
            metric: "loss/valid".to_owned(),
            ..SweepRequest::default()
        }
    }

    #[test]
    fn every_run_has_its_experiment_and_folder_and_stage_1_is_shared() {
        let rate = "stage_2.training.learning_rate=1e-4,3e-4";
        let plan = SweepPlan::of(&request(&[rate, "stage_2.training.steps=7"], 2)).unwrap();
        let trials: Vec<Trial> = plan.trials().collect();
        assert_eq!((trials.len(), plan.runs()), (4, 4));
        let folders: Vec<_> = trials.iter().map(|&trial| plan.folder(trial)).collect();
        assert_eq!(
            folders,
            [
                "000-learning_rate=1e-4,seed=0",
                "000-learning_rate=1e-4,seed=1",
                "001-learning_rate=3e-4,seed=0",
                "001-learning_rate=3e-4,seed=1"
            ]
            .map(PathBuf::from)
        );
        let Swept::Models(last) = plan.experiment(trials[3]).unwrap() else {
            panic!("models")
        };
        let training = &last.stage_2.training;
        assert_eq!((training.learning_rate, training.steps), (3e-4, 7));
        let Swept::Models(first) = plan.experiment(trials[0]).unwrap() else {
            panic!("models")
        };
        assert_eq!(last.seed, first.seed + 1);
        let first_stages: Vec<_> = (trials.iter())
            .map(|&trial| plan.first_stage_folder(trial))
            .collect();
        assert_eq!(first_stages[0], first_stages[2]);
        assert_ne!(first_stages[0], first_stages[1]);

        let size = "codebook.decay=0.9,0.99";
        let plan = SweepPlan::of(&request(&[size, rate], 1)).unwrap();
        let folders = plan.trials().map(|trial| plan.first_stage_folder(trial));
        let folders: Vec<_> = folders.collect();
        let [first, second] =
            ["000-decay=0.9", "001-decay=0.99"].map(|name| Path::new("first-stages").join(name));
        assert_eq!(folders, [first.clone(), first, second.clone(), second]);
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let plan = SweepPlan::of(&request(&["seed=1,2"], 1)).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<SweepPlan>(&text).unwrap(), plan);
    }

    #[test]
    fn what_is_no_sweep_is_refused_before_any_run() {
        for (set, seeds, words) in [
            (&["seed=1"][..], 1, "only one run"),
            (&["seed=1,2"], 2, "leave out --seeds"),
            (&["seed=1,2", "seed=3"], 1, "set twice"),
            (
                &["stage_2.training.learning_rate=1e-4,-1"],
                1,
                "learning_rate",
            ),
            (&["no.such=1,2"], 1, "no"),
        ] {
            let problem = SweepPlan::of(&request(set, seeds)).unwrap_err().to_string();
            assert!(problem.contains(words), "{set:?}: {problem}");
        }
        let halved = SweepRequest {
            halving: Some(2),
            ..request(&[], 3)
        };
        assert!(SweepPlan::of(&halved).is_err());
    }

    #[test]
    fn a_training_is_not_compared_with_itself() {
        let rate = "stage_2.training.learning_rate=1e-4,3e-4";
        let given = Some(GivenFirstStage {
            folder: PathBuf::from("vqvae"),
            hash: "1".to_owned(),
        });
        let codes = SweepRequest {
            vqvae: given.clone(),
            ..request(&["codebook.decay=0.9,0.99"], 1)
        };
        let first_stages = SweepRequest {
            only_first_stage: true,
            ..request(&[rate], 1)
        };
        let pixels = SweepRequest {
            configs: vec![(
                "pixels".to_owned(),
                include_str!("../../../../configs/cifar10-ddpm.toml").to_owned(),
            )],
            vqvae: given,
            ..request(&["seed=1,2"], 1)
        };
        for (request, words) in [
            (request(&["seed=1,1"], 1), "the same training"),
            (codes, "`codebook.decay` changes nothing"),
            (first_stages, "the same training"),
            (pixels, "leave out --vqvae"),
        ] {
            let problem = SweepPlan::of(&request).unwrap_err().to_string();
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn a_plan_whose_numbers_cannot_be_is_refused() {
        let plan = SweepPlan::of(&request(&["seed=1,2,3"], 1)).unwrap();
        plan.check().unwrap();
        let with = |change: &dyn Fn(&mut SweepPlan)| {
            let mut plan = plan.clone();
            change(&mut plan);
            plan.check()
        };
        let changes: [&dyn Fn(&mut SweepPlan); 8] = [
            &|plan| plan.points[1].config = 7,
            &|plan| plan.configs.clear(),
            &|plan| plan.points.clear(),
            &|plan| plan.halving = Some(0),
            &|plan| plan.halving = Some(1),
            &|plan| plan.seeds = 0,
            &|plan| plan.seeds = usize::MAX,
            &|plan| plan.points[2] = plan.points[0].clone(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert!(with(change).is_err(), "change {number}");
        }
    }

    #[test]
    fn a_first_stage_may_move_but_not_change() {
        let given = |folder: &str, hash: &str| GivenFirstStage {
            folder: folder.into(),
            hash: hash.to_owned(),
        };
        let own = SweepPlan::of(&request(&["seed=1,2"], 1)).unwrap();
        assert!(own.clone().with_first_stage(given("a", "1")).is_err());
        let plan = SweepPlan {
            vqvae: Some(given("a", "1")),
            ..own.clone()
        };
        let moved = plan.clone().with_first_stage(given("b", "1")).unwrap();
        assert!(moved.has_the_runs_of(&plan) && !moved.has_the_runs_of(&own));
        assert!(plan.with_first_stage(given("a", "2")).is_err());
    }
}
