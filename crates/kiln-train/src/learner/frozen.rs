//! Networks that training uses but does not train.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::Device;

/// A network that a recipe uses on all its devices. Its weights do not move, and no checkpoint or model has them.
///
/// A recipe holds it, and not the recipe's networks, so Burn never sees its weights.
pub(crate) struct Frozen<N> {
    network: N,
    /// A copy for each device that has asked for one.
    copies: Mutex<Vec<(Device, N)>>,
}

impl<N: Module> Frozen<N> {
    /// Of a network on a device without gradients.
    pub(crate) fn new(network: N) -> Self {
        Self {
            network,
            copies: Mutex::default(),
        }
    }

    /// The network on the device of its input, copied there once. Gradients flow through it to its input.
    pub(crate) fn on(&self, device: &Device) -> N {
        let device = device.clone().without_autodiff();
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, copy)) = copies.iter().find(|(place, _)| *place == device) {
            return copy.clone();
        }
        let copy = self.network.clone().to_device(&device);
        copies.push((device, copy.clone()));
        copy
    }
}

impl<N> fmt::Debug for Frozen<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Frozen")
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::GradientsParams;
    use burn::tensor::Tensor;

    use super::*;

    #[test]
    fn gradients_pass_through_and_move_nothing() {
        let plain = Device::flex();
        let network: Linear = LinearConfig::new(3, 2).init(&plain);
        let weight = network.weight.val();
        let frozen = Frozen::new(network);
        let learning = plain.clone().autodiff();
        let input = Tensor::<2>::ones([4, 3], &learning).require_grad();
        let copy = frozen.on(&input.device());
        let mut gradients = copy.forward(input.clone()).sum().backward();
        let gradient = input.grad(&gradients).unwrap();
        assert!(gradient.abs().min().into_scalar::<f32>() > 0.0);
        assert!(GradientsParams::from_module(&mut gradients, &copy).is_empty());
        assert_eq!(
            frozen.on(&plain).weight.val().into_data(),
            weight.into_data()
        );
        assert_eq!(frozen.copies.lock().unwrap().len(), 1, "one copy a device");
    }
}
