//! Why processes cannot train together: each one sentence.

/// Why processes cannot train together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RanksError {
    /// A launcher started several processes of a kiln that knows of no others.
    #[error(
        "{0} processes were started together, but this kiln was built without `--features mpi`, so each would train alone: build it with that feature, or start one process"
    )]
    WithoutMpi(usize),
    /// MPI does not work.
    #[error(
        "MPI does not start, or cannot be called by several threads: see what `mpirun -np 2 hostname` says"
    )]
    NoMpi,
    /// The launcher is not of the MPI that kiln was built with.
    #[error(
        "{started} processes were started together, but MPI knows of {known}: start them by the `mpirun` of the MPI that kiln was built with, or by `srun --mpi=pmix`"
    )]
    Launcher {
        /// Processes, as the launcher says.
        started: usize,
        /// Processes, as MPI says.
        known: usize,
    },
    /// A rank is about to train something else.
    #[error(
        "rank {rank} has another {what} than rank 0: start the same command everywhere, on a run folder and on data that all ranks see"
    )]
    Differs {
        /// The first such rank.
        rank: usize,
        /// What is not the same.
        what: &'static str,
    },
    /// The weights of a rank are not those of the others.
    #[error(
        "rank {rank} has other weights than rank 0, though all moved theirs by the same gradients: run all ranks on machines of one kind, and go on from the last checkpoint with --resume"
    )]
    Drift {
        /// The first such rank.
        rank: usize,
    },
    /// MPI does not answer any more.
    #[error("the other ranks cannot be reached any more: start the job again with --resume")]
    Unreachable,
}
