//! The errors of processes that train together: each is one sentence.

/// Why processes cannot train together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RanksError {
    /// A launcher started several processes, but this kiln was built without MPI.
    #[error(
        "{0} processes were started together, but this kiln was built without `--features mpi`, so each would train alone: build it with that feature, or start one process"
    )]
    WithoutMpi(usize),
    /// MPI does not work.
    #[error(
        "MPI does not start, or cannot be called by several threads: see what `mpirun -np 2 hostname` says"
    )]
    NoMpi,
    /// The launcher does not belong to the MPI that kiln was built with.
    #[error(
        "{started} processes were started together, but MPI knows of {known}: start them by the `mpirun` of the MPI that kiln was built with, or by `srun --mpi=pmix`"
    )]
    Launcher {
        /// The launcher's number of processes.
        started: usize,
        /// MPI's number of processes.
        known: usize,
    },
    /// A rank would train something else.
    #[error(
        "rank {rank} has another {what} than rank 0: start the same command everywhere, on a run folder and on data that all ranks see"
    )]
    Differs {
        /// The first such rank.
        rank: usize,
        /// The difference.
        what: &'static str,
    },
    /// The weights of a rank differ from the others'.
    #[error(
        "the weights of rank {rank} differ from rank 0's, although both used the same gradients: run all ranks on machines of one kind, and go on from the last checkpoint with --resume"
    )]
    Drift {
        /// The first such rank.
        rank: usize,
    },
    /// MPI no longer answers.
    #[error("the other ranks cannot be reached any more: start the job again with --resume")]
    Unreachable,
}
