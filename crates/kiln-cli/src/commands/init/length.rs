//! Decides on the number of steps: by the number of images, and by the time that they take here.

use super::choices::{Choices, Space};
use crate::commands::expectations::{rounded, time_in_words};

/// The longest time of all steps, in seconds: a night.
const NIGHT: f64 = 8.0 * 3600.0;
/// The fewest steps of a training.
const FEWEST: usize = 200;

/// How often a stage sees images.
struct Appetite {
    /// Passes over a large set.
    passes: f64,
    /// The images of all passes, at least and at most.
    images: [f64; 2],
    /// A pass over a small set tells little new, so it gets no more than so many.
    most_passes: f64,
}

const FIRST_STAGE: Appetite = Appetite {
    passes: 20.0,
    images: [25_000.0, 128_000.0],
    most_passes: 150.0,
};

const UNET: Appetite = Appetite {
    passes: 60.0,
    images: [64_000.0, 800_000.0],
    most_passes: 300.0,
};

/// The length of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Length {
    pub steps: usize,
    pub passes: f64,
    /// The measured time of a step.
    pub seconds_per_step: Option<f64>,
    /// The steps that the data would want, if there is no time for them.
    pub wanted: Option<usize>,
}

/// The lengths of an experiment's stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths {
    /// Only in latent space.
    pub first_stage: Option<Length>,
    pub unet: Length,
}

impl Lengths {
    /// By the number of images alone.
    pub fn wanted(choices: &Choices) -> Self {
        let of = |appetite: &Appetite| Length::of(appetite, choices.images, choices.batch);
        Self {
            first_stage: (choices.space == Space::Latent).then(|| of(&FIRST_STAGE)),
            unet: of(&UNET),
        }
    }

    /// Shortened, if they would take longer than a night with steps of these seconds, of each stage.
    pub fn within_a_night(mut self, seconds_per_step: &[f64]) -> Self {
        let mut stages: Vec<&mut Length> = (self.first_stage.iter_mut())
            .chain([&mut self.unet])
            .collect();
        let times = stages.iter_mut().zip(seconds_per_step);
        let mut all = 0.0;
        for (stage, &seconds) in times {
            stage.seconds_per_step = Some(seconds);
            all += stage.steps as f64 * seconds;
        }
        for stage in stages {
            stage.shorten(NIGHT / all);
        }
        self
    }
}

impl Length {
    fn of(appetite: &Appetite, images: usize, batch: usize) -> Self {
        let images = images.max(1) as f64;
        let [least, most] = appetite.images;
        let seen = (appetite.passes * images).clamp(least, most);
        let seen = seen.min(appetite.most_passes * images);
        let steps = round((seen / batch as f64) as usize).max(FEWEST);
        Self {
            steps,
            passes: (steps * batch) as f64 / images,
            seconds_per_step: None,
            wanted: None,
        }
    }

    /// To this share of its steps, if it is below 1.
    fn shorten(&mut self, share: f64) {
        let steps = round((self.steps as f64 * share) as usize).max(FEWEST);
        if share < 1.0 && steps < self.steps {
            self.wanted = Some(self.steps);
            self.passes *= steps as f64 / self.steps as f64;
            self.steps = steps;
        }
    }

    /// Why it is so long.
    pub fn why(&self) -> String {
        let time = self.seconds_per_step.map_or_else(String::new, |seconds| {
            let all = seconds * self.steps as f64;
            let [all, pass, step] = [all, all / self.passes, seconds].map(time_in_words);
            format!("; measured: {step} each, {pass} a pass, {all} in all")
        });
        let wanted = self.wanted.map_or_else(String::new, |wanted| {
            format!("; {wanted} would be better, but take longer than a night")
        });
        format!("{} passes{time}{wanted}", rounded(self.passes))
    }

    /// Steps from one checkpoint to the next: twenty in all.
    pub fn checkpoint_every(&self) -> usize {
        round(self.steps / 20).max(10)
    }

    /// Steps in which the learning rate rises.
    pub fn warmup(&self) -> usize {
        round(self.steps / 40).clamp(5, 500)
    }

    /// The decay of the weights' average: it reaches back over a tenth of the training, and 1,000 steps at most.
    pub fn ema_decay(&self) -> f64 {
        let decay = 1.0 - 10.0 / self.steps as f64;
        ((decay * 1000.0).round() / 1000.0).clamp(0.9, 0.999)
    }
}

/// Two digits, and zeros: 1,234 to 1,200.
fn round(number: usize) -> usize {
    let unit = 10_usize.pow(number.max(1).ilog10().saturating_sub(1));
    number / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(images: usize, batch: usize) -> [Length; 2] {
        [FIRST_STAGE, UNET].map(|appetite| Length::of(&appetite, images, batch))
    }

    #[test]
    fn small_sets_get_fewer_steps_and_large_ones_fewer_passes() {
        for stage in [0, 1] {
            let steps = [2, 50, 400, 7000, 60_000].map(|images| lengths(images, 32)[stage].steps);
            assert!(steps.is_sorted() && steps[0] == FEWEST, "{steps:?}");
            let passes = [400, 7000, 60_000].map(|images| lengths(images, 32)[stage].passes);
            assert!(passes.is_sorted_by(|one, next| one > next), "{passes:?}");
        }
        assert_eq!(
            lengths(6552, 32)[1].steps,
            12_000,
            "as configs/flowers.toml"
        );
    }

    #[test]
    fn a_night_is_enough() {
        let [first_stage, unet] = lengths(60_000, 64);
        let lengths = Lengths {
            first_stage: Some(first_stage),
            unet,
        };
        let fast = lengths.clone().within_a_night(&[0.1, 0.1]);
        assert_eq!(
            (fast.unet.steps, &fast.unet.wanted),
            (lengths.unet.steps, &None)
        );
        let slow = lengths.clone().within_a_night(&[20.0, 10.0]);
        let first = slow.first_stage.unwrap();
        let seconds = first.steps as f64 * 20.0 + slow.unet.steps as f64 * 10.0;
        assert!(seconds <= NIGHT && seconds > 0.8 * NIGHT, "{seconds}");
        assert_eq!(slow.unet.wanted, Some(lengths.unet.steps));
        assert!(slow.unet.why().contains("night"));
        assert!(slow.unet.passes < lengths.unet.passes);
    }

    #[test]
    fn periods_fit_the_length() {
        for images in [2, 100, 5000, 60_000] {
            for length in lengths(images, 16) {
                assert!(length.checkpoint_every() <= length.steps);
                assert!(length.warmup() < length.steps);
                assert!((0.9..=0.999).contains(&length.ema_decay()));
            }
        }
        assert_eq!([1234, 99, 7, 0, 100].map(round), [1200, 99, 7, 0, 100]);
    }
}
