//! Burn's terminal dashboard, with a Ctrl-C that arrives, and a training that survives its terminal.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::train::renderer::MetricsRenderer;
use burn::train::renderer::tui::TuiMetricsRendererWrapper;

use crate::learner::session::Session;

/// Whether there was a dashboard in this process.
static WAS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether somebody sits at a terminal. Open MPI gives processes a terminal that has no user.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Whether the terminal of the dashboard has been closed. Burn's thread that draws it then panics, which is no bug.
pub fn has_lost_its_terminal() -> bool {
    WAS_SHOWN.load(Ordering::Relaxed) && !has_terminal()
}

/// Leaves the dashboard, if there is one, from a program that ends at once.
pub fn leave_terminal() {
    #[cfg(unix)]
    if WAS_SHOWN.load(Ordering::Relaxed) {
        use crossterm::{cursor, event, execute, terminal};

        let _ = terminal::disable_raw_mode();
        let leave = terminal::LeaveAlternateScreen;
        let _ = execute!(
            io::stdout(),
            event::DisableMouseCapture,
            leave,
            cursor::Show
        );
    }
}

/// The dashboard. Its quit key stops as a Ctrl-C does: after the step, with a checkpoint. It estimates the time that is left
/// from the rounds after the `rounds_before` that an earlier part of the run did.
pub(crate) fn dashboard(session: &Session, rounds_before: usize) -> Box<dyn MetricsRenderer> {
    WAS_SHOWN.store(true, Ordering::Relaxed);
    let renderer = TuiMetricsRendererWrapper::new(session.dashboard(), Some(rounds_before));
    #[cfg(unix)]
    std::thread::spawn(let_interrupts_through);
    Box::new(renderer)
}

/// Closes what draws the training.
pub(crate) fn close(renderer: Box<dyn MetricsRenderer>) {
    if has_lost_its_terminal() {
        // Burn's thread may be reading for ever from a terminal that is not there, and dropping would wait for it.
        std::mem::forget(renderer);
    }
}

/// The dashboard puts the terminal into raw mode, on a thread of its own. Ctrl-C is then a key like others, and one
/// that Burn ignores; this makes it a signal again.
#[cfg(unix)]
fn let_interrupts_through() {
    use std::time::Duration;

    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

    let terminal = io::stdin();
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

/// While it lives, writing to standard error does not fail, even if that is a terminal that has been closed: it goes by way of
/// a pipe. The libraries below Burn's dashboard panic where they cannot say what is wrong with it, in the midst of a panic.
pub(crate) struct LastingStderr {
    #[cfg(unix)]
    pipe: Option<Pipe>,
}

#[cfg(unix)]
struct Pipe {
    real: std::os::fd::OwnedFd,
    pump: std::thread::JoinHandle<()>,
}

impl LastingStderr {
    /// Nothing is changed without a terminal, or where there is no pipe to be had.
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(unix)]
            pipe: has_terminal().then(|| Pipe::lay().ok()).flatten(),
        }
    }
}

#[cfg(unix)]
impl Pipe {
    fn lay() -> io::Result<Self> {
        use std::fs::File;
        use std::io::{Read, Write};
        use std::os::fd::AsFd;

        let (mut reader, writer) = io::pipe()?;
        let real = io::stderr().as_fd().try_clone_to_owned()?;
        let mut out = File::from(real.try_clone()?);
        let copy = move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut part) {
                let _ = out.write_all(&part[..length]);
            }
        };
        let thread = std::thread::Builder::new().name("stderr".to_owned());
        let pump = thread.spawn(copy)?;
        rustix::stdio::dup2_stderr(&writer)?;
        Ok(Self { real, pump })
    }
}

#[cfg(unix)]
impl Drop for LastingStderr {
    fn drop(&mut self) {
        if let Some(Pipe { real, pump }) = self.pipe.take()
            // That closes the pipe, so the pump ends.
            && rustix::stdio::dup2_stderr(&real).is_ok()
        {
            let _ = pump.join();
        }
    }
}
