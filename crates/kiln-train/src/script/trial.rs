//! A few real steps of a training, timed, to tell how long all of them will take.
//!
//! The stage prepares itself as for a training, and the steps are those of [`crate::steps`]: reading the batch and adding its
//! noise, loss, gradients, update, averages. What comes between rounds is left out: validations, pictures, checkpoints.

use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use kiln_data::{Progress, ProgressUnit, Task};
use serde::Serialize;

use crate::error::TrainError;
use crate::learner::loader::{BatchSource, Batches};
use crate::learner::plan::Plan;
use crate::run_folder::RunFolder;
use crate::script::options::RunOptions;
use crate::script::{Prepared, Scene, Stage};
use crate::steps::{one_pass, steps};

/// The most timed steps of a trial: more would hardly change their mean.
const MOST_STEPS: usize = 100;

/// The speed of a training's steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pace {
    /// The timed steps.
    pub steps: usize,
    /// Their mean, in seconds: other programs may hold up some of them, as they will in the training.
    pub seconds_per_step: f64,
}

/// Does the steps of `stage` from step `first` to the last one, again and again for about as long as `limit`, in the run
/// folder of `options`, which has no training, and times all but the first one: it allocates memory, and fills caches. There
/// is at least one.
///
/// # Errors
/// The errors of the training's own start, and of its steps.
pub(crate) fn trial<S: Stage>(
    stage: &S,
    options: &RunOptions,
    first: usize,
    limit: Duration,
    progress: &dyn Progress,
) -> Result<Pace, TrainError> {
    let run = RunFolder::new(&options.out);
    let folder = stage.folder(&run);
    let start = stage.start(options, &run, &folder)?;
    let found = stage.find(&start, &run, progress)?;
    let datasets = options.datasets(stage.data(), progress)?;
    stage.check_data(&datasets)?;
    let training = one_pass(stage.training());
    let devices: Vec<Device> = (options.devices.all().iter())
        .map(|device| device.clone().autodiff())
        .collect();
    let plan = Plan::new(
        &training,
        datasets.train.passes(),
        devices.len(),
        stage.seed(),
    );
    let scene = Scene {
        options,
        run: &run,
        folder,
        datasets,
        plan: Arc::new(plan),
        session: start.session.clone(),
        begun_with: found.begun_with,
        progress,
    };
    let Prepared {
        trainee, source, ..
    } = stage.prepare(found.networks, &scene)?;

    let flips = source.flips();
    let mut batches: Vec<Batches<_>> = Vec::new();
    for (place, device) in devices.iter().enumerate() {
        let plan = scene.plan.clone();
        // Nothing is defined after the last step of a training.
        let shares = scene.plan.shares(first..training.steps, place).cycle();
        let shares = shares.map(move |(step, slot)| plan.share(step, slot, flips));
        batches.push(source.batches(shares, device));
    }
    let next = move |_, device: usize| {
        let batch = batches[device].next();
        let batch = batch.ok_or_else(|| TrainError::Learner("there are no more batches".into()))?;
        batch.map_err(|error| TrainError::Learner(error.to_string()))
    };
    let step = steps(trainee, &training, scene.session.clone(), devices, next);
    let pace = timed(step, limit, stage.name(), progress)?;
    Ok(Pace {
        // A step of several micro-batches.
        seconds_per_step: pace.seconds_per_step * stage.training().accumulate as f64,
        ..pace
    })
}

/// Calls `step`, whose losses are waited for, for about as long as `limit`.
fn timed(
    mut step: impl FnMut() -> Result<burn::tensor::Tensor<1>, TrainError>,
    limit: Duration,
    name: &str,
    progress: &dyn Progress,
) -> Result<Pace, TrainError> {
    let mut timed_step = || {
        let began = Instant::now();
        // A GPU has finished the step once its loss can be read.
        let read = step()?.try_into_data();
        read.map_err(|error| TrainError::Learner(error.to_string()))?;
        Ok::<_, TrainError>(began.elapsed())
    };
    let all = limit.as_millis() as u64;
    let task = Task::begin(
        progress,
        &format!("timing steps of {name}"),
        ProgressUnit::Work,
        Some(all),
    );
    let began = Instant::now();
    let mut shown = 0;
    let mut show = || {
        let now = (began.elapsed().as_millis() as u64).min(all);
        task.advance(now - shown);
        shown = now;
    };
    timed_step()?;
    show();
    let (mut steps, mut time) = (0, Duration::ZERO);
    while steps == 0 || (began.elapsed() < limit && steps < MOST_STEPS) {
        time += timed_step()?;
        steps += 1;
        show();
    }
    Ok(Pace {
        steps,
        seconds_per_step: time.as_secs_f64() / steps as f64,
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;
    use kiln_data::NoProgress;

    use super::*;

    #[test]
    fn the_first_step_does_not_count_and_one_always_does() {
        let mut done = 0;
        let step = || {
            done += 1;
            let milliseconds = if done == 1 { 60 } else { 2 };
            std::thread::sleep(Duration::from_millis(milliseconds));
            Ok(Tensor::<1>::zeros([1], &Device::flex()))
        };
        let pace = timed(step, Duration::from_millis(1), "test", &NoProgress).unwrap();
        assert_eq!((done, pace.steps), (2, 1));
        assert!(pace.seconds_per_step < 0.05, "{pace:?}");
    }
}
