//! Stage 1: the autoencoder learns to compress images into latents.

pub(crate) mod diagnosis;
mod equivariance;
mod kmeans;
pub(crate) mod objective;
mod posterior_noise;
mod source;
pub(crate) mod stage;

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_models::BatchPosition;
use kiln_models::bottleneck::vq::{CodebookConfig, CodebookTraining};
use kiln_models::bottleneck::{Bottleneck, Passed};
use kiln_models::{Autoencoder, ConfigError, Discriminator};
use kiln_pipeline::pictures::{Images, columns_for, grid, save_png};

use self::equivariance::Change;
use self::objective::perceptual::PERCEPTUAL;
use self::objective::{ObjectiveState, Reconstructed, psnr, sum};
use self::posterior_noise::posterior_noise;
use crate::error::TrainError;
use crate::experiment::{EquivarianceConfig, FirstStageConfig};
use crate::learner::losses::Losses;
use crate::learner::plan::Plan;
use crate::learner::recipe::{Recipe, Trainee};
use crate::learner::report::{MetricKind, Reading, StepReport};
use crate::learner::session::Session;
use crate::learner::update::{Averaged, Update};
use crate::run_folder::StageFolder;

pub(crate) use self::kmeans::with_kmeans_codes;
pub(crate) use self::objective::Objective;
pub(crate) use self::source::{ImageSource, ImageTensors, ValidationImages};

/// Images in a picture of reconstructions.
const PICTURED: usize = 32;

const PSNR: MetricKind = MetricKind::new("psnr", Reading::Mean)
    .in_unit("dB")
    .higher_is_better();
const PERPLEXITY: MetricKind =
    MetricKind::new("perplexity", Reading::Perplexity).higher_is_better();
const CODES_IN_USE: MetricKind = MetricKind::new("codes in use", Reading::CodesInUse)
    .in_unit("%")
    .higher_is_better();

/// What stage 1 logs of an autoencoder with this bottleneck.
pub(crate) fn metrics(objective: &Objective, bottleneck: &Bottleneck) -> Vec<MetricKind> {
    let mut metrics = objective.metrics(bottleneck);
    metrics.push(PSNR);
    if bottleneck.codes().is_some() {
        metrics.extend([PERPLEXITY, CODES_IN_USE]);
    }
    metrics
}

/// The same, before anything is loaded or allocated.
pub(crate) fn metrics_by_config(config: &FirstStageConfig) -> Result<Vec<MetricKind>, ConfigError> {
    let side = config.network.downscale_factor();
    let objective = Objective::new(config, side, None, None);
    let network = config.network.without_values()?;
    let perceptual = config.stage_1.perceptual().map(|_| PERCEPTUAL);
    let known = metrics(&objective, &network.bottleneck);
    Ok(known.into_iter().chain(perceptual).collect())
}

/// The trained networks of stage 1.
#[derive(Module, Debug)]
pub(crate) struct FirstStageNetworks {
    /// Of either kind: checkpoints have this name.
    vqvae: Averaged<Autoencoder>,
    codebook: Option<CodebookTraining>,
    objective: ObjectiveState,
}

/// The constant parts of stage 1's training.
#[derive(Debug)]
pub(crate) struct FirstStageRecipe {
    objective: Objective,
    equivariance: Option<EquivarianceConfig>,
    codebook: CodebookConfig,
    folder: StageFolder,
    session: Session,
    border: usize,
}

/// Stage 1 of `network`, as described by `first_stage`, on images with a `border`.
pub(crate) fn trainee(
    first_stage: &FirstStageConfig,
    objective: Objective,
    mut network: Autoencoder,
    border: usize,
    plan: &Plan,
    folder: StageFolder,
    session: Session,
) -> Trainee<FirstStageRecipe> {
    let FirstStageConfig {
        codebook, stage_1, ..
    } = first_stage;
    let training = &stage_1.training;
    network.bottleneck = network.bottleneck.prepared(codebook);
    let update = network.bottleneck.codebook_update(codebook.update);
    let vectors = network.bottleneck.codebook();
    let (channels, device) = (network.config().in_channels(), network.devices()[0].clone());
    let networks = FirstStageNetworks {
        objective: objective.state(channels, plan, &session, &device),
        codebook: vectors.map(|vectors| CodebookTraining::new(codebook, vectors)),
        vqvae: Averaged::new(network, training, plan.round(), session.clone()),
    };
    let recipe = FirstStageRecipe {
        objective: objective.with_codes_moved_by(update),
        equivariance: stage_1.equivariance,
        codebook: (*codebook).clone(),
        folder,
        session: session.clone(),
        border,
    };
    Trainee::new(recipe, networks, training, plan, session)
}

impl FirstStageNetworks {
    /// The trained autoencoder, and the discriminator that judged it, if there was one.
    pub(crate) fn into_trained(self) -> (Autoencoder, Option<Discriminator>) {
        let mut network = self.vqvae.into_best();
        network.bottleneck = network.bottleneck.finished();
        (network, self.objective.into_discriminator())
    }
}

impl Recipe for FirstStageRecipe {
    type Networks = FirstStageNetworks;
    type Batch = ImageTensors;
    type Validation = ValidationImages;

    fn losses(&self, networks: &FirstStageNetworks, batch: ImageTensors) -> Losses {
        let ImageTensors {
            images,
            step,
            position,
        } = batch;
        let network = &networks.vqvae.network;
        let encoded = network.encoded(images.clone());
        let noise = posterior_noise(network, &encoded, &position);
        let passed = network.bottleneck.pass(encoded.clone(), noise);
        let (images, latents) = self.changed(network, images, &encoded, &passed, &position);
        let reconstructions = network.decode_passed(latents);
        let terms = (self.objective).terms(
            &networks.objective,
            &Reconstructed {
                images: &images,
                reconstructions: &reconstructions,
                passed: &passed,
                step,
                position: Some(position),
            },
        );

        let code_counts = (passed.codes.clone()).and_then(|codes| network.bottleneck.counts(codes));
        let mut carried = terms.carried;
        if let (Some(codes), Some(codebook)) = (passed.codes, &networks.codebook) {
            // The statistics travel as gradients, so the code that sums gradients over devices also sums them.
            let statistics = (network.bottleneck).statistics(encoded, codes, position);
            carried = sum(
                carried,
                statistics.map(|statistics| codebook.carry(statistics)),
            );
        }
        Losses {
            total: terms.total,
            carried,
            report: report(step, images, reconstructions, terms.logged, code_counts),
        }
    }

    fn updated(
        &self,
        mut networks: FirstStageNetworks,
        mut update: Update<'_>,
    ) -> FirstStageNetworks {
        let codebook = networks.codebook.as_ref();
        let statistics = codebook.and_then(|codebook| codebook.take(&mut update.gradients));
        networks.objective = (self.objective).updated(networks.objective, &mut update);
        networks.vqvae = networks.vqvae.updated(update);
        let bottleneck = networks.vqvae.network.bottleneck;
        let parts = (networks.codebook.clone(), statistics, bottleneck.codebook());
        networks.vqvae.network.bottleneck = match parts {
            (Some(codebook), Some(statistics), Some(vectors)) => {
                let (codebook, vectors) = codebook.update(&self.codebook, vectors, statistics);
                networks.codebook = Some(codebook);
                bottleneck.with_codebook(vectors)
            }
            _ => bottleneck,
        };
        networks
    }

    fn validate(&self, networks: &FirstStageNetworks, item: ValidationImages) -> StepReport {
        let ValidationImages {
            images,
            step,
            picture,
        } = item;
        let network = networks.vqvae.best();
        let (reconstructions, passed) = network.forward(images.clone(), None);
        let terms = (self.objective).terms(
            &networks.objective,
            &Reconstructed {
                images: &images,
                reconstructions: &reconstructions,
                passed: &passed,
                step,
                position: None,
            },
        );
        if picture && let Err(error) = self.draw(step, images.clone(), reconstructions.clone()) {
            self.session.fail(error);
        }
        let counts = (passed.codes).and_then(|codes| network.bottleneck.counts(codes));
        report(step, images, reconstructions, terms.logged, counts)
    }
}

/// The report of a step or a validation whose objective has the terms `logged`.
fn report(
    step: usize,
    images: Tensor<4>,
    reconstructions: Tensor<4>,
    logged: Vec<(&'static str, Tensor<1>)>,
    code_counts: Option<Tensor<1>>,
) -> StepReport {
    let [count, ..] = images.dims();
    let psnr = psnr(
        images.without_autodiff(),
        reconstructions.without_autodiff(),
    );
    let scalars = logged.into_iter().chain([(PSNR.name, psnr)]).collect();
    StepReport::new(step, count, scalars, code_counts)
}

impl FirstStageRecipe {
    /// The images, and what the decoder gets for them. In some steps both are scaled and rotated alike.
    fn changed(
        &self,
        network: &Autoencoder,
        images: Tensor<4>,
        encoded: &Tensor<4>,
        passed: &Passed,
        position: &BatchPosition,
    ) -> (Tensor<4>, Tensor<4>) {
        let [_, _, height, width] = passed.latents.dims();
        let factor = network.config().downscale_factor();
        let change = (self.equivariance.as_ref()).and_then(|config| {
            Change::draw(
                config,
                [height, width],
                factor,
                position.seed,
                position.step,
            )
        });
        let Some(change) = change else {
            return (images, passed.latents.clone());
        };
        let latents = network.bottleneck.before_quantization(encoded, passed);
        let latents = network.bottleneck.decodable(change.of_latents(latents));
        (change.of_images(images), latents)
    }

    /// Draws rows of originals, each over the row of their reconstructions.
    fn draw(
        &self,
        step: usize,
        images: Tensor<4>,
        reconstructions: Tensor<4>,
    ) -> Result<(), TrainError> {
        let [count, channels, height, width] = images.dims();
        let count = count.min(PICTURED);
        let columns = columns_for(2 * count).min(count);
        let mut pictured = Images::empty(channels, height, width);
        for first in (0..count).step_by(columns) {
            let range = first..(first + columns).min(count);
            for tensor in [&images, &reconstructions] {
                pictured.extend_from_tensor(tensor.clone().slice([range.clone()]))?;
            }
        }
        let path = self.folder.picture("reconstructions", step);
        Ok(save_png(
            &grid(&pictured.cropped(self.border), columns),
            &path,
        )?)
    }
}
