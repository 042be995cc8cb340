//! The operators of perceptual networks against Burn's own.

mod common;

use burn::nn::pool::MaxPool2dConfig;
use burn::tensor::{Device, Distribution, Int, Tensor};
use common::{numbers, on_threads, tensor};
use kiln_kernels::{halving_max_pool, unit_distance};

fn distance_by_burn(
    maps: Tensor<4>,
    others: Tensor<4>,
    weights: Tensor<1>,
    smallest: f32,
) -> Tensor<1> {
    let unit = |maps: Tensor<4>| {
        let squares = (maps.clone() * maps.clone()).sum_dim(3);
        maps / (squares + smallest * smallest).sqrt()
    };
    let [batch, height, width, channels] = maps.dims();
    let difference = unit(maps) - unit(others);
    let squares: Tensor<2> =
        (difference.clone() * difference).reshape([batch * height * width, channels]);
    let positions: Tensor<2> = squares.matmul(weights.reshape([channels, 1]));
    let positions: Tensor<2> = positions.reshape([batch, height * width]);
    positions.mean_dim(1).squeeze_dim(1)
}

fn pool_by_burn(maps: Tensor<4>, side: usize, over_the_edge: bool) -> Tensor<4> {
    let pool = MaxPool2dConfig::new([side; 2])
        .with_strides([2, 2])
        .with_ceil_mode(over_the_edge)
        .init();
    pool.forward(maps.permute([0, 3, 1, 2]))
        .permute([0, 2, 3, 1])
}

#[test]
fn distances_and_gradients_are_those_of_burns_operators() {
    let (device, plain) = (Device::flex().autodiff(), Device::flex());
    for shape @ [.., channels] in [[3, 4, 5, 64], [2, 1, 3, 7], [1, 2, 2, 1], [2, 3, 1, 40]] {
        // Away from zero: the gradient at a position of nearly no length magnifies rounding errors.
        let wave = |count: usize, pace: f32| {
            let numbers = Tensor::<1, Int>::arange(0..count as i64, &plain).float();
            (numbers * pace).sin()
        };
        let map = |pace: f32| {
            let wave = wave(shape.iter().product(), pace);
            (wave.clone() + wave.sign() * 0.5).reshape(shape)
        };
        let (maps, others) = (map(1.3), map(2.1) * 2.0);
        let weights = wave(channels, 0.7).abs();
        let upstream = wave(shape[0], 0.9).abs();
        let run = |distance: fn(Tensor<4>, Tensor<4>, Tensor<1>, f32) -> Tensor<1>| {
            let [maps, others] = [&maps, &others]
                .map(|tensor| tensor.clone().to_device(&device).autodiff().require_grad());
            let found = distance(maps.clone(), others.clone(), weights.clone(), 1e-3);
            let gradients = (found.clone() * upstream.clone()).sum().backward();
            let of = |tensor: Tensor<4>| tensor.grad(&gradients).unwrap();
            (found.inner(), of(maps), of(others))
        };
        let (ours, theirs) = (run(unit_distance), run(distance_by_burn));
        let difference = (ours.0 - theirs.0).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{shape:?}: {difference}");
        for (ours, theirs) in [(ours.1, theirs.1), (ours.2, theirs.2)] {
            let difference = (ours - theirs).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "{shape:?}: {difference}");
        }
    }
}

#[test]
fn an_image_is_the_same_in_any_batch_and_equal_maps_have_no_distance() {
    let device = Device::flex();
    let random = || Tensor::<4>::random([3, 4, 4, 24], Distribution::Default, &device);
    let (maps, others) = (random(), random());
    let weights = Tensor::<1>::ones([24], &device);
    let distance = |maps: &Tensor<4>, others: &Tensor<4>| {
        let found = unit_distance(maps.clone(), others.clone(), weights.clone(), 1e-10);
        found.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    let together = distance(&maps, &others);
    let alone = distance(&maps.clone().narrow(0, 1, 1), &others.narrow(0, 1, 1));
    assert_eq!(alone, together[1..2]);
    assert_eq!(distance(&maps, &maps), [0.0; 3]);
}

#[test]
fn maxima_and_gradients_are_those_of_burns_operators() {
    let (device, plain) = (Device::flex().autodiff(), Device::flex());
    for (height, width, channels, side, over_the_edge) in [
        (8, 8, 64, 2, false),
        (7, 5, 3, 2, false),
        (9, 6, 17, 3, false),
        (8, 6, 20, 3, true),
        (7, 4, 5, 3, true),
        (3, 3, 1, 3, true),
        (33, 3, 4, 2, false),
        (40, 5, 4, 3, true),
        (51, 4, 3, 3, false),
    ] {
        let shape = [2, height, width, channels];
        let maps = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &plain);
        let run = |pool: fn(Tensor<4>, usize, bool) -> Tensor<4>| {
            let maps = maps.clone().to_device(&device).autodiff().require_grad();
            let output = pool(maps.clone(), side, over_the_edge);
            let gradients = (output.clone() * output.clone()).sum().backward();
            (output.inner(), maps.grad(&gradients).unwrap())
        };
        let (ours, theirs) = (run(halving_max_pool), run(pool_by_burn));
        assert_eq!(
            ours.0.dims(),
            theirs.0.dims(),
            "{shape:?} {side} {over_the_edge}"
        );
        let difference = (ours.0 - theirs.0).abs().max().into_scalar::<f32>();
        assert_eq!(difference, 0.0, "{shape:?} {side} {over_the_edge}");
        let difference = (ours.1 - theirs.1).abs().max().into_scalar::<f32>();
        assert!(
            difference < 1e-5,
            "{shape:?} {side} {over_the_edge}: {difference}"
        );
    }
}

#[test]
fn results_are_the_same_bits_on_any_number_of_threads() {
    let run = |threads: usize| {
        on_threads(threads, || {
            let device = Device::flex().autodiff();
            // 400 positions of each image after the pool.
            let [maps, others] =
                [1, 2].map(|seed| tensor([2, 41, 40, 24], seed, &device).require_grad());
            let pool = |maps: &Tensor<4>| halving_max_pool(maps.clone(), 3, true);
            let weights = tensor([24], 3, &Device::flex());
            let distances = unit_distance(pool(&maps), pool(&others), weights, 1e-10);
            let gradients = distances.clone().sum().backward();
            let [of_maps, of_others] = [maps, others].map(|tensor| {
                let gradient = tensor.grad(&gradients).expect("a gradient");
                numbers(&gradient)
            });
            (numbers(&distances.inner()), of_maps, of_others)
        })
    };
    let once = run(1);
    for threads in [2, 5, 16] {
        assert!(run(threads) == once, "{threads} threads");
    }
}

#[test]
#[should_panic(expected = "do not fit")]
fn images_without_a_square_are_refused() {
    let maps = Tensor::<4>::zeros([1, 1, 4, 2], &Device::flex());
    let _ = halving_max_pool(maps, 2, false);
}
