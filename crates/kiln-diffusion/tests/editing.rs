//! Samplers on given images, inversion and inpainting: with exact denoisers, and against diffusers.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use kiln_diffusion::noise::{ImageNoise, normal};
use kiln_diffusion::sampler::{InpaintOptions, Known, Variance, ddim, inpaint, invert, visits};
use kiln_diffusion::{
    Denoised, Denoiser, Level, LevelOptions, NetworkDenoiser, Prediction, Schedule, ScheduleConfig,
    Spacing, levels,
};
use safetensors::SafeTensors;

fn trajectory(steps: usize) -> Vec<Level> {
    let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
    let options = LevelOptions {
        spacing: Spacing::Trailing,
        ..Default::default()
    };
    levels(&schedule, steps, options).unwrap()
}

fn largest_difference(left: Tensor<4>, right: Tensor<4>) -> f32 {
    (left - right).abs().max().into_scalar::<f32>()
}

/// Pixels that are independent and normal around 0.3, with a standard deviation of 0.5.
///
/// E[z0 | zt] = m + a s² / (a² s² + b²) (zt - a m)
fn cloud(zt: Tensor<4>, level: Level) -> Denoised {
    let (a, b) = (level.rates.signal, level.rates.noise);
    let (mean, variance) = (0.3, 0.25);
    let z0 = (zt.clone() - a * mean) * (a * variance / (a * a * variance + b * b)) + mean;
    let noise = (zt - z0.clone() * a) / b;
    Denoised { z0, noise }
}

fn draw(denoiser: &dyn Denoiser, noise: Tensor<4>, levels: &[Level]) -> Tensor<4> {
    let no_noise = &mut |_| -> Tensor<4> { unreachable!("eta is 0") };
    ddim(
        denoiser,
        noise,
        levels,
        0.0,
        Variance::Small,
        no_noise,
        &mut |_| (),
    )
    .unwrap()
}

fn images(count: usize) -> Tensor<4> {
    let values = TensorData::new(normal(5, 0, 0, count * 4), [count, 1, 2, 2]);
    Tensor::from_data(values, &Device::flex())
}

/// The error after inversion and sampling, with so many steps and refinements.
fn round_trip(steps: usize, refinements: usize) -> f32 {
    let (images, levels) = (images(6), trajectory(steps));
    let noise = invert(&cloud, images.clone(), &levels, refinements, &mut |_| ());
    largest_difference(draw(&cloud, noise, &levels), images)
}

#[test]
fn an_inverted_image_is_drawn_again() {
    // More steps help, and so does each refinement.
    let plain = [10, 40, 160].map(|steps| round_trip(steps, 0));
    assert!(plain.is_sorted_by(|few, many| many < few), "{plain:?}");
    assert!(plain[2] < 0.1, "{plain:?}");
    let refined = [0, 1, 2, 4, 8].map(|refinements| round_trip(20, refinements));
    assert!(refined.is_sorted_by(|few, many| many < few), "{refined:?}");
    assert!(round_trip(20, 100) < 1e-4);
}

#[test]
fn inverting_what_was_drawn_gives_its_noise() {
    let (noise, levels) = (images(6), trajectory(20));
    let drawn = draw(&cloud, noise.clone(), &levels);
    let inverted = invert(&cloud, drawn.clone(), &levels, 100, &mut |_| ());
    assert!(largest_difference(inverted.clone(), noise) < 1e-3);
    let mut steps = Vec::new();
    let observed = invert(&cloud, drawn, &levels, 100, &mut |progress| {
        assert_eq!(progress.steps, 20);
        steps.push(progress.step);
    });
    assert_eq!(observed.into_data(), inverted.into_data());
    assert!(steps.into_iter().eq(1..=20));
}

#[test]
fn without_levels_nothing_happens() {
    let inverted = invert(&cloud, images(2), &[], 3, &mut |_| ());
    assert_eq!(inverted.into_data(), images(2).into_data());
}

/// One of the two images; the other is its negative.
const IMAGE: [f32; 4] = [0.5, -0.4, 0.9, -1.0];

fn image(sign: f32) -> Tensor<4> {
    let pixels = IMAGE.map(|pixel| pixel * sign).to_vec();
    Tensor::from_data(TensorData::new(pixels, [1, 1, 2, 2]), &Device::flex())
}

/// E[z0 | zt] = image tanh(a <image, zt> / b²), if z0 is the image or its negative.
fn twins(zt: Tensor<4>, level: Level) -> Denoised {
    let (a, b) = (level.rates.signal, level.rates.noise);
    let [batch, ..] = zt.dims();
    let product = (zt.clone() * image(1.0))
        .reshape([batch as i32, -1])
        .sum_dim(1);
    let lean = (product * (a / (b * b)))
        .tanh()
        .reshape([batch as i32, 1, 1, 1]);
    let z0 = lean * image(1.0);
    let noise = (zt - z0.clone() * a) / b;
    Denoised { z0, noise }
}

/// One row is known, from the image or its negative.
fn fill(sign: f32, known_row: usize, options: InpaintOptions) -> Tensor<4> {
    let unknown = (0..4).map(|pixel| pixel / 2 != known_row).collect();
    let unknown = TensorData::new::<bool, _>(unknown, [1, 1, 2, 2]);
    let known = Known {
        z0: image(sign),
        unknown: Tensor::<4, Bool>::from_data(unknown, &Device::flex()),
    };
    let noise = ImageNoise {
        seed: 1,
        images: (0..20).collect(),
        shape: [1, 2, 2],
        device: Device::flex(),
    };
    let fresh_noise = &mut |draw| noise.draw(draw);
    let levels = trajectory(50);
    inpaint(
        &twins,
        noise.draw(0),
        &levels,
        &known,
        options,
        fresh_noise,
        &mut |_| (),
    )
    .unwrap()
}

#[test]
fn what_is_known_stays_and_decides_the_rest() {
    for (eta, resamplings, forgets) in [
        (1.0, 0, false),
        (0.0, 0, false),
        (1.0, 2, false),
        (0.5, 1, false),
        (1.0, 0, true),
        (1.0, 1, true),
    ] {
        let options = InpaintOptions {
            eta,
            resamplings,
            jump: 5,
            forgets,
        };
        for sign in [1.0, -1.0] {
            let filled = fill(sign, 1, options);
            let known = filled.clone().narrow(2, 1, 1);
            let original = image(sign).narrow(2, 1, 1).expand([20, 1, 1, 2]);
            assert_eq!(known.into_data(), original.into_data());
            let difference = largest_difference(filled, image(sign));
            assert!(difference < 1e-3, "{options:?}: {difference}");
        }
    }
}

/// The faint upper row gives little information, and the sampler may decide on the lower row before it has an effect.
#[test]
fn going_back_makes_parts_agree() {
    let misfits = |resamplings| -> f32 {
        let options = InpaintOptions {
            resamplings,
            jump: 10,
            ..Default::default()
        };
        let wrong = (fill(1.0, 0, options) - image(1.0)).abs().greater_elem(0.5);
        wrong.float().sum().into_scalar::<f32>() / 2.0
    };
    let (plain, resampled) = (misfits(0), misfits(20));
    assert!(resampled < plain, "{plain} {resampled}");
}

#[test]
fn fresh_noise_is_never_asked_for_twice() {
    let mut draws = Vec::new();
    let known = Known {
        z0: image(1.0),
        unknown: Tensor::<4, Bool>::from_data([[[[true, false], [true, false]]]], &Device::flex()),
    };
    let options = InpaintOptions {
        resamplings: 1,
        jump: 3,
        ..Default::default()
    };
    let mut steps = 0;
    inpaint(
        &twins,
        images(1),
        &trajectory(9),
        &known,
        options,
        &mut |draw| {
            draws.push(draw);
            images(1)
        },
        &mut |progress| {
            steps += 1;
            assert_eq!(progress.step, steps);
        },
    )
    .unwrap();
    assert!(draws.iter().copied().eq(1..=draws.len()), "{draws:?}");
    assert_eq!(steps, 9 + 2 * 3 * 2);
}

#[test]
fn an_impossible_eta_is_refused() {
    let known = Known {
        z0: image(1.0),
        unknown: Tensor::<4, Bool>::from_data([[[[true, false], [true, false]]]], &Device::flex()),
    };
    let options = InpaintOptions {
        eta: 1.5,
        ..Default::default()
    };
    let (levels, fresh_noise) = (trajectory(2), &mut |_| images(1));
    let filled = inpaint(
        &twins,
        images(1),
        &levels,
        &known,
        options,
        fresh_noise,
        &mut |_| (),
    );
    assert!(filled.unwrap_err().to_string().contains("eta"));
}

/// The results of diffusers' own schedulers, from `tests/fixtures/editing` (made by `make.py` there).
struct Fixture(Vec<u8>);

impl Fixture {
    fn read() -> Self {
        let path = "/../../tests/fixtures/editing/editing.safetensors";
        let path = format!("{}{path}", env!("CARGO_MANIFEST_DIR"));
        Self(std::fs::read(path).unwrap())
    }

    fn data(&self, name: &str) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        tensors.tensor(name).unwrap().data().to_vec()
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        (self.data(name).chunks_exact(8))
            .map(|value| i64::from_le_bytes(value.try_into().unwrap()) as usize)
            .collect()
    }

    /// `[count, 1, 4, 4]` cut into `[1, 1, 4, 4]`.
    fn images(&self, name: &str) -> Vec<Tensor<4>> {
        let values: Vec<f32> = (self.data(name).chunks_exact(4))
            .map(|value| f32::from_le_bytes(value.try_into().unwrap()))
            .collect();
        let image = |pixels: &[f32]| TensorData::new(pixels.to_vec(), [1, 1, 4, 4]);
        (values.chunks_exact(16))
            .map(|pixels| Tensor::from_data(image(pixels), &Device::flex()))
            .collect()
    }
}

/// The network of diffusers' own tests.
fn toy_denoiser() -> impl Denoiser {
    NetworkDenoiser {
        network: |zt: Tensor<4>, level: Level| zt * (level.timestep / (level.timestep + 1.0)),
        prediction: Prediction::Noise,
        clip: None,
    }
}

fn leading(timesteps: usize, steps: usize) -> Vec<Level> {
    let config = ScheduleConfig {
        num_train_timesteps: timesteps,
        ..Default::default()
    };
    let schedule = Schedule::new(config).unwrap();
    levels(&schedule, steps, LevelOptions::default()).unwrap()
}

#[test]
fn plain_inversion_is_that_of_diffusers() {
    for steps in [10, 50] {
        let mut theirs = Fixture::read()
            .images(&format!("inverted/{steps}"))
            .into_iter();
        let image = theirs.next().unwrap();
        let levels = leading(1000, steps);
        invert(&toy_denoiser(), image, &levels, 0, &mut |progress| {
            let theirs = theirs.next().unwrap();
            let difference = largest_difference(progress.z.clone(), theirs);
            assert!(
                difference < 1e-4,
                "step {} of {steps}: {difference}",
                progress.step
            );
        });
        assert!(theirs.next().is_none());
    }
}

#[test]
fn the_levels_are_visited_in_the_order_of_diffusers() {
    for (steps, jump, samples) in [(12, 3, 2), (50, 10, 10), (7, 1, 3), (20, 6, 1)] {
        let options = InpaintOptions {
            resamplings: samples - 1,
            jump,
            ..Default::default()
        };
        // diffusers lists the timestep where a step down begins, or below which a step up ends.
        let visited = visits(steps, options);
        let ours = visited.windows(2).map(|pair| {
            let begins = steps - 1 - pair[0].min(pair[1]);
            if pair[1] > pair[0] {
                begins
            } else {
                begins + 1
            }
        });
        let scale = 1000 / steps;
        let theirs = Fixture::read().integers(&format!("visited/{steps}/{jump}/{samples}"));
        let theirs = theirs.into_iter().map(|timestep| timestep / scale);
        assert!(ours.eq(theirs), "{steps} steps: {visited:?}");
    }
}

#[test]
fn inpainting_is_that_of_diffusers() {
    let fixture = Fixture::read();
    let (levels, options) = (leading(12, 12), |eta| InpaintOptions {
        eta,
        resamplings: 1,
        jump: 3,
        forgets: false,
    });
    let mask = fixture.images("mask").remove(0);
    let known = Known {
        z0: fixture.images("original").remove(0),
        unknown: mask.equal_elem(0.0),
    };
    for eta in [0.0, 1.0] {
        let mut theirs = fixture.images(&format!("inpainted/{eta:.0}/z")).into_iter();
        let drawn = fixture.images(&format!("inpainted/{eta:.0}/noise"));
        // diffusers uses one noise for both parts of the image; kiln draws no noise for a step to the clean image.
        let visited = visits(12, options(eta));
        let mut noises = Vec::new();
        for (pair, noise) in visited.windows(2).zip(drawn) {
            let draws = match (pair[1] > pair[0], pair[1] == 12) {
                (true, true) => 0,
                (true, false) if eta > 0.0 => 2,
                _ => 1,
            };
            noises.extend(vec![noise; draws]);
        }
        let start = theirs.next().unwrap();
        inpaint(
            &toy_denoiser(),
            start,
            &levels,
            &known,
            options(eta),
            &mut |draw| noises[draw - 1].clone(),
            &mut |progress| {
                let theirs = theirs.next().unwrap();
                let difference = largest_difference(progress.z.clone(), theirs);
                assert!(
                    difference < 1e-5,
                    "eta {eta}, step {}: {difference}",
                    progress.step
                );
            },
        )
        .unwrap();
        assert!(theirs.next().is_none());
    }
}
