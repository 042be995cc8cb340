//! Moving averages of what the images of a step have in the mean, on however many devices they are.

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use kiln_models::ema::replace_value;

/// Moving averages of several numbers, each a mean over the images of a step.
///
/// It is a module, so a checkpoint stores it. No optimizer moves it. The sums over a device's images travel as
/// gradients to the update, as those of a codebook do.
#[derive(Module, Debug)]
pub(crate) struct MovingMeans {
    /// The decayed sum of each number's values, `[numbers]`.
    sums: Param<Tensor<1>>,
    /// The decayed sum of ones for these values, `[numbers]`: zero before the first.
    counts: Param<Tensor<1>>,
    /// Zeros, whose gradient carries each number's sum over images and the count of these images, `[2, numbers]`.
    carrier: Param<Tensor<2>>,
}

impl MovingMeans {
    /// Without values yet.
    pub(crate) fn new(numbers: usize, device: &Device) -> Self {
        let zeros = || Param::from_tensor(Tensor::zeros([numbers], device)).set_require_grad(false);
        Self {
            sums: zeros(),
            counts: zeros(),
            carrier: Param::from_tensor(Tensor::zeros([2, numbers], device)),
        }
    }

    /// How many numbers there are.
    pub(crate) fn len(&self) -> usize {
        self.counts.dims()[0]
    }

    /// The averages `[numbers]`, without gradients. A number without values is zero.
    pub(crate) fn means(&self) -> Tensor<1> {
        let counts = self.counts.val().without_autodiff();
        self.sums.val().without_autodiff() / counts.clamp_min(f32::MIN_POSITIVE)
    }

    /// A term for the loss, `[1]`, that is zero and carries means over this many images to [`Self::updated`]; `None`
    /// leaves a number as it is. Add it after the loss was scaled.
    pub(crate) fn carry(&self, means: Vec<Option<Tensor<1>>>, images: usize) -> Tensor<1> {
        let carrier = self.carrier.val();
        let device = carrier.device().without_autodiff();
        let images = |mean: &Option<Tensor<1>>| match mean {
            Some(_) => images as f64,
            None => 0.0,
        };
        let counts = means
            .iter()
            .map(|mean| Tensor::full([1], images(mean), &device));
        let counts = Tensor::<1>::cat(counts.collect(), 0);
        let means = means.into_iter().map(|mean| match mean {
            Some(mean) => mean.without_autodiff(),
            None => Tensor::zeros([1], &device),
        });
        let sums = Tensor::cat(means.collect(), 0) * counts.clone();
        (carrier * Tensor::stack::<2>(vec![sums, counts], 0)).sum()
    }

    /// One step: takes the sums over all images out of the gradients. Older values count `decay` times as much as
    /// before.
    pub(crate) fn updated(mut self, decay: f64, gradients: &mut GradientsParams) -> Self {
        let Some(carried) = gradients.remove::<2>(self.carrier.id) else {
            return self;
        };
        let carried = carried.without_autodiff();
        let [sums, images] = [0, 1].map(|row| carried.clone().narrow(0, row, 1).squeeze_dim(0));
        let is_new: Tensor<1> = images.clone().greater_elem(0.0).float();
        let means: Tensor<1> = sums / images.clamp_min(1.0);
        let kept = is_new.clone() * (decay - 1.0) + 1.0;
        let moved = |old: Param<Tensor<1>>, new: Tensor<1>| {
            let value = old.val().without_autodiff() * kept.clone() + new * (1.0 - decay);
            replace_value(old, value)
        };
        self.sums = moved(self.sums, means * is_new.clone());
        self.counts = moved(self.counts, is_new);
        self
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;

    fn step(means: MovingMeans, shards: &[(Option<f32>, Option<f32>, usize)]) -> MovingMeans {
        let device = Device::flex();
        let number = |value: Option<f32>| value.map(|value| Tensor::from_floats([value], &device));
        let carried = shards.iter().map(|&(first, second, images)| {
            means.carry(vec![number(first), number(second)], images)
        });
        let carried = carried.reduce(|sum, term| sum + term).unwrap();
        assert_eq!(carried.clone().into_scalar::<f32>(), 0.0);
        let mut gradients = GradientsParams::from_grads(carried.backward(), &means);
        let means = means.updated(0.5, &mut gradients);
        assert!(gradients.is_empty());
        means
    }

    fn assert_means(means: &MovingMeans, expected: [f32; 2]) {
        let expected = Tensor::<1>::from_floats(expected, &Device::flex()).into_data();
        let tolerance = Tolerance::<f32>::absolute(1e-6);
        means
            .means()
            .into_data()
            .assert_approx_eq(&expected, tolerance);
    }

    #[test]
    fn a_step_counts_as_a_whole_on_however_many_devices() {
        let new = || MovingMeans::new(2, &Device::flex().autodiff());
        assert_means(&new(), [0.0, 0.0]);
        let whole = step(new(), &[(Some(2.5), None, 4)]);
        let shards = step(new(), &[(Some(4.0), None, 1), (Some(2.0), None, 3)]);
        for means in [whole, shards] {
            // The first value is the average, and a number without one stays.
            assert_means(&means, [2.5, 0.0]);
            let means = step(means, &[(Some(5.5), Some(3.0), 4)]);
            assert_means(&means, [(0.5 * 2.5 + 5.5) / 1.5, 3.0]);
            assert!(!means.sums.is_require_grad());
        }
    }
}
