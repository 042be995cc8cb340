//! One update of the weights: the norm of the gradients, AdamW, and the moving average.
//!
//! All three are bound by memory, so the number of reads and writes counts. Burn's operators for one step of AdamW and
//! its average make about twenty passes over the weights, on one thread, each into fresh memory. Here AdamW is one pass
//! that writes the moments in place and the new weights over their gradient, which is no longer needed; the average is
//! another pass, into new memory, because the Learner still holds the old average. Both give the same bits as Burn's operators.

mod adamw;
mod average;
mod norm;
mod together;

pub use together::{AnyTensor, Together, Weight};

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::optim::{AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::Tensor;

use crate::extension::{numbers, tensor};
use crate::is_ours;

/// Numbers that one thread works on at a time: four arrays of this length fit into a core's cache.
const CHUNK: usize = 16 * 1024;

/// AdamW: "Decoupled weight decay regularization" (Loshchilov and Hutter 2019), as in Burn.
///
/// ```text
/// m = beta_1 m + (1 - beta_1) g              m^ = m / (1 - beta_1^time)
/// v = beta_2 v + (1 - beta_2) g²             v^ = v / (1 - beta_2^time)
/// w = (1 - learning_rate weight_decay) w - learning_rate m^ / (sqrt(v^) + epsilon)
/// ```
///
/// with the gradient g, the weight w, and the moments m and v, which begin at zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay rate of the first moment, in [0, 1).
    pub beta_1: f32,
    /// Decay rate of the second moment, in [0, 1).
    pub beta_2: f32,
    /// Keeps the denominator from zero; more than 0.
    pub epsilon: f32,
    /// Share of a weight that is subtracted in each step, times the learning rate.
    pub weight_decay: f32,
}

impl AdamW {
    /// Moves `weight` one step along `scale * gradient`; without a `state` it is the first step. Returns the new weight
    /// and the new state, which is always `Some`.
    ///
    /// `weight`, `gradient` and the moments have the same shape and lie on the same device, without autodiff. Pass the
    /// only handles of the gradient and the state, so that the result can reuse their memory. The state has the form of
    /// Burn's own AdamW, so either can continue the other's training.
    ///
    /// # Panics
    ///
    /// Like Burn's AdamW, if the shapes differ.
    pub fn step<const D: usize>(
        &self,
        learning_rate: f64,
        scale: f64,
        weight: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let same = |tensor: &Tensor<D>| is_plainly_ours(tensor) && tensor.dims() == weight.dims();
        let ours = same(&weight)
            && same(&gradient)
            && state.as_ref().is_none_or(|AdamWState { momentum }| {
                same(&momentum.moment_1)
                    && same(&momentum.moment_2)
                    && momentum.max_moment_2.is_none()
            });
        if !ours {
            let gradient = match scale {
                1.0 => gradient,
                _ => gradient.mul_scalar(scale),
            };
            return self.of_burn().step(learning_rate, weight, gradient, state);
        }
        let AdaptiveMomentumState {
            time,
            moment_1,
            moment_2,
            ..
        } = state.map_or_else(
            || AdaptiveMomentumState::new(0, weight.zeros_like(), weight.zeros_like()),
            |state| state.momentum,
        );
        let time = time + 1;
        let (weight, moment_1, moment_2) = <Dispatch as OptimizerOps>::kiln_adamw(
            weight.into_dispatch(),
            gradient.into_dispatch(),
            moment_1.into_dispatch(),
            moment_2.into_dispatch(),
            adamw::Step::new(self, learning_rate, scale, time),
        );
        let momentum = AdaptiveMomentumState::new(
            time,
            Tensor::from_dispatch(moment_1),
            Tensor::from_dispatch(moment_2),
        );
        (
            Tensor::from_dispatch(weight),
            Some(AdamWState::new(momentum)),
        )
    }

    fn of_burn(&self) -> burn::optim::AdamW {
        AdamWConfig::new()
            .with_beta_1(self.beta_1)
            .with_beta_2(self.beta_2)
            .with_epsilon(self.epsilon)
            .with_weight_decay(self.weight_decay)
            .build()
    }
}

/// A step of an exponential moving average.
///
/// ```text
/// average - (1 - decay) (average - weight)
/// ```
///
/// In this form an unchanged number keeps its exact value. Both have the same shape and lie on the same device.
///
/// # Panics
///
/// Like Burn's operators, if the shapes differ.
pub fn moving_average<const D: usize>(
    average: Tensor<D>,
    weight: Tensor<D>,
    decay: f64,
) -> Tensor<D> {
    let ours = is_plainly_ours(&average) && is_plainly_ours(&weight);
    if ours && average.dims() == weight.dims() {
        return Tensor::from_dispatch(<Dispatch as OptimizerOps>::kiln_moving_average(
            average.into_dispatch(),
            weight.into_dispatch(),
            (1.0 - decay) as f32,
        ));
    }
    let difference = (average.clone() - weight).mul_scalar(1.0 - decay);
    average - difference
}

/// The Euclidean norm of all numbers of all `tensors` together; 0 without any.
///
/// Not finite if a number is not finite, or if its square is too large for `f32`.
pub fn euclidean_norm(tensors: &[Tensor<1>]) -> f64 {
    if tensors.is_empty() {
        return 0.0;
    }
    let squares: Vec<f64> = match tensors.iter().map(values_of).collect::<Option<Vec<_>>>() {
        Some(values) => norm::squares(&values),
        None => {
            let squares = tensors.iter().map(|tensor| tensor.clone().square().sum());
            let squares = Tensor::cat(squares.collect(), 0).into_data();
            squares.iter::<f64>().collect()
        }
    };
    squares.iter().sum::<f64>().sqrt()
}

/// Whether the operators of this module can read the tensor: `f32` on Flex, without autodiff.
fn is_plainly_ours<const D: usize>(tensor: &Tensor<D>) -> bool {
    is_ours(tensor) && !tensor.is_autodiff()
}

/// The numbers of a tensor that the operators of this module can read.
fn values_of(tensor: &Tensor<1>) -> Option<FlexTensor> {
    let tensor = is_plainly_ours(tensor).then(|| tensor.clone())?;
    Some(in_order(tensor.try_into_primitive::<Flex>().ok()?))
}

/// Values in the order of the dimensions. An unshared tensor that is already in order keeps its memory.
fn in_order(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// The operators on Flex's own tensors; `f32` and the shapes have been checked before.
#[backend_extension(Flex)]
pub(crate) trait OptimizerOps: Backend {
    /// The new weight and moments: see [`AdamW::step`].
    fn kiln_adamw(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
        step: adamw::Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`moving_average`]; `rate` is `1 - decay`.
    fn kiln_moving_average(
        average: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rate: f32,
    ) -> FloatTensor<Self>;
}

impl OptimizerOps for Flex {
    fn kiln_adamw(
        weight: FlexTensor,
        gradient: FlexTensor,
        moment_1: FlexTensor,
        moment_2: FlexTensor,
        step: adamw::Step,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let weight = in_order(weight);
        // The Learner still holds the old weight, but nothing else holds the gradient: the new weight takes its memory.
        let mut new_weight = in_order(gradient);
        let (mut moment_1, mut moment_2) = (in_order(moment_1), in_order(moment_2));
        step.take(
            weight.storage(),
            new_weight.storage_mut(),
            moment_1.storage_mut(),
            moment_2.storage_mut(),
        );
        (new_weight, moment_1, moment_2)
    }

    fn kiln_moving_average(average: FlexTensor, weight: FlexTensor, rate: f32) -> FlexTensor {
        let (average, weight) = (in_order(average), in_order(weight));
        let (old, weight) = (numbers(&average), numbers(&weight));
        // The Learner still holds the old average. Waiting arrays could be longer, and it would keep them.
        let mut new = vec![0.0; old.len()];
        average::follow(old, weight, rate, &mut new);
        tensor(new, average.shape())
    }
}
