//! How fast each sampler's error falls as its steps shrink, on independent normal pixels, whose diffusion is known in
//! closed form. In f64, so that rounding hides nothing.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kiln_diffusion::sampler::{Churn, Sampler, Variance};
use kiln_diffusion::{Denoised, Level, Rates, Schedule, ScheduleConfig};

/// The means and the standard deviations of the pixels.
const MEANS: [f64; 4] = [0.5, -0.3, 0.1, 0.8];
const DEVIATIONS: [f64; 4] = [0.5, 0.8, 0.3, 0.6];

/// `[values / 4, 1, 2, 2]`.
fn tensor(values: Vec<f64>) -> Tensor<4> {
    let shape = [values.len() / 4, 1, 2, 2];
    Tensor::from_data(
        TensorData::new(values, shape),
        (&Device::flex(), DType::F64),
    )
}

fn values(tensor: Tensor<4>) -> Vec<f64> {
    tensor.into_data().try_to_vec().unwrap()
}

fn per_pixel(value: impl Fn(f64, f64) -> f64) -> Tensor<4> {
    let pixels = MEANS.iter().zip(DEVIATIONS);
    tensor(
        pixels
            .map(|(&mean, deviation)| value(mean, deviation))
            .collect(),
    )
}

/// The best denoiser: E[z0 | zt] = mean + a s² / (a² s² + b²) (zt - a mean).
fn exact(zt: Tensor<4>, level: Level) -> Denoised {
    let Rates {
        signal: a,
        noise: b,
    } = level.rates;
    let mean = per_pixel(|mean, _| mean);
    let gain = per_pixel(|_, s| a * s * s / (a * a * s * s + b * b));
    let z0 = mean.clone() + (zt.clone() - mean * a) * gain;
    let noise = (zt - z0.clone() * a) / b;
    Denoised { z0, noise }
}

/// The standard deviation of zt for pixels of deviation `s`.
fn deviation(rates: Rates, s: f64) -> f64 {
    (rates.signal.powi(2) * s * s + rates.noise.powi(2)).sqrt()
}

/// The exact solution of the diffusion's differential equation from `z` at `from`: pixels keep their place in the
/// distribution.
fn truth(z: Tensor<4>, from: Rates, to: Rates) -> Tensor<4> {
    let shrinks = per_pixel(|_, s| deviation(to, s) / deviation(from, s));
    let mean = per_pixel(|mean, _| mean);
    mean.clone() * to.signal + (z - mean * from.signal) * shrinks
}

fn schedule() -> Schedule {
    Schedule::new(ScheduleConfig::default()).unwrap()
}

/// Evenly in timesteps.
fn even_levels(steps: usize) -> Vec<Level> {
    let schedule = schedule();
    let timestep = |i: usize| 700.0 - 500.0 * i as f64 / steps as f64;
    (0..=steps).map(|i| schedule.level(timestep(i))).collect()
}

/// Evenly in sigma = b / a.
fn sigma_levels(steps: usize) -> Vec<Level> {
    let schedule = schedule();
    let sigma = |i: usize| 3.0 - 2.5 * i as f64 / steps as f64;
    (0..=steps)
        .map(|i| schedule.level(schedule.timestep_at(-2.0 * sigma(i).ln())))
        .collect()
}

fn walk(
    sampler: Sampler,
    start: Tensor<4>,
    levels: &[Level],
    fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
) -> Tensor<4> {
    let walked = sampler.sample(&exact, start, levels, &schedule(), fresh_noise, &mut |_| ());
    walked.unwrap()
}

/// The largest error at the end of a deterministic walk.
fn error(sampler: Sampler, levels: &[Level]) -> f64 {
    let start = tensor(vec![1.2, -0.7, 0.4, -1.9, 0.3, 2.0, -1.1, 0.8]);
    let (first, last) = (levels[0].rates, levels[levels.len() - 1].rates);
    let end = walk(sampler, start.clone(), levels, &mut |_| unreachable!());
    let difference = values(end - truth(start, first, last)).into_iter();
    difference.map(f64::abs).fold(0.0, f64::max)
}

/// The powers of the step with which `error` falls, each from one number of steps to its double.
fn orders(error: impl Fn(usize) -> f64) -> Vec<f64> {
    let errors = [20, 40, 80, 160].map(error);
    let falls = errors.windows(2);
    falls.map(|pair| (pair[0] / pair[1]).log2()).collect()
}

#[test]
fn errors_of_deterministic_samplers_fall_with_their_order() {
    let second_order = |alpha| Sampler::SecondOrder { alpha };
    let adams_bashforth = |order| Sampler::AdamsBashforth { order };
    for (sampler, expected) in [
        (Sampler::default(), 1.0),
        (Sampler::Euler { churn: Churn::NONE }, 1.0),
        (adams_bashforth(1), 1.0),
        (adams_bashforth(2), 2.0),
        (adams_bashforth(3), 2.0),
        (adams_bashforth(4), 2.0),
        (adams_bashforth(5), 2.0),
        (second_order(0.3), 2.0),
        // For normal data, the midpoint's error of second order vanishes.
        (second_order(0.5), 3.0),
        (second_order(1.0), 2.0),
        (Sampler::Heun { churn: Churn::NONE }, 2.0),
        (Sampler::Pndm, 2.0),
        (Sampler::DpmSolver { eta: 0.0 }, 2.0),
        // The corrector adds one to the predictor's order of two.
        (Sampler::UniPc, 3.0),
    ] {
        let orders = orders(|steps| error(sampler, &even_levels(steps)));
        eprintln!(
            "{sampler:?}: {orders:.2?}, error of 160 steps {:.1e}",
            error(sampler, &even_levels(160))
        );
        let last = orders[orders.len() - 1];
        assert!((last - expected).abs() < 0.3, "{sampler:?}: {orders:.2?}");
    }
}

/// The multistep methods' weights are made for equal steps of sigma.
#[test]
fn multistep_methods_are_better_where_sigma_is_even() {
    let pndm = orders(|steps| error(Sampler::Pndm, &sigma_levels(steps)));
    eprintln!("pndm: {pndm:.2?}");
    assert!(pndm[2] > 2.7, "{pndm:.2?}");
    let errors = [1, 2, 3].map(|order| {
        let sampler = Sampler::AdamsBashforth { order };
        error(sampler, &sigma_levels(160))
    });
    eprintln!("{errors:?}");
    assert!(errors.is_sorted_by(|low, high| low > high), "{errors:?}");
}

/// The error of the variance at the end of a random walk, which is a sum of squares: the walk is linear
/// in the noise that it starts with and in each that it draws, so one image each shows how much of it
/// arrives.
fn variance_error(sampler: Sampler, steps: usize) -> f64 {
    let levels = even_levels(steps);
    let (first, last) = (levels[0].rates, levels[steps].rates);
    // Image k starts with nothing but the mean and receives one unit at step k; image 0 starts with one
    // deviation.
    let mut start = truth(
        tensor(vec![0.0; 4 * (steps + 1)]) + per_pixel(|mean, _| mean) * first.signal,
        first,
        first,
    );
    start = start.clone().slice_assign(
        0..1,
        start.narrow(0, 0, 1) + per_pixel(|_, s| deviation(first, s)),
    );
    let mut fresh_noise = |step| {
        let mut units = vec![0.0; 4 * (steps + 1)];
        units[4 * step..4 * (step + 1)].fill(1.0);
        tensor(units)
    };
    let end =
        walk(sampler, start, &levels, &mut fresh_noise) - per_pixel(|mean, _| mean) * last.signal;
    let variance = end.square().sum_dim(0);
    let expected = per_pixel(|_, s| deviation(last, s).powi(2));
    let difference = values(variance - expected).into_iter();
    difference.map(f64::abs).fold(0.0, f64::max)
}

#[test]
fn the_spread_of_random_samplers_comes_right_with_their_order() {
    let (small, large) = (Variance::Small, Variance::Large);
    let churn = Churn {
        amount: 5.0,
        ..Churn::NONE
    };
    let ddim = |eta, variance| Sampler::Ddim { eta, variance };
    for (sampler, expected) in [
        (Sampler::Ddpm { variance: small }, 1.0),
        (Sampler::Ddpm { variance: large }, 1.0),
        (ddim(0.5, small), 1.0),
        (ddim(1.0, small), 1.0),
        (ddim(1.0, large), 1.0),
        (Sampler::Euler { churn }, 1.0),
        (Sampler::Heun { churn }, 2.0),
        (Sampler::DpmSolver { eta: 0.5 }, 2.0),
        (Sampler::DpmSolver { eta: 1.0 }, 2.0),
    ] {
        let orders = orders(|steps| variance_error(sampler, steps));
        eprintln!(
            "{sampler:?}: {orders:.2?}, error of 160 steps {:.1e}",
            variance_error(sampler, 160)
        );
        let last = orders[orders.len() - 1];
        assert!((last - expected).abs() < 0.3, "{sampler:?}: {orders:.2?}");
    }
}
