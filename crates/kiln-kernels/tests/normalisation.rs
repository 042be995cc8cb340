//! The group normalisation, forward and every gradient, against Burn's own operators on the same backend.

mod common;

use burn::nn::{GroupNorm as BurnGroupNorm, GroupNormConfig};
use burn::tensor::{Device, Tensor, activation};
use common::{assert_close, numbers, on_threads, spread, tensor};
use kiln_kernels::GroupNorm;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equals_burns_operators(
        batch in 1usize..4, groups in 1usize..5, per_group in 1usize..12, height in 1usize..9, width in 1usize..9,
        silu in any::<bool>(),
    ) {
        // Two normalised numbers are always 1 and -1: their gradient is rounding noise.
        prop_assume!(per_group * height * width > 3);
        let device = Device::flex().autodiff();
        let channels = groups * per_group;
        let inputs = || {
            let input: Tensor<4> = tensor([batch, height, width, channels], 1, &device) + 0.5;
            let [gamma, beta] = [2, 3].map(|seed| tensor([channels], seed, &device).require_grad());
            (input.require_grad(), gamma, beta)
        };
        let weigh = |output: Tensor<4>| (output.clone() * tensor(output.dims(), 4, &device)).sum().backward();

        let (input, gamma, beta) = inputs();
        let norm = GroupNorm { gamma: gamma.clone(), beta: beta.clone(), groups, epsilon: 1e-5, silu };
        let ours = norm.forward(input.clone());
        let our_gradients = weigh(ours.clone());

        let (burn_input, burn_gamma, burn_beta) = inputs();
        let mut layer: BurnGroupNorm =
            GroupNormConfig::new(groups, channels).with_epsilon(1e-5).init(&device);
        layer.gamma = Some(burn::module::Param::from_tensor(burn_gamma.clone()));
        layer.beta = Some(burn::module::Param::from_tensor(burn_beta.clone()));
        let burns = layer.forward(burn_input.clone().permute([0, 3, 1, 2])).permute([0, 2, 3, 1]);
        let burns = if silu { activation::silu(burns) } else { burns };
        assert_close(&ours.inner(), &burns.clone().inner(), 1.0, "output");
        let burn_gradients = weigh(burns);

        let gradient = |tensor: &Tensor<4>, gradients| tensor.grad(gradients).expect("a gradient");
        assert_close(&gradient(&input, &our_gradients), &gradient(&burn_input, &burn_gradients), 1.0, "input");
        let gradient = |tensor: &Tensor<1>, gradients| tensor.grad(gradients).expect("a gradient");
        let sums = spread(batch * height * width);
        assert_close(&gradient(&gamma, &our_gradients), &gradient(&burn_gamma, &burn_gradients), sums, "gamma");
        assert_close(&gradient(&beta, &our_gradients), &gradient(&burn_beta, &burn_gradients), sums, "beta");
    }
}

#[test]
fn gradients_are_the_same_bits_on_any_number_of_threads() {
    let run = |threads: usize, shape: [usize; 4]| {
        on_threads(threads, || {
            let device = Device::flex().autodiff();
            let input = tensor(shape, 1, &device).require_grad();
            let [gamma, beta] = [2, 3].map(|seed| tensor([shape[3]], seed, &device).require_grad());
            let norm = GroupNorm {
                gamma: gamma.clone(),
                beta: beta.clone(),
                groups: 4,
                epsilon: 1e-5,
                silu: true,
            };
            let gradients = norm.forward(input.clone()).square().sum().backward();
            let of_scales =
                [gamma, beta].map(|scale| numbers(&scale.grad(&gradients).expect("a gradient")));
            (
                numbers(&input.grad(&gradients).expect("a gradient")),
                of_scales,
            )
        })
    };
    for shape in [[1, 40, 40, 32], [7, 5, 6, 20], [64, 8, 8, 16]] {
        let once = run(1, shape);
        for threads in [2, 5, 16] {
            assert!(run(threads, shape) == once, "{threads} threads: {shape:?}");
        }
    }
}
