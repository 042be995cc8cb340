//! Runs any recipe on Burn's Learner, and adds the following to it, each through an extension point of Burn:
//!
//! | file | adds | with |
//! | --- | --- | --- |
//! | `recipe`, `losses` | one trained module for all stages | `TrainStep`, `InferenceStep` |
//! | `recorded_step` | steps that a GPU repeats by itself | `TrainStep` |
//! | `plan`, `loader`, `held_out` | an order of images that depends on seed and step alone | `DataLoader` |
//! | `update`, `gradients` | global-norm clipping, EMA, a stop at gradients that are not finite | `TrainStep::optimize` |
//! | `together` | one operator for the update of all weights, on a GPU | `TrainStep::optimize` |
//! | `frozen` | networks that are used but not trained, on each device | |
//! | `moving_means` | averages over steps of what a step's images have in the mean | `TrainStep::optimize` |
//! | `over_ranks` | gradients summed over processes | `TrainStep::optimize` |
//! | `checkpointer` | whole, verified checkpoints that resume within a round | `Checkpointer`, `CheckpointingStrategy` |
//! | `report`, `log` | metrics, `metrics.csv`, `curves.svg` and `.png` | `Metric`, `MetricLogger` |
//! | `renderer`, `dashboard` | one line per round when piped, otherwise Burn's dashboard | `MetricsRenderer` |
//! | `session` | Ctrl-C, failures and the cursor, across Burn's threads | `Interrupter`, `EarlyStoppingStrategy` |
//!
//! A *round* here is the Learner's epoch: the steps from one checkpoint to the next.

mod checkpointer;
pub mod dashboard;
pub(crate) mod frozen;
pub(crate) mod gradients;
pub(crate) mod held_out;
pub(crate) mod images;
pub(crate) mod launch;
pub(crate) mod learning_rate;
pub(crate) mod loader;
pub(crate) mod log;
pub(crate) mod losses;
pub(crate) mod moving_means;
pub(crate) mod over_ranks;
pub(crate) mod plan;
pub(crate) mod recipe;
pub(crate) mod recorded_step;
mod renderer;
pub(crate) mod report;
pub(crate) mod session;
pub(crate) mod strategy;
pub(crate) mod together;
pub(crate) mod update;
