//! The slowest allowed speed of a server, in both directions. A server that drips could otherwise block a program
//! forever.

use std::fmt;
use std::time::{Duration, Instant};

/// The least number of bytes in a period of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The least number of bytes per `window`.
    pub bytes: u64,
    /// The period of time.
    pub window: Duration,
}

/// A server was slower than the [`Pace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSlow {
    /// The bytes that were transferred.
    pub bytes: u64,
    /// The time that they took.
    pub elapsed: Duration,
}

/// Watches one transfer.
pub struct Watch {
    pace: Pace,
    since: Instant,
    bytes: u64,
}

impl Pace {
    /// The pace of a modem, a thousand bytes per second, over half a minute.
    pub const MODEM: Self = Self {
        bytes: 30_000,
        window: Duration::from_secs(30),
    };

    /// Watches a transfer that begins now.
    pub fn watch(self) -> Watch {
        Watch {
            pace: self,
            since: Instant::now(),
            bytes: 0,
        }
    }
}

impl Watch {
    /// Counts `bytes` more.
    ///
    /// # Errors
    /// [`TooSlow`] at the end of a window with too few bytes.
    pub fn advance(&mut self, bytes: u64) -> Result<(), TooSlow> {
        self.bytes += bytes;
        self.look(self.since.elapsed())
    }

    fn look(&mut self, elapsed: Duration) -> Result<(), TooSlow> {
        if elapsed < self.pace.window {
            return Ok(());
        }
        let bytes = self.bytes;
        *self = self.pace.watch();
        match bytes < self.pace.bytes {
            true => Err(TooSlow { bytes, elapsed }),
            false => Ok(()),
        }
    }
}

/// `12 bytes in 30 s`
impl fmt::Display for TooSlow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        write!(formatter, "{} bytes in {seconds:.0} s", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_drips_is_given_up_at_the_end_of_a_window() {
        let after = |bytes, seconds| {
            let mut watch = Pace::MODEM.watch();
            watch.bytes = bytes;
            watch.look(Duration::from_secs(seconds))
        };
        let slow = after(30, 31).unwrap_err();
        assert_eq!(slow.to_string(), "30 bytes in 31 s");
        assert!(after(30, 29).is_ok() && after(30_000, 31).is_ok());
    }

    #[test]
    fn every_window_counts_for_itself() {
        let mut watch = Pace::MODEM.watch();
        watch.bytes = 1 << 30;
        assert!(watch.look(Duration::from_secs(31)).is_ok());
        assert_eq!(watch.bytes, 0);
        assert!(watch.look(Duration::from_secs(31)).is_err());
    }
}
