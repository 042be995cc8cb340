//! The objective of stage 1: a weighted sum of terms, each under its name.
//!
//! | file | terms |
//! | --- | --- |
//! | `term` | what a term is, and the reconstruction's distance |
//! | here | the terms of the bottleneck, and the sum of all |
//! | `perceptual` | the distance of features |
//! | `adversarial` | the discriminator's judgement, and feature matching |
//! | `balance` | none: the factors of terms with a balanced weight |
//!
//! For another term of images and reconstructions, implement [`Term`] in a file here and add it in [`Objective::new`].

mod adversarial;
mod augmentation;
mod balance;
pub(crate) mod perceptual;
mod psnr;
mod term;

use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_eval::PerceptualNetwork;
use kiln_models::Discriminator;
use kiln_models::bottleneck::Bottleneck;
use kiln_models::bottleneck::kl::KL;
use kiln_models::bottleneck::vq::{CODEBOOK, COMMITMENT, CodebookUpdate};

use self::adversarial::{Adversarial, Adversary};
use self::balance::Balance;
use self::perceptual::Perceptual;
use self::term::{Term, Weighted};
use crate::experiment::{FirstStageConfig, Stage1Config, TermWeight};
use crate::learner::plan::Plan;
use crate::learner::report::{LOSS, MetricKind, Reading};
use crate::learner::session::Session;
use crate::learner::update::Update;

pub(super) use self::psnr::psnr;
pub(super) use self::term::{Reconstructed, sum};

/// The constant parts of the first stage's objective.
#[derive(Debug)]
pub(crate) struct Objective {
    /// The first one is the reconstruction's distance.
    of_images: Vec<(Box<dyn Term>, TermWeight)>,
    /// The weights of the bottleneck's terms, by name.
    of_bottleneck: Vec<(&'static str, f64)>,
    adversarial: Option<Adversarial>,
    /// The identity of the frozen network that sees the images, if there is one.
    pub(crate) seen_by: Option<String>,
}

/// The parts of the objective that training changes. A checkpoint has them, a finished model has not.
#[derive(Module, Debug)]
pub(crate) struct ObjectiveState {
    adversary: Option<Adversary>,
    balance: Option<Balance>,
}

impl ObjectiveState {
    /// The discriminator, if there is one.
    pub(crate) fn into_discriminator(self) -> Option<Discriminator> {
        self.adversary.map(Adversary::into_discriminator)
    }
}

/// The objective's value and its terms: all `[1]`.
pub(crate) struct Terms {
    /// Minimised by the networks, with their gradients.
    pub(crate) total: Tensor<1>,
    /// Zero, with gradients that carry sums over the batch to the update.
    pub(crate) carried: Option<Tensor<1>>,
    /// What is logged, unweighted except for the loss, which comes first.
    pub(crate) logged: Vec<(&'static str, Tensor<1>)>,
}

impl Objective {
    /// The objective of a training on images of `side` pixels with its frozen network. The discriminator begins with the
    /// weights in the file `discriminator`, if there is one.
    pub(crate) fn new(
        first_stage: &FirstStageConfig,
        side: usize,
        perceptual_network: Option<PerceptualNetwork>,
        discriminator: Option<PathBuf>,
    ) -> Self {
        let Stage1Config {
            reconstruction,
            commitment,
            kl,
            training,
            ..
        } = &first_stage.stage_1;
        let mut of_images: Vec<(Box<dyn Term>, TermWeight)> =
            vec![(Box::new(*reconstruction), TermWeight::Fixed(1.0))];
        let mut seen_by = None;
        if let (Some(config), Some(network)) =
            (first_stage.stage_1.perceptual(), perceptual_network)
        {
            let term = Perceptual::new(network);
            seen_by = Some(term.identity.clone());
            of_images.push((Box::new(term), config.weight));
        }
        // The divergence is a sum over an image, and the distance a mean over its values.
        let values = first_stage.network.in_channels() * side * side;
        let of_bottleneck = [
            (COMMITMENT, *commitment),
            (KL, kl.map(|weight| weight / values as f64)),
        ];
        Self {
            of_images,
            seen_by,
            of_bottleneck: (of_bottleneck.into_iter())
                .filter_map(|(name, weight)| Some((name, weight?)))
                .collect(),
            adversarial: (first_stage.stage_1.adversarial())
                .map(|table| Adversarial::new(table, training, discriminator)),
        }
    }

    /// The objective of a training whose codes move by `update`. If a moving average moves them, the codebook's term is
    /// only logged.
    pub(crate) fn with_codes_moved_by(mut self, update: CodebookUpdate) -> Self {
        if update.is_by_gradient() {
            self.of_bottleneck.push((CODEBOOK, 1.0));
        }
        self
    }

    /// The state before the first step, on the device of the autoencoder.
    pub(crate) fn state(
        &self,
        image_channels: usize,
        plan: &Plan,
        session: &Session,
        device: &Device,
    ) -> ObjectiveState {
        ObjectiveState {
            adversary: (self.adversarial.as_ref())
                .map(|settings| settings.adversary(image_channels, plan, session, device)),
            balance: Balance::of(&self.weights(), device),
        }
    }

    /// The weights of the terms of images, in the order of [`Self::terms`].
    fn weights(&self) -> Vec<TermWeight> {
        let constant = self.of_images.iter().map(|(_, weight)| *weight);
        let adversarial = self.adversarial.iter().flat_map(Adversarial::weights);
        constant.chain(adversarial).collect()
    }

    /// What is logged of an autoencoder with this bottleneck, in the order of [`Terms::logged`].
    pub(crate) fn metrics(&self, bottleneck: &Bottleneck) -> Vec<MetricKind> {
        let of_images = self.of_images.iter().map(|(term, _)| term.name());
        let of_bottleneck = bottleneck.term_names().iter().copied();
        let mean = |name| MetricKind::new(name, Reading::Mean);
        let mut metrics: Vec<_> = [LOSS].into_iter().chain(of_images).map(mean).collect();
        metrics.extend(of_bottleneck.map(mean));
        metrics.extend(self.adversarial.iter().flat_map(Adversarial::metrics));
        metrics
    }

    /// The terms for the images of a step or of a validation.
    ///
    /// With a codebook and a distance alone `L = distance(x, x') + |sg[z] - e|^2 + beta |z - sg[e]|^2` (van den Oord et
    /// al. 2017, equation 3), without the second term if a moving average moves the codes. With a posterior and a distance
    /// alone `L = distance(x, x') + weight KL(q(z|x) || N(0, 1)) / values`: latent diffusion's `sum (x - x')^2 + weight KL`
    /// (Rombach et al. 2022, appendix G) divided by the number of values in an image.
    pub(crate) fn terms(&self, state: &ObjectiveState, of: &Reconstructed<'_>) -> Terms {
        let judged = (self.adversarial.as_ref())
            .zip(state.adversary.as_ref())
            .and_then(|(settings, adversary)| settings.judged(adversary, of));
        let constant = self.of_images.iter().map(|(term, weight)| Weighted {
            term: term.as_ref(),
            weight: *weight,
            ramp: 1.0,
        });
        let of_discriminator = judged.iter().flat_map(|judged| judged.terms());
        let weighted: Vec<_> = constant.chain(of_discriminator).collect();
        let combined = balance::combined(&weighted, state.balance.as_ref(), of);

        let (mut total, mut loss) = (combined.total, combined.loss);
        for &(name, weight) in &self.of_bottleneck {
            if let Some(term) = of.passed.term(name)
                && weight != 0.0
            {
                total = total + term.clone() * weight;
                loss = loss + term.without_autodiff() * weight;
            }
        }
        let mut logged = vec![(LOSS, loss)];
        logged.extend(combined.terms);
        logged.extend(of.passed.terms.iter().cloned());
        let mut carried = combined.carried;
        if let Some(judged) = judged {
            total = total + judged.loss;
            carried = sum(carried, judged.carried);
            logged.extend(judged.logged);
        }
        Terms {
            total,
            carried,
            logged,
        }
    }

    /// The state after an update, by the gradients of the whole step.
    pub(crate) fn updated(
        &self,
        mut state: ObjectiveState,
        update: &mut Update<'_>,
    ) -> ObjectiveState {
        state.balance = state.balance.map(|balance| balance.updated(update));
        if let Some(settings) = &self.adversarial {
            state.adversary =
                (state.adversary).map(|adversary| settings.updated(adversary, update));
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use kiln_models::bottleneck::vq::VectorQuantizer;

    use super::*;
    use crate::experiment::Experiment;
    use crate::learner::session::StopSignal;

    const MNIST: &str = include_str!("../../../../../configs/mnist.toml");

    #[test]
    fn every_term_is_a_metric() {
        let adversarial = "stage_1.adversarial={ weight = 1.0, feature_matching = 1.0, start = 3, head_start = 1 }";
        for (overrides, step, missing) in [
            (vec![], 0, 0),
            (vec![adversarial.to_owned()], 5, 0),
            // The discriminator learns, but does not count yet.
            (vec![adversarial.to_owned()], 2, 2),
        ] {
            let experiment = Experiment::parse(MNIST, "mnist.toml", &overrides).unwrap();
            let first_stage = experiment.first_stage.unwrap();
            let device = Device::flex();
            let objective = Objective::new(&first_stage, 32, None, None);
            let session = Session::new(0, StopSignal::default());
            let plan = Plan::new(&first_stage.stage_1.training, 8, 1, 0);
            let bottleneck = Bottleneck::Vq(VectorQuantizer::new(3, 2, &device));
            let images = Tensor::<4>::zeros([1, 1, 32, 32], &device);
            let terms = objective.terms(
                &objective.state(1, &plan, &session, &device),
                &Reconstructed {
                    images: &images,
                    reconstructions: &images,
                    passed: &bottleneck.pass(Tensor::zeros([1, 2, 2, 2], &device), None),
                    step,
                    position: None,
                },
            );
            let logged: Vec<_> = terms.logged.into_iter().map(|(name, _)| name).collect();
            let metrics = objective.metrics(&bottleneck);
            let metrics: Vec<_> = metrics.iter().map(|metric| metric.name).collect();
            assert!(
                logged.iter().all(|name| metrics.contains(name)),
                "{logged:?}"
            );
            assert_eq!(
                metrics.len() - logged.len(),
                missing,
                "{logged:?} {metrics:?}"
            );
        }
    }

    #[test]
    fn a_weight_of_zero_turns_a_term_off() {
        let names = |overrides: &[&str]| {
            let overrides: Vec<_> = overrides.iter().map(ToString::to_string).collect();
            let experiment = Experiment::parse(MNIST, "mnist.toml", &overrides).unwrap();
            let first_stage = experiment.first_stage.unwrap();
            assert!(first_stage.stage_1.perceptual().is_none());
            let bottleneck = Bottleneck::Vq(VectorQuantizer::new(3, 2, &Device::flex()));
            let metrics = Objective::new(&first_stage, 32, None, None).metrics(&bottleneck);
            let names = metrics.iter().map(|metric| metric.name);
            names.collect::<Vec<_>>()
        };
        let plain = names(&[]);
        let off = [
            "stage_1.adversarial={ weight = { balanced = 0.0 } }",
            "stage_1.perceptual={ weight = 0.0, network = \"lpips-vgg16\" }",
        ];
        assert_eq!(names(&off), plain);
        assert_ne!(names(&["stage_1.adversarial={ weight = 0.1 }"]), plain);
    }
}
