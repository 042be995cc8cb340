//! The adversarial terms, and the training of their discriminator.

use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use kiln_models::Discriminator;

use super::augmentation::Augmentation;
use super::term::{Reconstructed, Term, Weighted};
use crate::experiment::{AdversarialConfig, TermWeight, TrainingConfig};
use crate::learner::moving_means::MovingMeans;
use crate::learner::plan::Plan;
use crate::learner::report::{MetricKind, Reading};
use crate::learner::session::Session;
use crate::learner::update::{Averaged, Update};
use crate::run_folder::discriminator::with_weights_in;

/// The share of the old value that LeCam's averages of the scores keep at each step.
const DECAY: f64 = 0.999;

const ADVERSARIAL: MetricKind = MetricKind::new("adversarial", Reading::Mean).sometimes();
const FEATURE_MATCHING: MetricKind = MetricKind::new("feature matching", Reading::Mean).sometimes();
/// The discriminator's hinge loss.
const DISCRIMINATOR: MetricKind = MetricKind::new("discriminator", Reading::Mean).sometimes();
const SCORE_OF_IMAGES: MetricKind = MetricKind::new("score of images", Reading::Mean)
    .sometimes()
    .higher_is_better();
const SCORE_OF_RECONSTRUCTIONS: MetricKind =
    MetricKind::new("score of reconstructions", Reading::Mean)
        .sometimes()
        .higher_is_better();
/// The percentage of patches, half of them of images, that the discriminator takes for what they are.
const ACCURACY: MetricKind = MetricKind::new("discriminator accuracy", Reading::Mean)
    .sometimes()
    .in_unit("%");

/// The constant parts of the adversarial terms.
#[derive(Debug)]
pub(super) struct Adversarial {
    config: AdversarialConfig,
    /// The settings of the discriminator's optimizer.
    training: TrainingConfig,
    /// The discriminator's learning rate in units of the autoencoder's.
    rate: f64,
    /// The step at which the discriminator begins to learn.
    learns_from: usize,
    /// The step at which its judgement begins to count.
    counts_from: usize,
    /// The steps over which its weight rises.
    ramp: usize,
    /// The file of initial weights for the discriminator.
    initial_weights: Option<PathBuf>,
}

/// The discriminator in training.
#[derive(Module, Debug)]
pub(crate) struct Adversary {
    discriminator: Averaged<Discriminator>,
    /// The mean logits of images and of reconstructions, for LeCam.
    scores: MovingMeans,
}

impl Adversary {
    pub(super) fn into_discriminator(self) -> Discriminator {
        self.discriminator.into_best()
    }
}

impl Adversarial {
    pub(super) fn new(
        config: &AdversarialConfig,
        stage_1: &TrainingConfig,
        initial_weights: Option<PathBuf>,
    ) -> Self {
        let training = config.training(stage_1);
        let counts_from = config.start.of(stage_1.steps);
        Self {
            rate: training.learning_rate / stage_1.learning_rate,
            learns_from: counts_from.saturating_sub(config.head_start.of(stage_1.steps)),
            counts_from,
            ramp: config.ramp.of(stage_1.steps),
            training,
            initial_weights,
            config: config.clone(),
        }
    }

    /// A discriminator that has learnt nothing, or with its initial weights. If they are of another network, it warns.
    pub(super) fn adversary(
        &self,
        image_channels: usize,
        plan: &Plan,
        session: &Session,
        device: &Device,
    ) -> Adversary {
        let mut discriminator =
            (self.config.discriminator).init(image_channels, device, plan.seed());
        if let Some(path) = &self.initial_weights {
            match with_weights_in(path, discriminator.clone()) {
                Ok(trained) => discriminator = trained,
                Err(problem) => tracing::warn!(
                    "the discriminator begins with random weights, because those in {} do not fit it: {problem}",
                    path.display()
                ),
            }
        }
        Adversary {
            discriminator: Averaged::new(
                discriminator,
                &self.training,
                plan.round(),
                session.clone(),
            ),
            scores: MovingMeans::new(2, device),
        }
    }

    /// The weights of [`Judged::terms`].
    pub(super) fn weights(&self) -> impl Iterator<Item = TermWeight> {
        let matching = Some(self.config.feature_matching).filter(|weight| !weight.is_zero());
        [Some(self.config.weight), matching].into_iter().flatten()
    }

    pub(super) fn metrics(&self) -> impl Iterator<Item = MetricKind> {
        let matching = !self.config.feature_matching.is_zero();
        let of_terms = [Some(ADVERSARIAL), matching.then_some(FEATURE_MATCHING)];
        let of_discriminator = [
            DISCRIMINATOR,
            SCORE_OF_IMAGES,
            SCORE_OF_RECONSTRUCTIONS,
            ACCURACY,
        ];
        of_terms.into_iter().flatten().chain(of_discriminator)
    }

    /// The discriminator's judgement; `None` until it learns.
    pub(super) fn judged(&self, adversary: &Adversary, of: &Reconstructed<'_>) -> Option<Judged> {
        if of.step < self.learns_from {
            return None;
        }
        let wanted = &self.config.augmentation;
        let changes = (of.position.filter(|_| !wanted.is_empty())).map(|position| {
            Augmentation::draw(wanted, of.images.dims(), position, &of.images.device())
        });
        let discriminator = &adversary.discriminator.network;
        let real = discriminator.forward(changed(&changes, of.images));
        let given_back = changed(&changes, &of.reconstructions.clone().without_autodiff());
        let fake = discriminator.forward(given_back).logits;
        let (images, real) = (real.features, real.logits);

        // L_D = (mean relu(1 - D(x)) + mean relu(1 + D(x'))) / 2
        let hinge = (relu(1.0 - real.clone()).mean() + relu(fake.clone() + 1.0).mean()) * 0.5;
        let scores = [&real, &fake].map(|logits| logits.clone().without_autodiff().mean());
        let loss = match self.config.lecam {
            0.0 => hinge.clone(),
            weight => hinge.clone() + lecam(&real, &fake, adversary.scores.means()) * weight,
        };
        let share = |right: burn::tensor::Tensor<3, burn::tensor::Bool>| right.float().mean();
        let right = (share(real.without_autodiff().greater_elem(0.0))
            + share(fake.without_autodiff().lower_elem(0.0)))
            * 50.0;
        let [count, ..] = of.images.dims();
        let [of_images, of_reconstructions] = scores.clone();
        let frozen = discriminator.valid();
        let counts = of.step >= self.counts_from;
        let rise = (of.step + 1).saturating_sub(self.counts_from) as f64;
        Some(Judged {
            loss,
            carried: of
                .position
                .map(|_| adversary.scores.carry(scores.map(Some).into(), count)),
            logged: vec![
                (DISCRIMINATOR.name, hinge.without_autodiff()),
                (SCORE_OF_IMAGES.name, of_images),
                (SCORE_OF_RECONSTRUCTIONS.name, of_reconstructions),
                (ACCURACY.name, right),
            ],
            ramp: (rise / self.ramp.max(1) as f64).min(1.0),
            terms: match counts {
                true => self.terms(frozen, changes, images),
                false => Vec::new(),
            },
        })
    }

    fn terms(
        &self,
        discriminator: Discriminator,
        changes: Option<Augmentation>,
        features: Vec<Tensor<4>>,
    ) -> Vec<(Box<dyn Term>, TermWeight)> {
        let verdict = Verdict {
            discriminator: discriminator.clone(),
            changes: changes.clone(),
        };
        let matching = FeatureMatching {
            features: features.into_iter().map(Tensor::without_autodiff).collect(),
            discriminator,
            changes,
        };
        let terms: [Box<dyn Term>; 2] = [Box::new(verdict), Box::new(matching)];
        terms.into_iter().zip(self.weights()).collect()
    }

    /// The discriminator after an update.
    pub(super) fn updated(&self, adversary: Adversary, update: &mut Update<'_>) -> Adversary {
        let Adversary {
            discriminator,
            scores,
        } = adversary;
        let scores = scores.updated(DECAY, &mut update.gradients);
        let own = update.of(&discriminator.network, self.rate);
        Adversary {
            discriminator: discriminator.updated(own),
            scores,
        }
    }
}

/// LeCam regularisation: `mean relu(D(x) - a_fake)^2 + mean relu(a_real - D(x'))^2`, where a_real and a_fake are moving
/// averages of the mean logits (Tseng et al. 2021, equation 3, with the one-sided distances of its released code).
fn lecam(real: &Tensor<3>, fake: &Tensor<3>, averages: Tensor<1>) -> Tensor<1> {
    let [average_real, average_fake] =
        [0, 1].map(|row| averages.clone().narrow(0, row, 1).reshape([1, 1, 1]));
    let of_real = relu(real.clone() - average_fake).square().mean();
    of_real + relu(average_real - fake.clone()).square().mean()
}

/// The discriminator's judgement of a batch.
pub(super) struct Judged {
    /// The discriminator's own loss, `[1]`, with gradients for it alone.
    pub(super) loss: Tensor<1>,
    pub(super) carried: Option<Tensor<1>>,
    pub(super) logged: Vec<(&'static str, Tensor<1>)>,
    ramp: f64,
    terms: Vec<(Box<dyn Term>, TermWeight)>,
}

impl Judged {
    /// The autoencoder's terms; none before they count.
    pub(super) fn terms(&self) -> impl Iterator<Item = Weighted<'_>> {
        self.terms.iter().map(|(term, weight)| Weighted {
            term: term.as_ref(),
            weight: *weight,
            ramp: self.ramp,
        })
    }
}

/// `-mean D(x')`: how far the discriminator is from taking the reconstructions for images.
#[derive(Debug)]
struct Verdict {
    discriminator: Discriminator,
    changes: Option<Augmentation>,
}

impl Term for Verdict {
    fn name(&self) -> &'static str {
        ADVERSARIAL.name
    }

    fn is_a_measure(&self) -> bool {
        false
    }

    fn between(&self, _images: &Tensor<4>, reconstructions: &Tensor<4>) -> Tensor<1> {
        let seen = changed(&self.changes, reconstructions);
        self.discriminator.forward(seen).logits.mean().neg()
    }
}

/// The mean over layers of `mean |D_l(x) - D_l(x')|`.
#[derive(Debug)]
struct FeatureMatching {
    discriminator: Discriminator,
    changes: Option<Augmentation>,
    /// Of the images.
    features: Vec<Tensor<4>>,
}

impl Term for FeatureMatching {
    fn name(&self) -> &'static str {
        FEATURE_MATCHING.name
    }

    fn is_a_measure(&self) -> bool {
        false
    }

    fn between(&self, _images: &Tensor<4>, reconstructions: &Tensor<4>) -> Tensor<1> {
        let seen = changed(&self.changes, reconstructions);
        let features = self.discriminator.forward(seen).features;
        let layers = features.len() as f64;
        let pairs = features.into_iter().zip(&self.features);
        let distances = pairs.map(|(own, of_image)| (own - of_image.clone()).abs().mean());
        let sum = distances.reduce(|sum, distance| sum + distance);
        sum.map_or_else(
            || Tensor::zeros([1], &reconstructions.device()),
            |sum| sum / layers,
        )
    }
}

fn changed(changes: &Option<Augmentation>, images: &Tensor<4>) -> Tensor<4> {
    match changes {
        Some(changes) => changes.apply(images.clone()),
        None => images.clone(),
    }
}
