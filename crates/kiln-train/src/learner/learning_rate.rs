//! The learning rate over time: linear warm-up, then half a cosine.

use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};

use crate::experiment::TrainingConfig;

/// At step s of S, with W steps of warm-up (Loshchilov & Hutter 2017, equation 5, without restarts):
///
/// - s < W: `peak (s + 1) / W`
/// - otherwise: `last + (peak - last) (1 + cos(pi (s - W) / (S - W))) / 2`
#[derive(Debug, Clone)]
pub struct WarmupCosine {
    peak: f64,
    last: f64,
    warmup: usize,
    steps: usize,
    next_step: usize,
}

impl WarmupCosine {
    /// The rates of one training, from its first step.
    pub fn new(training: &TrainingConfig) -> Self {
        Self {
            peak: training.learning_rate,
            last: training.final_learning_rate,
            warmup: training.warmup_steps.min(training.steps),
            steps: training.steps,
            next_step: 0,
        }
    }

    /// The rate of step `step`, counted from zero.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let total = (self.steps - self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / total).min(1.0);
        self.last + (self.peak - self.last) * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0
    }
}

impl LrScheduler for WarmupCosine {
    fn step(&mut self) -> f64 {
        let rate = self.at(self.next_step);
        self.next_step += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar("next_step", self.next_step)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        if let Some(step) = record.scalar("next_step") {
            self.next_step = step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> WarmupCosine {
        WarmupCosine {
            peak: 1e-3,
            last: 1e-5,
            warmup: 10,
            steps: 110,
            next_step: 0,
        }
    }

    #[test]
    fn rises_linearly_then_falls_along_a_cosine() {
        let rate = schedule();
        assert!((rate.at(0) - 1e-4).abs() < 1e-15);
        assert!((rate.at(9) - 1e-3).abs() < 1e-15);
        assert!((rate.at(10) - 1e-3).abs() < 1e-15);
        assert!(
            (rate.at(60) - (1e-3 + 1e-5) / 2.0).abs() < 1e-12,
            "half-way down"
        );
        assert!((rate.at(110) - 1e-5).abs() < 1e-15);
        assert!((rate.at(10_000) - 1e-5).abs() < 1e-15, "stays at the end");
    }

    #[test]
    fn a_record_continues_where_it_was_taken() {
        let mut first = schedule();
        for _ in 0..42 {
            first.step();
        }
        let mut second = schedule();
        second.load_record(first.to_record());
        assert_eq!(first.step(), second.step());
    }
}
