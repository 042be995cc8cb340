//! The sum of the terms of images, in which a term's weight may follow the length of its gradient.
//!
//! Burn runs backward once over a graph, so all terms meet at the reconstructed pixels, which every one of them sees as
//! an input of its own. Each term's gradient there is taken alone. Their weighted sum goes on through the autoencoder by
//! one backward pass, as the gradient of `sum(reconstructions x weighted sum)`. EnCodec's balancer (Defossez et al.
//! 2022, section 3.4) does the same. Here lengths are relative to the reconstruction term, whose weight is 1, so that
//! the bottleneck's terms keep theirs.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::term::{Reconstructed, Weighted, sum};
use crate::experiment::{Balanced, TermWeight};
use crate::learner::moving_means::MovingMeans;
use crate::learner::update::Update;

/// The share of the old value that the average of a gradient's length keeps at each step.
const DECAY: f64 = 0.99;

/// The average lengths of the terms' gradients at the reconstructed pixels.
#[derive(Module, Debug)]
pub(crate) struct Balance {
    lengths: MovingMeans,
}

/// The weighted sum of terms.
pub(super) struct Combined {
    /// Its gradient for the autoencoder is that of the sum. Its value is not, if a weight is balanced.
    pub(super) total: Tensor<1>,
    /// The sum of the terms that measure, without gradients.
    pub(super) loss: Tensor<1>,
    /// The terms, unweighted, without gradients.
    pub(super) terms: Vec<(&'static str, Tensor<1>)>,
    pub(super) carried: Option<Tensor<1>>,
}

impl Balance {
    /// For terms with these weights; `None` if no weight is balanced.
    pub(super) fn of(weights: &[TermWeight], device: &Device) -> Option<Self> {
        let lengths = || MovingMeans::new(weights.len(), device);
        let is_needed = weights.iter().any(TermWeight::is_balanced);
        is_needed.then(|| Self { lengths: lengths() })
    }

    /// The factor that makes a term's gradient `balanced` times as long as that of the first term: zero until its length
    /// is known.
    fn factor(&self, term: usize, balanced: f64) -> Tensor<1> {
        let lengths = self.lengths.means();
        let own = lengths.clone().narrow(0, term, 1);
        let is_known = own.clone().greater_elem(0.0).float();
        let ratio = lengths.narrow(0, 0, 1) / own.clamp_min(f32::MIN_POSITIVE);
        ratio * is_known * balanced
    }

    pub(super) fn updated(mut self, update: &mut Update<'_>) -> Self {
        self.lengths = self.lengths.updated(DECAY, &mut update.gradients);
        self
    }
}

/// The weighted sum of `terms`, the first of which is the reconstruction's distance.
pub(super) fn combined(
    terms: &[Weighted<'_>],
    balance: Option<&Balance>,
    of: &Reconstructed<'_>,
) -> Combined {
    let is_balanced = terms.iter().any(|term| term.weight.is_balanced());
    match balance.filter(|_| is_balanced && of.reconstructions.is_autodiff()) {
        Some(balance) => by_gradients(terms, balance, of),
        None => by_values(terms, balance, of),
    }
}

/// A term's value, weighted.
fn weighted(
    value: Tensor<1>,
    index: usize,
    term: &Weighted<'_>,
    balance: Option<&Balance>,
) -> Tensor<1> {
    match (term.weight, balance) {
        (TermWeight::Fixed(weight), _) if weight * term.ramp == 1.0 => value,
        (TermWeight::Fixed(weight), _) => value * (weight * term.ramp),
        (TermWeight::Balanced(Balanced { balanced }), Some(balance)) => {
            value * balance.factor(index, balanced * term.ramp)
        }
        (TermWeight::Balanced(_), None) => value.zeros_like(),
    }
}

fn by_values(
    terms: &[Weighted<'_>],
    balance: Option<&Balance>,
    of: &Reconstructed<'_>,
) -> Combined {
    let mut values = Vec::new();
    let mut total: Option<Tensor<1>> = None;
    let mut loss: Option<Tensor<1>> = None;
    for (index, weight) in terms.iter().enumerate() {
        let value = weight.term.between(of.images, of.reconstructions);
        values.push((weight.term.name(), value.clone().without_autodiff()));
        let value = weighted(value, index, weight, balance);
        if weight.term.is_a_measure() {
            loss = sum(loss, Some(value.clone().without_autodiff()));
        }
        total = sum(total, Some(value));
    }
    let nothing = || Tensor::zeros([1], &of.images.device());
    Combined {
        total: total.unwrap_or_else(nothing),
        loss: loss.unwrap_or_else(nothing).without_autodiff(),
        terms: values,
        carried: None,
    }
}

fn by_gradients(terms: &[Weighted<'_>], balance: &Balance, of: &Reconstructed<'_>) -> Combined {
    let [images, ..] = of.images.dims();
    let mut values = Vec::new();
    let mut lengths = Vec::new();
    let mut loss: Option<Tensor<1>> = None;
    let mut gradient: Option<Tensor<4>> = None;
    for (index, weight) in terms.iter().enumerate() {
        let pixels = of.reconstructions.clone().detach().require_grad();
        let value = weight.term.between(of.images, &pixels);
        let of_term = pixels.grad(&value.backward());
        let value = value.without_autodiff();
        values.push((weight.term.name(), value.clone()));
        // The mean over images divides each image's gradient by their number.
        lengths.push((of_term.clone()).map(|gradient| mean_length(gradient) * images as f64));
        if weight.term.is_a_measure() {
            let value = weighted(value, index, weight, Some(balance));
            loss = sum(loss, Some(value));
        }
        let Some(of_term) = of_term else { continue };
        let one = Tensor::ones([1], &of_term.device());
        let factor = weighted(one, index, weight, Some(balance));
        let of_term = of_term * factor.reshape([1, 1, 1, 1]);
        gradient = Some(match gradient {
            Some(sum) => sum + of_term,
            None => of_term,
        });
    }
    let total = gradient.map(|gradient| (of.reconstructions.clone() * gradient).sum());
    let nothing = || Tensor::zeros([1], &of.images.device());
    lengths.resize(balance.lengths.len(), None);
    Combined {
        total: total.unwrap_or_else(nothing),
        loss: loss.unwrap_or_else(nothing).without_autodiff(),
        terms: values,
        carried: Some(balance.lengths.carry(lengths, images)),
    }
}

/// The mean over images of the Euclidean length of each image's numbers: `[1]`.
fn mean_length(of: Tensor<4>) -> Tensor<1> {
    let [images, ..] = of.dims();
    let squares = of.reshape([images as i32, -1]).square().sum_dim(1);
    squares.sqrt().mean()
}

#[cfg(test)]
mod tests {
    use burn::optim::GradientsParams;
    use burn::tensor::Distribution;
    use kiln_diffusion::Distance;
    use kiln_models::bottleneck::Passed;

    use super::*;
    use crate::learner::session::{Session, StopSignal};
    use crate::learner::update::optimizer;

    /// The combined terms of two images, and their gradient at the reconstructions.
    fn gradient(
        terms: &[Weighted<'_>],
        balance: &Balance,
        images: &Tensor<4>,
        reconstructions: &Tensor<4>,
    ) -> (Combined, Tensor<4>) {
        let reconstructions = reconstructions.clone().autodiff().require_grad();
        let passed = Passed {
            latents: reconstructions.clone(),
            codes: None,
            terms: Vec::new(),
        };
        let of = Reconstructed {
            images,
            reconstructions: &reconstructions,
            passed: &passed,
            step: 0,
            position: None,
        };
        let combined = combined(terms, Some(balance), &of);
        let gradient = reconstructions.grad(&combined.total.clone().backward());
        (combined, gradient.unwrap())
    }

    #[test]
    fn a_balanced_term_has_its_share_of_the_gradient() {
        let device = Device::flex();
        let random = || Tensor::<4>::random([2, 3, 4, 4], Distribution::Default, &device);
        let (images, reconstructions) = (random(), random() * 3.0);
        let weighted = |term, weight| Weighted {
            term,
            weight,
            ramp: 1.0,
        };
        let share = TermWeight::Balanced(Balanced { balanced: 0.5 });
        let terms = [
            weighted(&Distance::Mse, TermWeight::Fixed(1.0)),
            weighted(&Distance::Mae, share),
            weighted(&Distance::Huber, TermWeight::Fixed(0.3)),
        ];
        let weights = terms.each_ref().map(|term| term.weight);
        let balance = Balance::of(&weights, &device.clone().autodiff()).unwrap();

        let alone = |term: usize| {
            let only = [weighted(terms[term].term, TermWeight::Fixed(1.0))];
            gradient(&only, &balance, &images, &reconstructions).1
        };
        let [mse, mae, huber] = [0, 1, 2].map(alone);
        let close = |a: Tensor<4>, b: Tensor<4>| (a - b).abs().max().into_scalar::<f32>() < 1e-6;
        let number = |tensor: Tensor<1>| tensor.into_scalar::<f32>();

        // Before its length is known, the term does not count.
        let (first, sum) = gradient(&terms, &balance, &images, &reconstructions);
        assert!(close(sum, mse.clone() + huber.clone() * 0.3));
        let carried = GradientsParams::from_grads(first.carried.unwrap().backward(), &balance);
        let mut update = Update {
            optimizer: &mut optimizer(&Session::new(0, StopSignal::default())),
            learning_rate: 0.1.into(),
            gradients: carried,
        };
        let balance = balance.updated(&mut update);

        let (second, sum) = gradient(&terms, &balance, &images, &reconstructions);
        let factor = 0.5 * number(mean_length(mse.clone())) / number(mean_length(mae.clone()));
        assert!(close(sum, mse + mae * factor + huber * 0.3));
        let values: Vec<f32> = second
            .terms
            .into_iter()
            .map(|(_, value)| number(value))
            .collect();
        let loss = values[0] + factor * values[1] + 0.3 * values[2];
        assert!((number(second.loss) - loss).abs() < 1e-5 * loss);
    }
}
