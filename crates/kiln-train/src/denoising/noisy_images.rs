//! A batch as the network and its loss see it.

use burn::tensor::{Int, Tensor};
use kiln_diffusion::{Loss, LossAtLevels, Prediction, Rates, Schedule};
use kiln_kernels::AnyTensor;
use kiln_models::{ProjectedTimes, UNet2d};

use super::NoisyBatch;
use super::classes::index_tensor;
use crate::learner::report::{LOSS, StepReport};

/// The components whose errors are logged beside the loss, in the loss's measure. The other components follow from the
/// predicted one.
const COMPONENTS: [Prediction; 3] = [Prediction::Noise, Prediction::Signal, Prediction::Velocity];

/// All that a loss is computed from, on the device, besides the weights.
#[derive(Clone)]
pub(super) struct NoisyImages {
    /// `[batch, channels, height, width]`
    zt: Tensor<4>,
    /// What the network should answer, of the same shape.
    target: Tensor<4>,
    times: ProjectedTimes,
    labels: Option<Tensor<1, Int>>,
    loss: LossAtLevels<3>,
    names_of_errors: [&'static str; 3],
    /// The training step, from zero.
    step: usize,
}

impl NoisyImages {
    /// Adds the noise of `batch` to its images, for `network` to learn by `loss`.
    pub(super) fn new(
        batch: &NoisyBatch,
        schedule: &Schedule,
        loss: Loss,
        network: &UNet2d,
    ) -> Self {
        let NoisyBatch {
            z0,
            noise,
            timesteps,
            labels,
            ..
        } = batch;
        let device = z0.device();
        let levels: Vec<Rates> = (timesteps.iter())
            .map(|&timestep| schedule.rates(timestep))
            .collect();
        let rates = Rates::batch(&levels, &device);
        let noise_powers = levels.iter().map(Rates::noise_power);
        let places = timesteps.iter().copied().zip(noise_powers);
        Self {
            zt: rates.add_noise(z0.clone(), noise.clone()),
            target: (loss.prediction).target(z0.clone(), noise.clone(), &rates),
            times: network.project_levels(places, &device),
            labels: labels.as_ref().map(|labels| index_tensor(labels, &device)),
            loss: loss.at(&levels, COMPONENTS, &device),
            names_of_errors: loss.distance.names_of_errors(),
            step: batch.position.step as usize,
        }
    }

    /// The loss of a `network` that learns to denoise, with its gradient; and its report, with the errors of the components.
    pub(super) fn losses(self, network: &UNet2d) -> (Tensor<1>, StepReport) {
        let [images, ..] = self.zt.dims();
        let output = network.forward_projected(self.zt, self.times, self.labels);
        let loss = (self.loss).between(output.clone(), self.target.clone());
        let (output, target) = (output.without_autodiff(), self.target.without_autodiff());
        let errors = self.loss.errors(output, target);
        let scalars = [(LOSS, loss.clone())].into_iter();
        let scalars = scalars.chain(self.names_of_errors.into_iter().zip(errors));
        let report = StepReport::new(self.step, images, scalars.collect(), None);
        (loss, report)
    }

    /// All of it as tensors, if it is on a GPU.
    pub(super) fn tensors(&self) -> Option<Vec<AnyTensor>> {
        let labels = self.labels.clone().map(|labels| labels.float());
        let tensors = [
            any(&self.zt),
            any(&self.target),
            any(&self.times.timesteps),
            any(&self.times.projected),
            any(&self.loss.factors),
        ];
        (tensors.into_iter())
            .chain(labels.as_ref().map(any))
            .collect()
    }

    /// Images of the same shapes that [`Self::tensors`] made these of, with autodiff.
    pub(super) fn with(mut self, tensors: Vec<AnyTensor>) -> Self {
        let from = &mut tensors.into_iter();
        put(&mut self.zt, from);
        put(&mut self.target, from);
        put(&mut self.times.timesteps, from);
        put(&mut self.times.projected, from);
        put(&mut self.loss.factors, from);
        self.labels = self.labels.map(|labels| {
            let mut labels = labels.float();
            put(&mut labels, from);
            labels.int()
        });
        self
    }
}

fn any<const D: usize>(tensor: &Tensor<D>) -> Option<AnyTensor> {
    AnyTensor::of(tensor.clone().without_autodiff())
}

fn put<const D: usize>(place: &mut Tensor<D>, from: &mut impl Iterator<Item = AnyTensor>) {
    if let Some(tensor) = from.next() {
        *place = tensor.into_tensor().autodiff();
    }
}
