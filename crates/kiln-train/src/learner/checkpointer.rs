//! Saves a checkpoint after every round, and gives the Learner the one from which a training resumes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use burn::tensor::Bytes;
use burn::train::checkpoint::{
    Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction, CheckpointingStrategy,
};
use burn::train::metric::store::{Aggregate, EventStoreClient, Split};
use kiln_data::sha256;
use kiln_pipeline::plots::Rows;

use crate::error::TrainError;
use crate::learner::session::Session;
use crate::run_folder::checkpoints::{CheckpointFolder, GoodCheckpoint, PARTS};
use crate::run_folder::identity::Identity;
use crate::run_folder::manifest::Manifest;

/// Collects the three records that the Learner passes on three threads, and writes them together.
#[derive(Clone)]
pub(crate) struct CheckpointWriter(Arc<Writer>);

struct Writer {
    folder: CheckpointFolder,
    resume: Option<GoodCheckpoint>,
    keep: usize,
    session: Session,
    /// The validation metric that is smallest at the best checkpoint.
    best_by: &'static str,
    identity: Identity,
    /// Where the training computes.
    devices: String,
    /// When the newest checkpoint was due, or this process began, and the steps done then.
    before: Mutex<(Instant, usize)>,
    /// The parts of incomplete checkpoints, by the Learner's epoch.
    pending: Mutex<BTreeMap<usize, Pending>>,
}

struct Pending {
    step: usize,
    criterion: Option<f64>,
    owes_validation: bool,
    seconds_a_step: Option<f64>,
    rows: Rows,
    parts: BTreeMap<&'static str, Bytes>,
}

impl CheckpointWriter {
    pub(crate) fn new(
        folder: CheckpointFolder,
        resume: Option<GoodCheckpoint>,
        keep: usize,
        best_by: &'static str,
        identity: Identity,
        devices: String,
        session: Session,
    ) -> Self {
        let pending = Mutex::new(BTreeMap::new());
        let before = Mutex::new((Instant::now(), session.steps_done()));
        Self(Arc::new(Writer {
            folder,
            resume,
            keep,
            session,
            best_by,
            identity,
            devices,
            before,
            pending,
        }))
    }

    /// The Learner's handle for one of the three records.
    pub(crate) fn part(&self, name: &'static str) -> CheckpointPart {
        CheckpointPart {
            writer: self.clone(),
            name,
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Pending>> {
        self.0
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of a step since the checkpoint before, if there was one more.
    fn seconds_a_step(&self, step: usize) -> Option<f64> {
        let mut before = (self.0.before.lock()).unwrap_or_else(PoisonError::into_inner);
        let (then, steps) = std::mem::replace(&mut *before, (Instant::now(), step));
        let steps = step.checked_sub(steps).filter(|&steps| steps > 0)?;
        Some(then.elapsed().as_secs_f64() / steps as f64)
    }

    fn add(&self, epoch: usize, name: &'static str, bytes: Bytes) {
        let mut pending = self.pending();
        let Some(checkpoint) = pending.get_mut(&epoch) else {
            return;
        };
        checkpoint.parts.insert(name, bytes);
        if checkpoint.parts.len() < PARTS.len() {
            return;
        }
        let Some(Pending {
            step,
            criterion,
            owes_validation,
            seconds_a_step,
            rows,
            parts,
        }) = pending.remove(&epoch)
        else {
            return;
        };
        drop(pending);
        let files = parts
            .iter()
            .map(|(name, bytes)| (name.to_string(), sha256(bytes)))
            .collect();
        let manifest = Manifest {
            step,
            criterion,
            owes_validation,
            kiln: env!("CARGO_PKG_VERSION").into(),
            identity: Some(self.0.identity.clone()),
            devices: Some(self.0.devices.clone()),
            seconds_a_step,
            rows,
            files,
        };
        match self.0.folder.write(manifest, &parts, self.0.keep) {
            Ok(()) => self.0.session.set_saved(step),
            Err(error) => self.0.session.fail(TrainError::file(
                "write the checkpoint",
                self.0.folder.path(step),
            )(error)),
        }
    }
}

/// Saves and restores one of the three records.
pub(crate) struct CheckpointPart {
    writer: CheckpointWriter,
    name: &'static str,
}

impl<R: Checkpoint> Checkpointer<R> for CheckpointPart {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        let bytes = record
            .checkpoint_into_bytes()
            .map_err(CheckpointerError::Record)?;
        self.writer.add(epoch, self.name, bytes);
        Ok(())
    }

    /// Never called: [`CheckpointFolder::write`] removes old checkpoints.
    fn delete(&self, _epoch: usize) -> Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, _epoch: usize) -> Result<R, CheckpointerError> {
        let checkpoint = self.writer.0.resume.as_ref();
        let checkpoint = checkpoint
            .ok_or_else(|| CheckpointerError::Unknown("no checkpoint to resume".into()))?;
        let bytes = (checkpoint.part(self.name)).map_err(CheckpointerError::IOError)?;
        R::checkpoint_from_bytes(bytes).map_err(CheckpointerError::Record)
    }
}

/// Saves after every round, and records its step and validation loss.
impl CheckpointingStrategy for CheckpointWriter {
    fn checkpointing(
        &mut self,
        epoch: usize,
        store: &EventStoreClient,
    ) -> Vec<CheckpointingAction> {
        if !self.0.session.ranks().is_first() {
            return Vec::new(); // rank 0 saves for all
        }
        let criterion = store.find_metric(self.0.best_by, epoch, Aggregate::Mean, &Split::Valid);
        let step = self.0.session.steps_done();
        let criterion = criterion.filter(|value| value.is_finite());
        self.pending().insert(
            epoch,
            Pending {
                step,
                criterion,
                owes_validation: self.0.session.owes_validation(),
                seconds_a_step: self.seconds_a_step(step),
                rows: self.0.session.unwritten(),
                parts: BTreeMap::new(),
            },
        );
        vec![CheckpointingAction::Save]
    }
}
