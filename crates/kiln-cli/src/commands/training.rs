//! The common part of the training commands.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::bail;
use clap::{Args, ValueEnum};
use kiln::Devices;
use kiln_data::Progress;
use kiln_kernels::Precision;
use kiln_train::{
    Experiment, Ranks, RunLabel, RunOptions, TrainError, TrainingReport, key_of_override,
    overrides_of_run,
};

use super::drawing::{COMPUTING, MODEL};
use super::git::git_revision;
use super::hub_arguments::HubArguments;
use crate::interrupts::stop_on_interrupt;
use crate::terminal::{self, DataProgress};

/// Groups of the help.
const EXPERIMENT: &str = "Experiment";
const RUN: &str = "Run";

/// How long a failed rank waits for rank 0 to report first: `mpirun` takes two seconds to kill the rest of a job.
const PATIENCE_WITH_RANK_0: Duration = Duration::from_secs(3);

/// Where the experiment comes from, where its results go, and what computes.
#[derive(Args)]
pub struct TrainingArguments {
    /// The experiment: a TOML file like those in configs/ [with --resume: that of the run]
    #[arg(long, help_heading = EXPERIMENT, value_name = "FILE", required_unless_present = "resume")]
    config: Option<PathBuf>,

    /// Where the data set is, here or on the Hub; overrides data.path of the config
    #[arg(long, help_heading = EXPERIMENT, value_name = "PATH|hf:ORG/DATASET[:[CONFIGURATION/]SPLIT]")]
    data: Option<PathBuf>,

    /// The run folder [default: runs/ and the config's name]
    #[arg(long, help_heading = RUN, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// Where to compute: cpu, cpu:2 (two replicas), cuda:0,cuda:1, rocm:0, metal or wgpu
    #[arg(long, help_heading = COMPUTING, default_value = "cpu", value_name = "DEVICES")]
    devices: String,

    /// How several devices share the work
    #[arg(long, help_heading = COMPUTING, value_enum, default_value_t = Strategy::Main)]
    strategy: Strategy,

    /// Which numbers the convolutions multiply, f32, bf16 or auto; overrides training.precision of the stage
    #[arg(long, help_heading = COMPUTING)]
    precision: Option<Precision>,

    /// Override a key of the config, as in unet.block_out_channels=[64,128]; may be repeated
    #[arg(long, help_heading = EXPERIMENT, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Go on from the newest good checkpoint in the run folder; what was set when the run began need not be set again
    #[arg(long, help_heading = RUN)]
    resume: bool,

    /// What to call the run; `kiln runs` shows it [default: its folder]
    #[arg(long, help_heading = RUN, value_name = "NAME")]
    name: Option<String>,

    /// A word to find the run by; may be repeated
    #[arg(long, help_heading = RUN, value_name = "WORD")]
    tag: Vec<String>,

    /// Log to this, too, besides metrics.csv [with --resume: what the run does]
    #[arg(long, help_heading = RUN, value_enum, value_name = "FORMAT")]
    log: Vec<LogFormat>,

    #[command(flatten)]
    hub: HubArguments,

    /// Print one JSON object on stdout at the end
    #[arg(long)]
    json: bool,
}

/// Trained models that a training takes, each in a folder or on the Hub.
#[derive(Args, Clone, Debug, Default)]
pub struct TrainedModels {
    /// Of stage 2: the VQ-VAE to use in place of the run folder's own.
    #[arg(skip)]
    pub vqvae: Option<PathBuf>,

    /// Of stage 1: only the first stage of the initial weights is needed.
    #[arg(skip)]
    pub only_first_stage: bool,

    /// Begin with the weights of this trained model, in a folder or on the Hub, not with random ones (fine-tuning)
    #[arg(long, help_heading = MODEL, value_name = "PATH|ORG/REPO[@REVISION]")]
    pub initial_weights: Option<PathBuf>,

    /// Of a distillation: the student whose weights it begins with.
    #[arg(skip)]
    pub student: Option<PathBuf>,
}

/// `--log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Event files with numbers, pictures and the experiment: `tensorboard --logdir runs`
    Tensorboard,
}

/// `--strategy`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Strategy {
    /// All devices sum the gradients, the first updates the weights
    // The name in kiln 0.1.0, with the same meaning.
    #[value(alias = "sharded")]
    Main,
    /// NCCL between CUDA devices
    Ddp,
}

impl From<Strategy> for kiln_train::Strategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Main => Self::Main,
            Strategy::Ddp => Self::Ddp,
        }
    }
}

/// A training of kiln-train for experiments of type `E`.
type Train<E> = fn(&E, &RunOptions, &dyn Progress) -> Result<TrainingReport, TrainError>;

impl TrainingArguments {
    /// Trains one of the stages of an [`Experiment`].
    pub fn run(
        self,
        stage: &str,
        models: &TrainedModels,
        train: Train<Experiment>,
    ) -> anyhow::Result<()> {
        let table = format!("{stage}.training");
        let load = |path: &Path, overrides: &[String]| Ok(Experiment::load(path, overrides)?);
        self.train(&table, models, load, train)
    }

    /// Whether the experiment comes from a file, not from the run.
    pub fn names_experiment(&self) -> bool {
        self.config.is_some()
    }

    /// The folder of a trained model that is in a folder or on the Hub.
    pub fn model(&self, place: &Path) -> anyhow::Result<PathBuf> {
        self.hub.model(place)
    }

    /// Reads an experiment with `load`, some of its keys overridden, trains with `train` and prints the outcome.
    ///
    /// `table` is the experiment's table of training settings.
    pub fn train<E>(
        self,
        table: &str,
        models: &TrainedModels,
        load: impl Fn(&Path, &[String]) -> Result<E, TrainError>,
        train: Train<E>,
    ) -> anyhow::Result<()> {
        let (ranks, json) = (Ranks::of_this_process()?, self.json);
        match self.train_on(&ranks, table, models, load, train) {
            Ok(report) if ranks.is_first() => {
                terminal::print_outcome(&report, json, ToString::to_string)
            }
            Ok(_) => Ok(()),
            Err(error) if ranks.is_alone() => Err(error),
            Err(error) => {
                if !ranks.is_first() {
                    // Report an error of all ranks only once: rank 0 reports it, and ends this rank in the meantime.
                    thread::sleep(PATIENCE_WITH_RANK_0);
                }
                terminal::print_error(&terminal::one_sentence(&error));
                ranks.abort(1)
            }
        }
    }

    /// This process's part of the training by `ranks`.
    fn train_on<E>(
        self,
        ranks: &Ranks,
        table: &str,
        models: &TrainedModels,
        load: impl Fn(&Path, &[String]) -> Result<E, TrainError>,
        train: Train<E>,
    ) -> anyhow::Result<TrainingReport> {
        let mut overrides = overrides(&self.set, self.data.as_deref());
        let precision = self.precision.iter();
        overrides.extend(precision.map(|name| format!("{table}.precision=\"{name}\"")));
        let names_data = |text: &String| key_of_override(text) == "data.path";
        let data_is_named = overrides.iter().any(names_data);
        let out = match (self.out, &self.config) {
            (Some(out), _) => out,
            (None, Some(config)) => default_run_folder(config),
            (None, None) => {
                bail!("name the run to resume with --out, or its experiment with --config")
            }
        };
        let experiment = match &self.config {
            Some(config) if self.resume => {
                // The run's earlier settings stay.
                load(config, &[overrides_of_run(&out)?, overrides].concat())?
            }
            Some(config) => load(config, &overrides)?,
            None => {
                let config = out.join("config.toml");
                if !config.is_file() {
                    bail!(
                        "{} has no run to resume: start one with --config",
                        out.display()
                    );
                }
                load(&config, &overrides)?
            }
        };
        let options = RunOptions {
            out,
            resume: self.resume,
            data: None,
            data_is_named,
            vqvae: (models.vqvae.as_deref())
                .map(|place| self.hub.first_stage(place))
                .transpose()?,
            initial_weights: (models.initial_weights.as_deref())
                .map(|place| match models.only_first_stage {
                    true => self.hub.first_stage(place),
                    false => self.hub.model(place),
                })
                .transpose()?,
            student: (models.student.as_deref())
                .map(|place| self.hub.model(place))
                .transpose()?,
            label: RunLabel {
                name: self.name,
                tags: self.tag,
                // Rank 0 writes it for all.
                revisions: (ranks.is_first().then(git_revision).flatten().into_iter()).collect(),
            },
            tensorboard: self.log.contains(&LogFormat::Tensorboard),
            pause_after: None,
            hub: self.hub.settings(),
            devices: Devices::parse(&self.devices)?,
            strategy: self.strategy.into(),
            ranks: ranks.clone(),
            stop: stop_on_interrupt(ranks)?,
        };
        Ok(train(&experiment, &options, &DataProgress::default())?)
    }
}

/// `--set` and `--data` as overrides of config keys; `--data` comes last and wins.
pub fn overrides(set: &[String], data: Option<&Path>) -> Vec<String> {
    let data = data.map(|path| format!("data.path={}", path_in_toml(path)));
    set.iter().cloned().chain(data).collect()
}

/// A path as a value of a config.
pub fn path_in_toml(path: &Path) -> toml::Value {
    match path.to_str() {
        Some(text) => text.into(),
        // TOML is UTF-8: another path is the array of its bytes.
        None => {
            let bytes = path.as_os_str().as_encoded_bytes();
            let bytes = bytes.iter().map(|&byte| i64::from(byte).into());
            toml::Value::Array(bytes.collect())
        }
    }
}

/// `configs/mnist.toml` runs in `runs/mnist`.
pub fn default_run_folder(config: &Path) -> PathBuf {
    Path::new("runs").join(config.file_stem().unwrap_or("run".as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_runs_in_a_folder_of_its_name() {
        assert_eq!(
            default_run_folder(Path::new("configs/mnist.toml")),
            Path::new("runs/mnist")
        );
        assert_eq!(default_run_folder(Path::new("..")), Path::new("runs/run"));
    }

    #[test]
    #[cfg(unix)]
    fn a_data_path_that_is_not_utf8_survives_as_an_override() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"pictures-\xff\xfe"));
        let override_ = overrides(&[], Some(path)).remove(0);
        let text = format!(
            "dataset = \"folder\"\nsize = 8\nchannels = 1\n{}",
            override_.replace("data.path", "path")
        );
        let config: kiln_data::DataConfig = toml::from_str(&text).unwrap();
        assert_eq!(config.path.as_deref(), Some(path));
        let again = toml::to_string(&config).unwrap();
        assert_eq!(
            toml::from_str::<kiln_data::DataConfig>(&again).unwrap(),
            config
        );
    }

    #[test]
    fn a_data_path_with_quotes_survives_as_an_override() {
        let overrides = overrides(&["seed=1".into()], Some(Path::new(r#"a "b" \c"#)));
        let text = overrides[1].replace("data.path", "path");
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(
            (overrides[0].as_str(), table["path"].as_str()),
            ("seed=1", Some(r#"a "b" \c"#))
        );
    }
}
