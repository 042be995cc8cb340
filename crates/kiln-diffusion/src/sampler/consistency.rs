//! Multistep consistency sampling: for networks that were distilled to reach the end of a stretch of noise in one call.

use burn::tensor::Tensor;

use super::step_taken::StepTaken;
use crate::{Denoised, Denoiser, DiffusionError, Level};

/// Multistep consistency sampling (Song et al. 2023, algorithm 1), in segments (Heek et al. 2024).
///
/// The network was distilled to lead from anywhere in a segment to its end, by one step of DDIM. From each of `levels` with
/// rates a, b, a step goes to the end of its segment, with rates a", b", and back by fresh noise to the next level, with
/// rates a', b':
///
/// ```text
/// k  = (a' / a") b"
/// z' = a' z0 + k noise + sqrt(b'² - k²) fresh_noise
/// ```
///
/// `ends` are the ends of all segments, from high noise to the clean image; for n segments, the
/// [trailing levels](crate::trailing_levels) of n steps. With one segment k is 0, and a step forgets the noise that it came
/// from, as diffusers' `LCMScheduler` does. Where the next level is the end of the segment or lies beyond it, the step is
/// DDIM's, without fresh noise: so with as many steps as segments this is DDIM.
///
/// The clean image of a network that was not distilled is the mean of all possible ones, and the result is blurred. `noise`
/// and the result are `[batch, channels, height, width]`.
pub fn consistency(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    ends: &[Level],
    fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Tensor<4> {
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    for (step, [level, next]) in (1..).zip(levels.array_windows()) {
        let Denoised { z0, noise } = denoiser.denoise(z, *level);
        let end = end_of_segment(ends, *level).rates;
        let next = next.rates;
        let kept = match end.noise < next.noise {
            true => next.signal / end.signal * end.noise,
            false => next.noise,
        };
        let fresh = (next.noise * next.noise - kept * kept).max(0.0).sqrt();

        z = z0.clone() * next.signal;
        if kept > 0.0 {
            z = z + noise * kept;
        }
        if fresh > 0.0 {
            z = z + fresh_noise(step) * fresh;
        }
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    z
}

/// The end of the segment in which `level` lies: the first of `ends` with less noise. Without one, `level` itself.
pub fn end_of_segment(ends: &[Level], level: Level) -> Level {
    let mut ends = ends.iter();
    let end = ends.find(|end| end.rates.noise < level.rates.noise);
    *end.unwrap_or(&level)
}

pub(super) fn check(segments: usize) -> Result<(), DiffusionError> {
    match segments {
        0 => Err(DiffusionError::Number {
            key: "segments",
            value: 0.0,
            valid: "give a number from 1 on",
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::super::ddim::ddim;
    use super::super::ddpm::Variance;
    use super::*;
    use crate::noise::ImageNoise;
    use crate::{Rates, Schedule, ScheduleConfig, trailing_levels};

    /// The standard deviation of the images, whose pixels are normal and independent.
    const DEVIATION: f64 = 0.5;
    const SEGMENTS: usize = 4;

    fn walk(steps: usize) -> Vec<Level> {
        let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
        trailing_levels(&schedule, steps).unwrap()
    }

    fn noise() -> ImageNoise {
        ImageNoise {
            seed: 0,
            images: vec![0],
            shape: [1, 256, 256],
            device: Device::flex(),
        }
    }

    /// The perfect student: one step of DDIM with its clean image ends where the way of normal pixels leads, whose standard
    /// deviation changes with the level.
    fn student(zt: Tensor<4>, level: Level) -> Denoised {
        let end = end_of_segment(&walk(SEGMENTS), level).rates;
        let deviation = |rates: Rates| (rates.signal * DEVIATION).hypot(rates.noise);
        let reached = zt.clone() * (deviation(end) / deviation(level.rates));
        let ratio = end.noise / level.rates.noise;
        let z0 = (reached - zt.clone() * ratio) / (end.signal - ratio * level.rates.signal);
        let noise = (zt - z0.clone() * level.rates.signal) / level.rates.noise;
        Denoised { z0, noise }
    }

    /// What it draws in so many steps, and the steps that asked for fresh noise.
    fn drawn(steps: usize) -> (Vec<f32>, Vec<usize>) {
        let mut asked = Vec::new();
        let mut fresh_noise = |step| {
            asked.push(step);
            noise().draw(step)
        };
        let z = consistency(
            &student,
            noise().draw(0),
            &walk(steps),
            &walk(SEGMENTS),
            &mut fresh_noise,
            &mut |_| (),
        );
        (z.into_data().try_to_vec().unwrap(), asked)
    }

    #[test]
    fn in_as_many_steps_as_segments_it_is_ddim() {
        let (drawn, asked) = drawn(SEGMENTS);
        assert!(asked.is_empty(), "{asked:?}");
        let mut no_noise = |step| -> Tensor<4> { panic!("step {step} asked for noise") };
        let expected = ddim(
            &student,
            noise().draw(0),
            &walk(SEGMENTS),
            0.0,
            Variance::Small,
            &mut no_noise,
            &mut |_| (),
        );
        let expected: Vec<f32> = expected.unwrap().into_data().try_to_vec().unwrap();
        assert_eq!(drawn, expected);
    }

    #[test]
    fn more_steps_draw_from_the_same_distribution() {
        for (steps, expected) in [(8, vec![1, 3, 5, 7]), (12, vec![1, 2, 4, 5, 7, 8, 10, 11])] {
            let (drawn, asked) = drawn(steps);
            assert_eq!(asked, expected);
            let squares = drawn.iter().map(|&value| f64::from(value).powi(2));
            let deviation = (squares.sum::<f64>() / drawn.len() as f64).sqrt();
            assert!((deviation - DEVIATION).abs() < 0.01, "{steps}: {deviation}");
        }
    }

    #[test]
    fn the_end_of_a_segment_has_less_noise() {
        let ends = walk(SEGMENTS);
        let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
        for (timestep, expected) in [
            (999.0, 749.0),
            (760.0, 749.0),
            (749.0, 499.0),
            (250.0, 249.0),
        ] {
            let end = end_of_segment(&ends, schedule.level(timestep));
            assert_eq!(end.timestep, expected, "{timestep}");
        }
        for timestep in [249.0, 19.0, 0.0] {
            let end = end_of_segment(&ends, schedule.level(timestep));
            assert_eq!(end.rates.noise, 0.0);
        }
    }
}
