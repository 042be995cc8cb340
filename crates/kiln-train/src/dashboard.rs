//! Burn's terminal dashboard, with a Ctrl-C that arrives.

use burn::train::renderer::MetricsRenderer;
use burn::train::renderer::tui::TuiMetricsRendererWrapper;

use crate::session::Session;

/// The dashboard. Its quit key stops as a Ctrl-C does: after the step, with a checkpoint. It estimates the time that is left
/// from the rounds after the `rounds_before` that an earlier part of the run did.
pub(crate) fn dashboard(session: &Session, rounds_before: usize) -> Box<dyn MetricsRenderer> {
    let renderer = TuiMetricsRendererWrapper::new(session.dashboard(), Some(rounds_before));
    #[cfg(unix)]
    std::thread::spawn(let_interrupts_through);
    Box::new(renderer)
}

/// The dashboard puts the terminal into raw mode, on a thread of its own. Ctrl-C is then a key like others, and one
/// that Burn ignores; this makes it a signal again.
#[cfg(unix)]
fn let_interrupts_through() {
    use std::time::Duration;

    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

    let terminal = std::io::stdin();
    for _ in 0..250 {
        if crossterm::terminal::is_raw_mode_enabled().unwrap_or(false) {
            if let Ok(mut modes) = tcgetattr(&terminal) {
                modes.local_modes |= LocalModes::ISIG;
                // Where this fails, the quit key is left.
                let _ = tcsetattr(&terminal, OptionalActions::Now, &modes);
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
