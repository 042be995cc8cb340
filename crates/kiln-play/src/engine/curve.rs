//! Schedules: their curves, and a picture with that much noise.

use kiln_data::ImageShape;
use kiln_diffusion::{LevelOptions, Schedule, ScheduleConfig, Spacing, levels, noise};
use kiln_pipeline::pictures::Images;

use super::pictures;
use super::{Refusal, Tell};
use crate::protocol::{Answer, LevelAt, Sheet};

/// Points of a curve.
const POINTS: usize = 200;
/// More steps than a plot has use for.
const MOST_STEPS: u32 = 1000;

/// Tells the curve of a schedule, and the levels that so many steps visit.
pub(super) fn schedule(
    config: &ScheduleConfig,
    steps: u32,
    spacing: Spacing,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    if steps > MOST_STEPS {
        return Err(Refusal::Question(format!(
            "{steps} steps are too many to show: up to {MOST_STEPS}"
        )));
    }
    let schedule = Schedule::new(config.clone())?;
    let options = LevelOptions {
        spacing,
        ..LevelOptions::default()
    };
    let last = (schedule.num_train_timesteps() - 1) as f64;
    let curve = (0..=POINTS).map(|point| schedule.level(last * point as f64 / POINTS as f64));
    let visited = levels(&schedule, steps as usize, options)?;
    let answer = Answer::Schedule {
        curve: curve.map(LevelAt::from).collect(),
        visited: visited.into_iter().map(LevelAt::from).collect(),
        warning: schedule.warning(),
    };
    tell.tell(answer, pictures::Bytes::default())
}

/// Tells what noise makes of a picture.
pub(super) fn noised(
    bytes: &[u8],
    given: &Sheet,
    [signal, noise]: [f64; 2],
    seed: u32,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    // A gray picture gets gray noise.
    let is_gray = (bytes.chunks_exact(4)).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]);
    let shape = ImageShape {
        channels: if is_gray { 1 } else { 3 },
        height: given.height as usize,
        width: given.width as usize,
    };
    let clean = pictures::read(bytes, given, shape)?.first(1);
    let fresh = noise::normal(seed.into(), 0, 0, clean.image_len());
    let noisy = clean.values().iter().zip(fresh);
    let noisy: Vec<f32> = noisy
        .map(|(value, fresh)| signal as f32 * value + noise as f32 * fresh)
        .collect();
    let mut images = Images::empty(shape.channels, shape.height, shape.width);
    images.extend(&noisy);
    super::drawing::tell_images(&images, tell)
}
