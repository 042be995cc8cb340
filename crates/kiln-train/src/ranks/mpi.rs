//! A job through MPI.
//!
//! Two threads need sums, the one that trains and the one that gathers metrics, in an order that differs between ranks.
//! MPI matches calls by their order on a communicator, so each of the two has its own [`Line`]: a communicator, and a
//! thread that serves it, because communicators cannot be sent between threads.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::Equivalence;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use super::error::RanksError;

/// A job of several processes. Dropping it waits until all of them are done.
pub(super) struct Job {
    rank: usize,
    size: usize,
    // The fields are dropped in this order: MPI itself ends with the training's line.
    metrics: Line<f64>,
    training: Line<f32>,
}

/// Numbers to sum, and the receiver of their sums.
type Request<T> = (Vec<T>, Sender<Vec<T>>);

/// A thread that sums its requests over all ranks, in their order.
struct Line<T> {
    requests: Option<Sender<Request<T>>>,
    thread: Option<JoinHandle<()>>,
}

impl Job {
    /// Joins the job of `_started` processes, the launcher's number.
    pub(super) fn join(_started: usize) -> Result<Self, RanksError> {
        let (answer, joined) = channel();
        let training = Line::open(move |requests| {
            let Some((universe, Threading::Multiple)) =
                mpi::initialize_with_threading(Threading::Multiple)
            else {
                return; // `joined` hears of it
            };
            let world = universe.world();
            let own = world.duplicate();
            let place = (world.rank() as usize, world.size() as usize);
            if answer.send(place).is_ok() {
                serve(&own, &requests);
            }
        });
        let (rank, size) = joined.recv().map_err(|_| RanksError::NoMpi)?;
        let metrics = Line::open(|requests| {
            serve(&SimpleCommunicator::world().duplicate(), &requests);
        });
        Ok(Self {
            rank,
            size,
            metrics,
            training,
        })
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn abort(&self, code: i32) -> ! {
        SimpleCommunicator::world().abort(code)
    }

    pub(super) fn sum(
        &self,
        parts: impl Iterator<Item = Vec<f32>>,
    ) -> Result<Vec<Vec<f32>>, RanksError> {
        let under_way: Vec<_> = parts.map(|part| self.training.send(part)).collect();
        under_way.into_iter().map(|sums| receive(&sums)).collect()
    }

    pub(super) fn sum_metrics(&self, numbers: Vec<f64>) -> Result<Vec<f64>, RanksError> {
        receive(&self.metrics.send(numbers))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // The others would wait forever for a rank with a bug.
        if thread::panicking() {
            self.abort(1);
        }
    }
}

impl<T: Equivalence + Clone + Default + Send + 'static> Line<T> {
    /// A line that `work` serves.
    fn open(work: impl FnOnce(Receiver<Request<T>>) + Send + 'static) -> Self {
        let (requests, received) = channel();
        Self {
            requests: Some(requests),
            thread: Some(thread::spawn(move || work(received))),
        }
    }

    /// The returned receiver will yield the sums of `numbers`.
    fn send(&self, numbers: Vec<T>) -> Receiver<Vec<T>> {
        let (answer, sums) = channel();
        if let Some(requests) = &self.requests {
            // If the thread has ended, no sums will come.
            let _ = requests.send((numbers, answer));
        }
        sums
    }
}

impl<T> Drop for Line<T> {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn receive<T>(sums: &Receiver<Vec<T>>) -> Result<Vec<T>, RanksError> {
    sums.recv().map_err(|_| RanksError::Unreachable)
}

fn serve<T: Equivalence + Clone + Default>(
    communicator: &SimpleCommunicator,
    requests: &Receiver<Request<T>>,
) {
    for (numbers, answer) in requests {
        let mut sums = vec![T::default(); numbers.len()];
        communicator.all_reduce_into(&numbers[..], &mut sums[..], SystemOperation::sum());
        // The requesting thread may have given up.
        let _ = answer.send(sums);
    }
}
