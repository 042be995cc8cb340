//! Several processes that train as one, each a *rank* of a job that `mpirun` (or SLURM's `srun`) starts.
//!
//! Every rank computes its share of each step's images, on one device or several, and moves its own copy of the weights
//! by the same gradients. Only rank 0 validates, prints and writes: checkpoints, metrics, pictures and the model.
//!
//! Ranks exchange only sums over all of them:
//!
//! ```text
//! at the start   digests of what they are about to do, which must be equal      script/start.rs
//! in every step  the gradients, and whether a rank wants to stop                learner/over_ranks.rs
//! in a round     a digest of the weights: ranks that drift apart are an error   learner/over_ranks.rs
//!                metrics                                                        learner/report.rs
//! ```

mod error;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(not(feature = "mpi"))]
#[path = "without_mpi.rs"]
mod mpi;

use std::env;
use std::fmt;
use std::iter;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use error::RanksError;
use mpi::Job;

/// Environment variables with the number of processes that a launcher started: Open MPI's, MPICH's, SLURM's.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The job of this process, and its place there.
#[derive(Clone, Default)]
pub struct Ranks(Option<Arc<Job>>);

impl Ranks {
    /// One process, which trains alone.
    pub fn alone() -> Self {
        Self(None)
    }

    /// The job that this process was started in, if a launcher of MPI programs started it together with others.
    ///
    /// # Errors
    /// If a launcher did so but this kiln was built without MPI, or if MPI does not find the other processes.
    pub fn of_this_process() -> Result<Self, RanksError> {
        let started = SIZES
            .into_iter()
            .find_map(|name| env::var(name).ok()?.parse().ok())
            .unwrap_or(1);
        if started <= 1 {
            return Ok(Self::alone());
        }
        let job = Job::join(started)?;
        match job.size() {
            known if known == started => Ok(Self(Some(Arc::new(job)))),
            known => Err(RanksError::Launcher { started, known }),
        }
    }

    /// The number of processes that train together; 1 if this one is alone.
    pub fn size(&self) -> usize {
        self.0.as_deref().map_or(1, Job::size)
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_deref().map_or(0, Job::rank)
    }

    /// Whether this is the process that writes files and prints.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there are no others.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Ends all processes of the job, including this one. For a rank that has failed: the others would wait for it.
    pub fn abort(&self, code: i32) -> ! {
        if let Some(job) = &self.0 {
            job.abort(code);
        }
        std::process::exit(code)
    }

    /// The sum over all ranks of each number in `parts`. All ranks must give the same lengths.
    ///
    /// MPI sends the first parts while the next ones are still being made.
    pub(crate) fn sum(
        &self,
        parts: impl Iterator<Item = Vec<f32>>,
    ) -> Result<Vec<Vec<f32>>, RanksError> {
        match &self.0 {
            Some(job) => job.sum(parts),
            None => Ok(parts.collect()),
        }
    }

    /// Like [`Self::sum`], for the thread that gathers metrics. The two do not wait for each other.
    pub(crate) fn sum_metrics(&self, numbers: Vec<f64>) -> Result<Vec<f64>, RanksError> {
        match &self.0 {
            Some(job) => job.sum_metrics(numbers),
            None => Ok(numbers),
        }
    }

    /// Does `work` on rank 0 first and then on the others, so that they find its results on disk.
    ///
    /// If it fails on rank 0, the others wait until rank 0 calls [`Self::abort`].
    pub(crate) fn first_then_others<W, E: From<RanksError>>(
        &self,
        work: impl FnOnce() -> Result<W, E>,
    ) -> Result<W, E> {
        if self.is_first() {
            let done = work()?;
            self.meet()?;
            return Ok(done);
        }
        self.meet()?;
        work()
    }

    /// Waits for all others. All ranks must call it together.
    pub(crate) fn meet(&self) -> Result<(), RanksError> {
        // A rank that takes part in a sum waits for all others.
        self.sum(iter::once(vec![0.0])).map(drop)
    }

    /// Fails unless all ranks have the same `own`. All ranks must call it together.
    pub(crate) fn require_same(
        &self,
        what: &'static str,
        own: impl AsRef<[u8]>,
    ) -> Result<(), RanksError> {
        match self.first_to_differ(&Sha256::digest(own))? {
            Some(rank) => Err(RanksError::Differs { rank, what }),
            None => Ok(()),
        }
    }

    /// The first rank, if any, whose digest differs from rank 0's.
    pub(crate) fn first_to_differ(&self, digest: &[u8]) -> Result<Option<usize>, RanksError> {
        // A table of all digests. Each rank fills in its own.
        let mut table = vec![0.0; digest.len() * self.size()];
        let own = table.iter_mut().skip(digest.len() * self.rank());
        own.zip(digest)
            .for_each(|(place, &byte)| *place = byte.into());
        let table = self.sum(iter::once(table))?.concat();
        let mut rows = table.chunks(digest.len());
        let first = rows.next();
        Ok(rows.position(|row| Some(row) != first).map(|row| row + 1))
    }
}

impl fmt::Debug for Ranks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rank {} of {}", self.rank(), self.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_sums_are_what_they_were_and_everybody_agrees() {
        let ranks = Ranks::alone();
        assert_eq!((ranks.rank(), ranks.size()), (0, 1));
        let parts = vec![vec![1.0, 2.0], vec![3.0]];
        let sums = ranks.sum(parts.clone().into_iter()).unwrap();
        assert_eq!(sums, parts);
        assert_eq!(ranks.sum_metrics(vec![0.5]).unwrap(), [0.5]);
        ranks.require_same("thing", "whatever").unwrap();
        let done: Result<i32, RanksError> = ranks.first_then_others(|| Ok(7));
        assert_eq!(done.unwrap(), 7);
    }
}
