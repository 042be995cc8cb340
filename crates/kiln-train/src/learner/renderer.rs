//! Plain lines for pipes and log files: one per round, and one per minute in between. A terminal shows Burn's dashboard
//! instead.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricAttributes, MetricDefinition, MetricId, NumericEntry};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

use crate::counted;
use crate::learner::plan::Plan;
use crate::learner::session::Session;

/// The time before a line reports the progress within a round.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints `step 1500/20000  pass 1.60  train/validation: loss 0.1234/0.1250 ...  812 images/s  25 min left` after a round.
pub(crate) struct LineRenderer {
    plan: Arc<Plan>,
    session: Session,
    steps: usize,
    /// In the order of display.
    metrics: Vec<MetricDefinition>,
    train: HashMap<MetricId, f64>,
    valid: HashMap<MetricId, f64>,
    round_began: Instant,
    began_at_step: usize,
    images_per_second: f64,
    /// The time and the step at which the training began.
    began: (Instant, usize),
    said: Instant,
    trains: bool,
}

impl LineRenderer {
    pub(crate) fn new(plan: Arc<Plan>, session: Session, steps: usize) -> Self {
        Self {
            began_at_step: session.steps_done(),
            began: (Instant::now(), session.steps_done()),
            said: Instant::now(),
            trains: false,
            plan,
            session,
            steps,
            metrics: Vec::new(),
            train: HashMap::new(),
            valid: HashMap::new(),
            round_began: Instant::now(),
            images_per_second: 0.0,
        }
    }

    /// Standard output is for results, and a closed reader must not end the training. Only rank 0 prints.
    fn say(&mut self, line: &str) {
        self.said = Instant::now();
        if self.session.ranks().is_first() {
            // At once, because other ranks print there, too.
            let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
        }
    }

    fn line(&self, step: usize) -> String {
        let mut line = format!(
            "step {step}/{}  pass {:.2}",
            self.steps,
            self.plan.passes(step)
        );
        let mut metrics = String::new();
        let mut has_both = false;
        for MetricDefinition {
            metric_id,
            name,
            attributes,
            ..
        } in &self.metrics
        {
            let train = self.train.get(metric_id).filter(|value| value.is_finite());
            let valid = self.valid.get(metric_id).filter(|value| value.is_finite());
            let unit = match attributes {
                MetricAttributes::Numeric(attributes) => attributes.unit.as_ref(),
                MetricAttributes::None => None,
            };
            let unit = unit.map_or(String::new(), |unit| format!(" {unit}"));
            metrics += &match (train, valid) {
                (Some(train), Some(valid)) => {
                    has_both = true;
                    format!("{name} {train:.4}/{valid:.4}{unit}  ")
                }
                (Some(value), None) | (None, Some(value)) => format!("{name} {value:.4}{unit}  "),
                (None, None) => continue,
            };
        }
        line += if has_both {
            "  train/validation: "
        } else {
            "  "
        };
        line += &metrics;
        // Unless it only makes up for a validation.
        if self.images_per_second > 0.0 {
            line += &format!("{:.0} images/s", self.images_per_second);
        }
        line.trim_end().to_owned() + &self.left(step)
    }

    /// `step 1520/20000  pass 1.62  8%  25 min left`, in the middle of a round.
    fn line_within_round(&self, step: usize) -> String {
        let (steps, pass) = (self.steps, self.plan.passes(step));
        let percent = 100 * step / steps.max(1);
        format!("step {step}/{steps}  pass {pass:.2}  {percent}%") + &self.left(step)
    }

    /// The remaining time after `step` steps, at the speed so far, including validation and pictures.
    fn left(&self, step: usize) -> String {
        let (began, first) = self.began;
        let left = time_left(
            began.elapsed(),
            step.saturating_sub(first),
            self.steps - step.min(self.steps),
        );
        left.map_or(String::new(), |left| format!("  {left} left"))
    }
}

/// The time of `left` steps in words, if `done` steps took `elapsed`; `None` if it is unknown or nothing is left.
fn time_left(elapsed: Duration, done: usize, left: usize) -> Option<String> {
    if done == 0 || left == 0 {
        return None;
    }
    let seconds = (elapsed.as_secs_f64() * left as f64 / done as f64).ceil() as u64;
    Some(match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    })
}

fn remember(values: &mut HashMap<MetricId, f64>, state: MetricState) {
    if let MetricState::Numeric(entry, Some(NumericEntry::Final(value))) = state {
        values.insert(entry.metric_id, value);
    }
}

impl MetricsRendererTraining for LineRenderer {
    fn update_train(&mut self, state: MetricState) {
        remember(&mut self.train, state);
    }

    fn update_valid(&mut self, state: MetricState) {
        remember(&mut self.valid, state);
    }
}

impl TrainingProgressLogger for LineRenderer {
    fn start(&mut self, _rounds: usize, _first: usize, _items: Option<usize>, label: Option<&str>) {
        let Self {
            plan,
            steps,
            began_at_step,
            ..
        } = self;
        let (label, images) = (label.unwrap_or("training"), plan.step_images());
        let from = match began_at_step {
            0 => String::new(),
            step if self.session.owes_validation() => {
                format!(", going on with the validation of step {step}")
            }
            step => format!(", going on after step {step}"),
        };
        let (steps, images) = (counted(*steps, "step"), counted(images, "image"));
        let line = format!("{label}: {steps} of {images}{from}");
        self.began = (Instant::now(), self.began_at_step);
        self.say(&line);
    }

    fn start_split(&mut self, split: &str, _total_items: usize) {
        self.trains = split == "train";
        if self.trains {
            self.round_began = Instant::now();
            self.valid.clear();
        }
    }

    /// This process has seen `images` of the round.
    fn update_split(&mut self, images: usize) {
        if self.trains && self.said.elapsed() >= PATIENCE {
            let step = self.plan.step_after(self.session.steps_done(), images);
            self.say(&self.line_within_round(step));
        }
    }

    fn end_split(&mut self) {
        let steps = self.session.steps_done() - self.began_at_step;
        if steps > 0 {
            let images = (steps * self.plan.step_images()) as f64;
            self.images_per_second = images / self.round_began.elapsed().as_secs_f64();
            self.began_at_step += steps;
        }
    }

    fn update_epoch(&mut self, _round: usize) {
        self.say(&self.line(self.session.steps_done()));
    }

    fn end(&mut self) {}

    fn log_event_training(&mut self, _event: String) {}
}

impl MetricsRenderer for LineRenderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.metrics.push(definition);
    }
}

// Burn requires this of every renderer; training never evaluates in Burn's sense.

impl MetricsRendererEvaluation for LineRenderer {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl EvaluationProgressLogger for LineRenderer {
    fn start_global_progress(&mut self, _total_tests: usize) {}
    fn start_test(&mut self, _name: &str, _total_items: usize) {}
    fn update_test_progress(&mut self, _items_processed: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _event: String) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::TrainingConfig;
    use crate::learner::session::StopSignal;

    #[test]
    fn a_line_in_the_middle_of_a_round_says_how_far_the_training_is() {
        let training = "steps = 25\nbatch_size = 4\nlearning_rate = 0.1\ncheckpoint_every = 10";
        let training: TrainingConfig = toml::from_str(training).unwrap();
        let plan = Arc::new(Plan::new(&training, 50, 1, 0));
        let session = Session::new(13, StopSignal::default());
        let line = LineRenderer::new(plan, session, training.steps).line_within_round(15);
        assert!(line.starts_with("step 15/25  pass 1.20  60%"), "{line}");
        assert!(line.ends_with(" left"), "{line}");
    }

    #[test]
    fn time_left_follows_from_the_speed_so_far() {
        let left = |seconds, done, left| time_left(Duration::from_secs(seconds), done, left);
        assert_eq!(left(10, 100, 300).unwrap(), "30 s");
        assert_eq!(left(60, 10, 95).unwrap(), "10 min");
        assert_eq!(left(3600, 10, 25).unwrap(), "2 h 30 min");
        assert_eq!(left(10, 0, 25), None);
        assert_eq!(left(10, 25, 0), None);
    }
}
