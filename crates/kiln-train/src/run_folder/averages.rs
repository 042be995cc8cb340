//! The averages of a U-Net's weights that a training kept, and averages of other lengths that are made of them.
//!
//! ```text
//! diffusion/averages/step-0001000-length-0.05.safetensors
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_checkpoint::{DiffusionModel, ModelSource};
use kiln_data::read_regular;
use kiln_models::power_average::PowerAverage;
use kiln_models::{UNet2d, WeightsType, load_weights_from_tensors, save_weights};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::TrainError;
use crate::run_folder::RunFolder;
use crate::run_folder::facts::steps_in;
use crate::run_folder::record::RunRecord;

/// The fact about a model's training that says how long its average is.
const LENGTH: &str = "average_length";
/// Many times the size of a U-Net's weights, in bytes.
const LARGEST: u64 = 64 << 30;

/// Writes the average of this length after `steps` training steps.
///
/// # Errors
/// [`TrainError::Run`] if it cannot be written.
pub(crate) fn keep(
    folder: &Path,
    average: &UNet2d,
    steps: usize,
    length: f64,
) -> Result<(), TrainError> {
    std::fs::create_dir_all(folder).map_err(TrainError::file("create", folder))?;
    let path = folder.join(format!("step-{steps:07}-length-{length}.safetensors"));
    let facts = facts(steps as u64, length).map(|(key, value)| (key.to_owned(), value));
    let facts = BTreeMap::from(facts);
    save_weights(average, &path, WeightsType::F32, &facts)
        .map_err(|problem| TrainError::Run(problem.to_string()))
}

/// What the header of a file says about the average in it.
fn facts(steps: u64, length: f64) -> [(&'static str, String); 2] {
    [
        ("kiln.steps", steps.to_string()),
        ("kiln.length", length.to_string()),
    ]
}

/// A kept average.
#[derive(Debug, Clone)]
struct Kept {
    steps: u64,
    length: f64,
    profile: PowerAverage,
    path: PathBuf,
}

impl Kept {
    /// The average in the file at `path`, by its name.
    fn named(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".safetensors")?;
        let (steps, length) = name.strip_prefix("step-")?.split_once("-length-")?;
        let length = length.parse().ok()?;
        Some(Self {
            steps: steps.parse().ok()?,
            length,
            profile: PowerAverage::of_length(length)?,
            path,
        })
    }
}

/// All kept averages, by step.
fn kept_in(folder: &Path) -> Vec<Kept> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut kept: Vec<Kept> = entries
        .filter_map(|entry| Kept::named(entry.path()))
        .collect();
    kept.sort_by(|one, other| one.path.cmp(&other.path));
    kept
}

/// The largest [`PowerAverage::misfit`] of a sum that may pass for an average.
const MOST_MISFIT: f64 = 0.25;

impl RunRecord {
    /// The model of the run in the folder `run` with the average of its weights of this `length`, a share of the steps, in
    /// place of the one that its training chose: after all steps, or after `steps` (post-hoc EMA, Karras et al. 2024).
    ///
    /// # Errors
    /// [`TrainError::Run`] if the run has no model yet, kept no averages, or not up to that step; for a length that no such
    /// average has, or that no sum of the kept ones comes near to; and for a file that cannot be read.
    pub fn averaged(
        run: &Path,
        length: f64,
        steps: Option<usize>,
        device: &Device,
    ) -> Result<DiffusionModel, TrainError> {
        let refuse = |problem: String| Err(TrainError::Run(problem));
        if !run.is_dir() {
            return refuse(format!("there is no run folder {}", run.display()));
        }
        let folder = RunFolder::new(run).stage_2();
        let kept = kept_in(&folder.averages());
        let Some(last) = kept.last().map(|kept| kept.steps) else {
            return refuse(format!(
                "{} keeps no averages to make others of: train it with --set stage_2.power_averages=[0.05,0.10]",
                run.display()
            ));
        };
        let lengths: BTreeSet<String> = kept.iter().map(|kept| kept.length.to_string()).collect();
        for of_step in kept.chunk_by(|one, other| one.steps == other.steps) {
            if of_step.len() < lengths.len() {
                return refuse(format!(
                    "an average of step {} is missing in {}: restore it, or remove the others of that step, too",
                    of_step[0].steps,
                    folder.averages().display()
                ));
            }
        }
        let steps = steps.map_or(last, |steps| steps as u64);
        if !(1..=last).contains(&steps) {
            return refuse(format!(
                "the averages in {} are of steps up to {last}, so the step must lie between 1 and {last}",
                folder.averages().display()
            ));
        }
        let Some(wanted) = PowerAverage::of_length(length) else {
            return refuse(format!(
                "an average cannot have the length {length}: it is a share of the steps, above 0 and below {:.3}, such as 0.1",
                PowerAverage::PLAIN_MEAN
            ));
        };
        let profiles: Vec<_> = kept.iter().map(|kept| (kept.steps, kept.profile)).collect();
        let Some(factors) = wanted.factors(steps, &profiles) else {
            return refuse(format!(
                "the averages in {} do not determine another one: they are of the same length",
                folder.averages().display()
            ));
        };
        let misfit = wanted.misfit(steps, &profiles, &factors);
        if misfit > MOST_MISFIT {
            let lengths: Vec<String> = lengths.into_iter().collect();
            return refuse(format!(
                "no sum of the averages in {} comes near one of length {length} after step {steps} (the nearest misses it by {:.0}%): choose a length nearer to {}, or a step of which averages were kept",
                folder.averages().display(),
                100.0 * misfit,
                lengths.join(" and ")
            ));
        }
        let mut sum = Sum::default();
        for (kept, factor) in kept.iter().zip(factors) {
            sum.add(kept, factor)?;
        }
        let source = ModelSource::Folder(folder.start());
        let mut model = DiffusionModel::load(&source, device)?;
        model.unet = sum.into_network(model.unet)?;
        // The guide of a teacher is for its student's training.
        model.guide = None;
        let facts = &mut model.metadata.training;
        facts.insert("steps".to_owned(), steps.to_string());
        facts.insert(LENGTH.to_owned(), length.to_string());
        debug_assert_eq!(steps_in(facts), Some(steps as usize));
        Ok(model)
    }
}

/// A weighted sum of files of weights.
#[derive(Default)]
struct Sum(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Sum {
    /// Adds `factor` times the weights of an average.
    fn add(&mut self, kept: &Kept, factor: f64) -> Result<(), TrainError> {
        let path = &kept.path;
        let refuse = |problem: String| {
            TrainError::Run(format!(
                "the average in {} cannot be used: {problem}",
                path.display()
            ))
        };
        let bytes = read_regular(path, LARGEST).map_err(|problem| refuse(problem.to_string()))?;
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|problem| refuse(problem.to_string()))?;
        let header = header.metadata().clone().unwrap_or_default();
        for (key, expected) in facts(kept.steps, kept.length) {
            // Files of kiln before it wrote them have none.
            if let Some(found) = header.get(key).filter(|found| **found != expected) {
                return Err(refuse(format!(
                    "its name is of another one, because it says {key} = {found}"
                )));
            }
        }
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|problem| refuse(problem.to_string()))?;
        for (name, tensor) in tensors.iter() {
            if tensor.dtype() != Dtype::F32 {
                return Err(refuse(format!(
                    "its `{name}` is of the type {:?}",
                    tensor.dtype()
                )));
            }
            let values = tensor.data().chunks_exact(4).map(|bytes| {
                let bytes = bytes.try_into().unwrap_or_default();
                factor * f64::from(f32::from_le_bytes(bytes))
            });
            let shape = tensor.shape().to_vec();
            match self.0.get_mut(name) {
                None => {
                    self.0.insert(name.to_owned(), (shape, values.collect()));
                }
                Some((known, sum)) if *known == shape => {
                    sum.iter_mut()
                        .zip(values)
                        .for_each(|(sum, value)| *sum += value);
                }
                Some(_) => {
                    return Err(refuse(format!(
                        "its `{name}` has another shape than the others'"
                    )));
                }
            }
        }
        Ok(())
    }

    /// `network` with these weights.
    fn into_network(self, network: UNet2d) -> Result<UNet2d, TrainError> {
        let encoded: Vec<(String, Vec<usize>, Vec<u8>)> = (self.0.into_iter())
            .map(|(name, (shape, values))| {
                let bytes = values
                    .iter()
                    .flat_map(|&value| (value as f32).to_le_bytes());
                (name, shape, bytes.collect())
            })
            .collect();
        let refuse = |problem: String| {
            TrainError::Run(format!("the kept averages do not fit the model: {problem}"))
        };
        let views = encoded.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            view.map(|view| (name, view))
        });
        let views = views.collect::<Result<Vec<_>, _>>();
        let views = views.map_err(|problem| refuse(problem.to_string()))?;
        load_weights_from_tensors(network, views).map_err(|problem| refuse(problem.to_string()))
    }
}
