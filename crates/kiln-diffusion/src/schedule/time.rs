//! The position on a schedule.

/// A timestep among T of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    /// From 0 to T - 1, at any fraction.
    pub(crate) timestep: f64,
    /// T
    pub(crate) timesteps: usize,
}

impl Time {
    /// From 0 at timestep 0 to 1 at T - 1: for a curve between two given ends.
    pub(crate) fn between_ends(self) -> f64 {
        self.timestep / (self.timesteps as f64 - 1.0).max(1.0)
    }

    /// From 1 / T at timestep 0 to 1 at T - 1: for a curve that starts from a clean image.
    pub(crate) fn since_clean(self) -> f64 {
        (self.timestep + 1.0) / self.timesteps as f64
    }
}

/// `from` at t = 0 and `to` at t = 1.
pub(crate) fn mix(from: f64, to: f64, t: f64) -> f64 {
    from * (1.0 - t) + to * t
}
