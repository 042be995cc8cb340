//! One plain line a round, for pipes and log files. On a terminal Burn's dashboard takes its place.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

use crate::plan::Plan;
use crate::session::Session;

/// Prints `step 1500/20000  pass 1.60  loss 0.1234/0.1250 ... 812 images/s`, each metric as training/validation.
pub(crate) struct LineRenderer {
    plan: Arc<Plan>,
    session: Session,
    steps: usize,
    /// In the order in which they are shown.
    metrics: Vec<MetricDefinition>,
    train: HashMap<MetricId, f64>,
    valid: HashMap<MetricId, f64>,
    round_began: Instant,
    began_at_step: usize,
    images_per_second: f64,
}

impl LineRenderer {
    pub(crate) fn new(plan: Arc<Plan>, session: Session, steps: usize) -> Self {
        Self {
            began_at_step: session.steps_done(),
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

    /// Standard output is for results; and a reader that has gone must not end the training. Rank 0 speaks for all.
    fn say(&self, line: &str) {
        if self.session.ranks().is_first() {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    fn line(&self, step: usize) -> String {
        let mut line = format!(
            "step {step}/{}  pass {:.2}",
            self.steps,
            self.plan.passes(step)
        );
        for MetricDefinition {
            metric_id, name, ..
        } in &self.metrics
        {
            let train = self.train.get(metric_id).filter(|value| value.is_finite());
            let valid = self.valid.get(metric_id).filter(|value| value.is_finite());
            line += &match (train, valid) {
                (Some(train), Some(valid)) => format!("  {name} {train:.4}/{valid:.4}"),
                (Some(value), None) | (None, Some(value)) => format!("  {name} {value:.4}"),
                (None, None) => continue,
            };
        }
        line + &format!("  {:.0} images/s", self.images_per_second)
    }
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
            step => format!(", going on after step {step}"),
        };
        let line = format!("{label}: {steps} steps of {images} images{from}");
        self.say(&line);
    }

    fn start_split(&mut self, split: &str, _total_items: usize) {
        if split == "train" {
            self.round_began = Instant::now();
            self.valid.clear();
        }
    }

    fn update_split(&mut self, _items_processed: usize) {}

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

// Burn asks every renderer to know about evaluation, which training never does.

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
