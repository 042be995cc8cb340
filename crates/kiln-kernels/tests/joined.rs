//! What is joined before a convolution reads it: images side by side, and the weights of linear layers.

mod common;

use burn::tensor::{Device, Tensor};
use common::{numbers, tensor};
use kiln_kernels::{beside, pointwise_weight};
use proptest::prelude::*;

proptest! {
    #[test]
    fn images_side_by_side_are_burns(
        [batch, height, width] in [1usize..4, 1usize..9, 1usize..9],
        [near, far] in [1usize..40, 1usize..40],
        with_autodiff in any::<bool>(),
    ) {
        let device = if with_autodiff { Device::flex().autodiff() } else { Device::flex() };
        let images = |channels, seed| {
            let images = tensor([batch, height, width, channels], seed, &device);
            if with_autodiff { images.require_grad() } else { images }
        };
        let [first, second] = [images(near, 1), images(far, 2)];
        let factors = tensor([batch, height, width, near + far], 3, &device);
        let burns = Tensor::cat(vec![first.clone(), second.clone()], 3);
        let ours = beside(first.clone(), second.clone());
        prop_assert_eq!(ours.dims(), burns.dims());
        let ours = ours.joined();
        prop_assert_eq!(numbers(&ours), numbers(&burns));
        if with_autodiff {
            let gradients = |joined: Tensor<4>| {
                let gradients = (joined * factors.clone()).sum().backward();
                [&first, &second].map(|images| images.grad(&gradients).map(|it| (it.dims(), numbers(&it))))
            };
            let ours = gradients(ours);
            prop_assert!(ours.iter().all(Option::is_some));
            prop_assert_eq!(ours, gradients(burns));
        }
    }
}

/// Burn's composition.
fn expected(layers: &[Tensor<2>]) -> Vec<f32> {
    let rows = layers.iter().map(|layer| layer.clone().transpose());
    numbers(&Tensor::cat(rows.collect(), 0))
}

#[test]
fn layers_side_by_side_are_burns_on_every_device() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        for layers in 1..=4 {
            let layer = |index: usize| tensor([7, 3 + index], index as u64, &device);
            let layers: Vec<Tensor<2>> = (0..layers).map(layer).collect();
            let weight = pointwise_weight(layers.clone());
            assert_eq!(weight.dims()[1..], [7, 1, 1]);
            assert_eq!(numbers(&weight), expected(&layers));
        }
    }
}

#[test]
fn a_model_has_its_own_weights_however_many_came_before() {
    let device = Device::flex();
    for seed in 0..20 {
        // A model keeps its weights while it is asked several times; the next one may get the same memory.
        let layers: Vec<Tensor<2>> = (0..3)
            .map(|index| tensor([64, 64], 3 * seed + index, &device))
            .collect();
        for _ in 0..3 {
            let weight = pointwise_weight(layers.clone());
            assert_eq!(numbers(&weight), expected(&layers), "model {seed}");
        }
    }
}
