//! Burn's terminal dashboard, with a working Ctrl-C. The training survives the terminal.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use burn::train::renderer::MetricsRenderer;
use burn::train::renderer::tui::TuiMetricsRendererWrapper;

use crate::learner::session::Session;

/// Whether there was a dashboard in this process.
static WAS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether a user sits at a terminal. Open MPI gives processes a terminal without a user.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Whether the terminal of the dashboard has been closed. Burn's drawing thread then panics, which is not a bug.
pub fn has_lost_its_terminal() -> bool {
    WAS_SHOWN.load(Ordering::Relaxed) && !has_terminal()
}

/// Closes the dashboard, if there is one, for a program that ends at once.
pub fn leave_terminal() {
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

/// The dashboard. Its quit key stops like Ctrl-C: after the step, with a checkpoint. It estimates the remaining time
/// from the rounds after the `rounds_before` of an earlier part of the run.
pub(crate) fn dashboard(session: &Session, rounds_before: usize) -> Box<dyn MetricsRenderer> {
    WAS_SHOWN.store(true, Ordering::Relaxed);
    let renderer = TuiMetricsRendererWrapper::new(session.dashboard(), Some(rounds_before));
    thread::spawn(let_interrupts_through);
    Box::new(renderer)
}

/// Closes the renderer of the training.
pub(crate) fn close(renderer: Box<dyn MetricsRenderer>) {
    if has_lost_its_terminal() {
        // Burn's thread may read forever from a terminal that is gone, and dropping would wait for it.
        std::mem::forget(renderer);
    }
}

/// The dashboard puts the terminal into raw mode, on its own thread. Ctrl-C is then an ordinary key, and Burn ignores
/// it. This function makes it a signal again.
fn let_interrupts_through() {
    for _ in 0..250 {
        if crossterm::terminal::is_raw_mode_enabled().unwrap_or(false) {
            // If this fails, the quit key still works.
            let _ = make_interrupts_signals();
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(unix)]
fn make_interrupts_signals() -> io::Result<()> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

    let terminal = io::stdin();
    let mut modes = tcgetattr(&terminal)?;
    modes.local_modes |= LocalModes::ISIG;
    Ok(tcsetattr(&terminal, OptionalActions::Now, &modes)?)
}

#[cfg(windows)]
fn make_interrupts_signals() -> io::Result<()> {
    use crossterm_winapi::{ConsoleMode, Handle};

    const ENABLE_PROCESSED_INPUT: u32 = 1;

    let console = ConsoleMode::from(Handle::current_in_handle()?);
    console.set_mode(console.mode()? | ENABLE_PROCESSED_INPUT)
}

#[cfg(not(any(unix, windows)))]
fn make_interrupts_signals() -> io::Result<()> {
    Ok(())
}

/// While it lives, writing to standard error does not fail, even if that is a closed terminal, because the text passes
/// through a pipe. The libraries below Burn's dashboard would otherwise panic during a panic, when they cannot print
/// their error.
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
    /// Changes nothing without a terminal, or if no pipe can be made.
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
            // This closes the pipe, so the pump ends.
            && rustix::stdio::dup2_stderr(&real).is_ok()
        {
            let _ = pump.join();
        }
    }
}
