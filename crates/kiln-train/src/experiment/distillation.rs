//! The distillation of the U-Net.

use kiln_diffusion::{Guidance, Prediction, Spacing};
use serde::{Deserialize, Serialize};

use super::experiment_error::{ExperimentError, require, within};
use super::extent::Extent;
use super::sampling::SamplingConfig;

/// The U-Net learns from a trained one, its teacher, to draw in few steps: the table `[stage_2.distillation]`.
///
/// It begins with the teacher's weights, so `[unet]`, `[schedule]` and the prediction are the teacher's. `loss`, `loss_on`
/// and `loss_weight` do not count: each method has a loss of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum DistillationConfig {
    /// Easy consistency tuning (Geng et al. 2024): the student's clean image at a noise level must be its own clean image
    /// at a lower level, which comes closer as the training goes on. It never asks the teacher or its guide.
    ConsistencyTuning {
        /// After so many steps the two levels are half as far apart; default "12.5%".
        #[serde(default = "an_eighth")]
        halve_every: Extent,
    },
    /// Consistency distillation (Song et al. 2023; Luo et al. 2023): the student's clean image at a level must be its
    /// own clean image at the next level, where a step of the teacher leads.
    ConsistencyDistillation {
        /// The steps of the teacher from noise to image; default 50.
        #[serde(default = "fifty")]
        teacher_steps: usize,
        /// In so many pieces of the way from noise to image the student learns to reach the end of each piece (multistep
        /// consistency models, Heek et al. 2024), and draws in so many steps or in more. With 1, the default, it learns to reach
        /// the image from everywhere.
        #[serde(default = "one")]
        segments: usize,
        /// The scale of the teacher's guidance, which the student learns with the rest. If absent: the teacher's default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guidance: Option<f64>,
        /// The noise rates with guidance. If absent: the teacher's default, which is [0, 1] without a guide.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guidance_interval: Option<[f64; 2]>,
    },
    /// Moment matching (Salimans et al. 2024): after each of the student's few random steps, the teacher must see in its
    /// images what an auxiliary network sees there that knows no other images.
    MomentMatching {
        /// The student's steps from noise to image; default 4.
        #[serde(default = "four")]
        student_steps: usize,
        /// It learns to draw in half as many steps, too, and so on down to these; default: `student_steps`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fewest_steps: Option<usize>,
        /// The learning rate of the auxiliary network in units of the student's; default 3.
        #[serde(default = "three")]
        auxiliary_rate: f64,
        /// The share of the noisy images to which the student's own steps have led, as when it draws; the others are real images
        /// with noise. Default 0.
        #[serde(default)]
        simulated: f64,
        /// The scale of the teacher's guidance, as in consistency distillation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guidance: Option<f64>,
        /// The noise rates with guidance, as in consistency distillation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guidance_interval: Option<[f64; 2]>,
    },
    /// Progressive distillation (Salimans and Ho 2022): one step of the student must lead where two steps of the teacher
    /// do. Again and again the student becomes the next teacher, and takes half as many steps.
    Progressive {
        /// The steps of the first student; default 32. Its teacher takes twice as many.
        #[serde(default = "thirty_two")]
        first_steps: usize,
        /// The steps of the last student; default 4.
        #[serde(default = "four")]
        last_steps: usize,
        /// After so many training steps a student becomes the teacher; default "20%". The last one has the rest.
        #[serde(default = "a_fifth")]
        halve_every: Extent,
        /// The scale of the first teacher's guidance, as in consistency distillation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guidance: Option<f64>,
        /// The noise rates with guidance, as in consistency distillation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guidance_interval: Option<[f64; 2]>,
    },
}

fn an_eighth() -> Extent {
    Extent::Percent(12.5)
}
fn a_fifth() -> Extent {
    Extent::Percent(20.0)
}
fn fifty() -> usize {
    50
}
fn one() -> usize {
    1
}
fn three() -> f64 {
    3.0
}
fn thirty_two() -> usize {
    32
}
fn four() -> usize {
    4
}

/// Fills in how a student draws, where the `table` of an experiment with a distillation says nothing about it: by
/// consistency sampling in its segments, in 4 steps if there is one; after moment matching in its steps of DDPM; after
/// progressive distillation in its last steps of DDIM.
pub(super) fn complete(table: &mut toml::Table) {
    let stage_2 = table
        .get("stage_2")
        .and_then(|stage| stage.get("distillation"));
    let Some(distillation) = stage_2.and_then(toml::Value::as_table) else {
        return;
    };
    let number = |key: &str| distillation.get(key).and_then(toml::Value::as_integer);
    let method = distillation.get("method").and_then(toml::Value::as_str);
    let segments = number("segments").filter(|&segments| segments > 1);
    let steps = match method {
        Some("progressive") => number("last_steps"),
        Some("moment-matching") => number("student_steps"),
        _ => segments,
    };
    let steps = steps.unwrap_or(4);
    let kind = sampler_of_students(method.unwrap_or_default());
    let sampling = table
        .entry("sampling")
        .or_insert_with(|| toml::Table::new().into());
    if let Some(sampling) = sampling.as_table_mut() {
        sampling.entry("steps").or_insert(steps.into());
        let sampler = sampling.entry("sampler").or_insert_with(|| kind.into());
        if sampler.as_str() == Some("consistency") {
            let segments = segments.map(|segments| ("segments".to_owned(), segments.into()));
            let kind = ("kind".to_owned(), "consistency".into());
            *sampler = toml::Table::from_iter([kind].into_iter().chain(segments)).into();
        }
    }
}

/// The name of the sampler by which students of a method draw.
pub fn sampler_of_students(method: &str) -> &'static str {
    match method {
        "moment-matching" => "ddpm",
        "progressive" => "ddim",
        _ => "consistency",
    }
}

impl DistillationConfig {
    /// The name in a config file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ConsistencyTuning { .. } => "consistency-tuning",
            Self::ConsistencyDistillation { .. } => "consistency-distillation",
            Self::MomentMatching { .. } => "moment-matching",
            Self::Progressive { .. } => "progressive",
        }
    }

    /// Whether students become teachers.
    pub(crate) fn replaces_teacher(&self) -> bool {
        match *self {
            Self::ConsistencyTuning { .. }
            | Self::ConsistencyDistillation { .. }
            | Self::MomentMatching { .. } => false,
            Self::Progressive {
                first_steps,
                last_steps,
                ..
            } => last_steps < first_steps,
        }
    }

    /// The learning rate of the auxiliary network in units of the student's, for a method that has one.
    pub(crate) fn auxiliary_rate(&self) -> Option<f64> {
        match *self {
            Self::MomentMatching { auxiliary_rate, .. } => Some(auxiliary_rate),
            _ => None,
        }
    }

    /// Whether it says at which noise rates the teacher has guidance.
    pub(crate) fn has_interval(&self) -> bool {
        match self {
            Self::ConsistencyTuning { .. } => false,
            Self::ConsistencyDistillation {
                guidance_interval, ..
            }
            | Self::MomentMatching {
                guidance_interval, ..
            }
            | Self::Progressive {
                guidance_interval, ..
            } => guidance_interval.is_some(),
        }
    }

    /// The guidance of a teacher whose default is `default`; `None` for a method that does not ask the teacher.
    ///
    /// # Errors
    /// A scale or an interval that cannot be.
    pub fn guidance(&self, default: Guidance) -> Result<Option<Guidance>, ExperimentError> {
        let (scale, interval) = match *self {
            Self::ConsistencyTuning { .. } => return Ok(None),
            Self::ConsistencyDistillation {
                guidance,
                guidance_interval,
                ..
            }
            | Self::MomentMatching {
                guidance,
                guidance_interval,
                ..
            }
            | Self::Progressive {
                guidance,
                guidance_interval,
                ..
            } => (
                guidance.unwrap_or(default.scale()),
                guidance_interval.unwrap_or(default.interval()),
            ),
        };
        within(
            "stage_2.distillation.guidance",
            Guidance::new(scale, [0.0, 1.0]),
        )?;
        let guidance = Guidance::new(scale, interval);
        Ok(Some(within(
            "stage_2.distillation.guidance_interval",
            guidance,
        )?))
    }

    /// Checks the table for a training of `steps` of a network that predicts `prediction`, on a schedule of `timesteps` that
    /// is drawn from by `sampling`.
    pub(super) fn validate(
        &self,
        prediction: Prediction,
        steps: usize,
        sampling: &SamplingConfig,
        timesteps: usize,
    ) -> Result<(), ExperimentError> {
        const TABLE: &str = "stage_2.distillation";
        let key = |key: &str| format!("{TABLE}.{key}");
        let is_consistent = matches!(
            self,
            Self::ConsistencyTuning { .. } | Self::ConsistencyDistillation { .. }
        );
        require(
            !(is_consistent && prediction == Prediction::Signal),
            key("method"),
            self.name(),
            || {
                "the teacher predicts the signal, so that its clean image at no noise need not be what it is given, on which this method rests: use progressive".to_owned()
            },
        )?;
        require(
            sampling.spacing == Spacing::Trailing,
            "sampling.spacing",
            sampling.spacing.name(),
            || {
                "few steps must begin at the last timestep, and the student learns the trailing ones: leave it out".to_owned()
            },
        )?;
        self.guidance(Guidance::default())?;
        let advances = |every: Extent| {
            require(every.of(steps) > 0, key("halve_every"), every, || {
                "it must be at least one step".to_owned()
            })
        };
        let checked = match *self {
            Self::ConsistencyTuning { halve_every } => {
                advances(halve_every)?;
                require(
                    halve_every.of(steps) <= steps,
                    key("halve_every"),
                    halve_every,
                    || {
                        format!(
                            "a training of {steps} steps ends before that, and the two levels would stay far apart"
                        )
                    },
                )
            }
            Self::ConsistencyDistillation {
                teacher_steps,
                segments,
                ..
            } => {
                require(
                    (2..=timesteps).contains(&teacher_steps),
                    key("teacher_steps"),
                    teacher_steps,
                    || {
                        format!(
                            "it must lie between 2 and schedule.num_train_timesteps = {timesteps}"
                        )
                    },
                )?;
                require(
                    segments > 0 && segments < teacher_steps && teacher_steps % segments == 0,
                    key("segments"),
                    segments,
                    || {
                        format!(
                            "each segment must have the same number of the teacher's {teacher_steps} steps, and more than one"
                        )
                    },
                )
            }
            Self::MomentMatching {
                student_steps,
                fewest_steps,
                auxiliary_rate,
                simulated,
                ..
            } => {
                require(
                    (1..=timesteps).contains(&student_steps),
                    key("student_steps"),
                    student_steps,
                    || {
                        format!(
                            "it must lie between 1 and schedule.num_train_timesteps = {timesteps}"
                        )
                    },
                )?;
                let fewest = fewest_steps.unwrap_or(student_steps);
                require(
                    is_halved_to(student_steps, fewest),
                    key("fewest_steps"),
                    fewest,
                    || {
                        format!(
                            "halving {student_steps} (student_steps) again and again must lead there"
                        )
                    },
                )?;
                require(
                    auxiliary_rate > 0.0 && auxiliary_rate.is_finite(),
                    key("auxiliary_rate"),
                    auxiliary_rate,
                    || "it must be more than 0; 1 to 10 is usual".to_owned(),
                )?;
                require(
                    (0.0..=1.0).contains(&simulated),
                    key("simulated"),
                    simulated,
                    || "it is a share, from 0 to 1".to_owned(),
                )
            }
            Self::Progressive {
                first_steps,
                last_steps,
                halve_every,
                ..
            } => {
                require(
                    (1..=timesteps / 2).contains(&first_steps),
                    key("first_steps"),
                    first_steps,
                    || {
                        format!(
                            "the teacher takes twice as many, so it must lie between 1 and {}",
                            timesteps / 2
                        )
                    },
                )?;
                let halves = is_halved_to(first_steps, last_steps);
                require(halves, key("last_steps"), last_steps, || {
                    format!(
                        "halving {first_steps} (first_steps) again and again must lead there, as to {}",
                        first_steps / 2
                    )
                })?;
                advances(halve_every)?;
                let halvings = (first_steps / last_steps).ilog2() as usize;
                require(
                    halvings * halve_every.of(steps) < steps,
                    key("halve_every"),
                    halve_every,
                    || {
                        format!(
                            "from {first_steps} to {last_steps} steps there are {halvings} halvings, so a training of {steps} steps ends before the last one: a share below \"{}%\" fits any length",
                            100 / halvings.max(1)
                        )
                    },
                )
            }
        };
        checked?;
        if let Some(segments) = sampling.sampler.segments() {
            let learnt = match *self {
                Self::ConsistencyTuning { .. } => 1,
                Self::ConsistencyDistillation { segments, .. } => segments,
                Self::MomentMatching { student_steps, .. } => student_steps,
                Self::Progressive { last_steps, .. } => last_steps,
            };
            require(
                segments == learnt,
                "sampling.sampler.segments",
                segments,
                || format!("the student learns {learnt}: leave it out"),
            )?;
        }
        Ok(())
    }
}

/// Whether halving a number again and again leads to another one.
fn is_halved_to(number: usize, least: usize) -> bool {
    let ratio = number / least.max(1);
    least > 0 && number == ratio * least && ratio.is_power_of_two()
}
