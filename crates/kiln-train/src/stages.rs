//! The functions of `kiln train-vqvae`, `kiln train-latent-diffusion`, `kiln train-diffusion` and `kiln
//! train-classifier`, and of `kiln check`, which looks at them before they start.

use kiln_checkpoint::{FirstStage, Metadata};
use kiln_data::{Datasets, Progress};
use kiln_eval::{DigitClassifier, ImageClassifier};
use kiln_models::WeightsType;
use kiln_pipeline::Devices;

use crate::classifier::network::Classifier;
use crate::classifier::stage::ClassifierStage;
use crate::denoising::stage::Stage2;
use crate::error::TrainError;
use crate::experiment::{ClassifierExperiment, Experiment};
use crate::first_stage::stage::Stage1;
use crate::run_folder::RunFolder;
use crate::script::options::RunOptions;
use crate::script::outlook::{Outlook, Preview, outlook, pace};
use crate::script::training_report::TrainingReport;
use crate::script::{Stage, train};

/// Trains stage 1 and writes the autoencoder to `vqvae/model` in the run folder.
///
/// # Errors
/// [`TrainError`] in one sentence. Written checkpoints stay.
pub fn train_vqvae(
    experiment: &Experiment,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    train(&Stage1::of(experiment)?, options, progress)
}

/// Trains stage 2 on the latents of a trained VQ-VAE and writes the whole model to `model` in the run folder.
///
/// # Errors
/// [`TrainError`] in one sentence. Written checkpoints stay.
pub fn train_latent_diffusion(
    experiment: &Experiment,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    if experiment.first_stage.is_none() {
        return Err(TrainError::NoFirstStage);
    }
    train(&Stage2::of(experiment), options, progress)
}

/// Trains a U-Net on the images themselves and writes the model to `model` in the run folder.
///
/// # Errors
/// [`TrainError`] in one sentence. Written checkpoints stay.
pub fn train_diffusion(
    experiment: &Experiment,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    if experiment.first_stage.is_some() {
        return Err(TrainError::InLatentSpace);
    }
    train(&Stage2::of(experiment), options, progress)
}

/// Trains a classifier and writes its weights to `model.safetensors` in the run folder, as 16-bit numbers.
///
/// # Errors
/// [`TrainError`] in one sentence. Written checkpoints stay.
pub fn train_classifier(
    experiment: &ClassifierExperiment,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    match experiment.classifier {
        None => train(
            &ClassifierStage::<DigitClassifier>::of(experiment),
            options,
            progress,
        ),
        Some(_) => train(
            &ClassifierStage::<ImageClassifier>::of(experiment),
            options,
            progress,
        ),
    }
}

/// The most images that are encoded to time steps of latent diffusion, unless a step has more.
const ENCODED: usize = 64;

/// The estimated peak memory of an experiment's larger training, in bytes, without its images; `None` if there is no
/// estimate, as on a GPU. It looks at no data, and refuses nothing.
///
/// # Errors
/// If a network cannot be built.
pub fn memory_of_training(
    experiment: &Experiment,
    devices: &Devices,
) -> Result<Option<f64>, TrainError> {
    let second = Stage2::of(experiment).memory(devices)?;
    let first = match experiment.first_stage {
        Some(_) => Stage1::of(experiment)?.memory(devices)?,
        None => None,
    };
    Ok(first.into_iter().chain(second).reduce(f64::max))
}

/// What stage 1 will be like. Its steps are timed where all terms of its objective count: late in the training.
///
/// # Errors
/// Those with which [`train_vqvae`] would be refused.
pub fn preview_vqvae(
    experiment: &Experiment,
    preview: &Preview,
    progress: &dyn Progress,
) -> Result<Outlook, TrainError> {
    let stage = Stage1::of(experiment)?;
    let expected = outlook(&stage, preview)?;
    let late = expected.steps / 4 * 3;
    let images = || Ok(preview.datasets.clone());
    let pace = pace(&stage, preview, images, late, |_| Ok(()), progress)?;
    Ok(Outlook { pace, ..expected })
}

/// What the training of the U-Net will be like, in latents, in pixel space, or as a student of [`Preview::teacher`].
///
/// In latents, steps are timed on those of a few images. The first stage is the teacher's, or has random weights. Features
/// of images (`[stage_2.evaluation]`) are not computed.
///
/// # Errors
/// Those with which [`train_latent_diffusion`] or [`train_diffusion`] would be refused.
pub fn preview_diffusion(
    experiment: &Experiment,
    preview: &Preview,
    progress: &dyn Progress,
) -> Result<Outlook, TrainError> {
    let expected = outlook(&Stage2::of(experiment), preview)?;
    let mut timed = experiment.clone();
    timed.stage_2.evaluation = None;
    let images = || match &experiment.first_stage {
        None => Ok(preview.datasets.clone()),
        Some(_) => Ok(Datasets {
            train: (preview.datasets.train).excerpt(expected.step_images.max(ENCODED))?,
            validation: preview.datasets.validation.excerpt(ENCODED)?,
        }),
    };
    let furnish = |run: &RunFolder| match &experiment.first_stage {
        Some(config) if preview.teacher.is_none() => {
            let device = preview.devices.first();
            let first_stage = FirstStage {
                network: config.network.init(&device, experiment.seed)?,
                metadata: Metadata::default(),
            };
            Ok(first_stage.save(&run.stage_1().model(), WeightsType::F32)?)
        }
        _ => Ok(()),
    };
    let pace = pace(&Stage2::of(&timed), preview, images, 0, furnish, progress)?;
    Ok(Outlook { pace, ..expected })
}

/// What the training of a classifier will be like.
///
/// # Errors
/// Those with which [`train_classifier`] would be refused.
pub fn preview_classifier(
    experiment: &ClassifierExperiment,
    preview: &Preview,
    progress: &dyn Progress,
) -> Result<Outlook, TrainError> {
    match experiment.classifier {
        None => preview_classifier_of::<DigitClassifier>(experiment, preview, progress),
        Some(_) => preview_classifier_of::<ImageClassifier>(experiment, preview, progress),
    }
}

fn preview_classifier_of<C: Classifier>(
    experiment: &ClassifierExperiment,
    preview: &Preview,
    progress: &dyn Progress,
) -> Result<Outlook, TrainError> {
    let stage = ClassifierStage::<C>::of(experiment);
    let expected = outlook(&stage, preview)?;
    let images = || Ok(preview.datasets.clone());
    let pace = pace(&stage, preview, images, 0, |_| Ok(()), progress)?;
    Ok(Outlook { pace, ..expected })
}
