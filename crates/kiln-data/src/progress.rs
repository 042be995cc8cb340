//! How a long operation reports its progress; the program draws the bar.

/// What a [`Progress`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressUnit {
    /// Bytes of a download.
    Bytes,
    /// Image files decoded.
    Images,
    /// Other work, for which only the share that is done has a meaning.
    Work,
}

/// Receives the progress of a long operation, such as a download or the decoding of a data set. One task runs at a
/// time.
pub trait Progress: Sync {
    /// A task starts: its name (such as "downloading train-images-idx3-ubyte.gz") and its total, if known.
    fn begin(&self, task: &str, unit: ProgressUnit, total: Option<u64>);
    /// This much more is done.
    fn advance(&self, amount: u64);
    /// The task is over, successfully or not.
    fn end(&self);
}

/// Reports nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _task: &str, _unit: ProgressUnit, _total: Option<u64>) {}
    fn advance(&self, _amount: u64) {}
    fn end(&self) {}
}

/// A running task: it ends when this is dropped, so that an early return ends it, too.
pub struct Task<'a>(&'a dyn Progress);

impl<'a> Task<'a> {
    /// Starts a task: see [`Progress::begin`].
    pub fn begin(
        progress: &'a dyn Progress,
        task: &str,
        unit: ProgressUnit,
        total: Option<u64>,
    ) -> Self {
        progress.begin(task, unit, total);
        Self(progress)
    }

    /// This much more is done.
    pub fn advance(&self, amount: u64) {
        self.0.advance(amount);
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
