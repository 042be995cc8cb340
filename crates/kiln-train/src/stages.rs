//! The functions of `kiln train-vqvae`, `kiln train-latent-diffusion`, `kiln train-diffusion` and `kiln
//! train-classifier`.

use kiln_data::Progress;
use kiln_eval::{DigitClassifier, ImageClassifier};

use crate::classifier::stage::ClassifierStage;
use crate::denoising::stage::Stage2;
use crate::error::TrainError;
use crate::experiment::{ClassifierExperiment, Experiment};
use crate::first_stage::stage::Stage1;
use crate::script::options::RunOptions;
use crate::script::train;
use crate::script::training_report::TrainingReport;

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
