//! The signals that stop a training: Ctrl-C, SIGTERM, a closed terminal.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kiln_train::{Ranks, StopSignal, dashboard};

use crate::terminal;

/// The number that shells add to a signal that ended a program.
const ENDED_BY: i32 = 128;
/// How long the work before the first step, such as reading data, may take to end by itself.
const PATIENCE_BEFORE_FIRST_STEP: Duration = Duration::from_secs(3);
/// How long restoring the terminal and the run folder may take.
const PATIENCE_WHILE_LEAVING: Duration = Duration::from_secs(1);

/// The first Ctrl-C or SIGTERM asks the training to save and stop; the second one ends the program at once. SIGHUP,
/// which a closed terminal sends, and its shell again, always saves. Before the first step there is nothing to save:
/// the program ends within seconds, and leaves nothing behind. A signal that was ignored at the program's start, for example by `nohup`, stays
/// ignored.
///
/// Windows has Ctrl-C and Ctrl-Break. It ends a program soon after its window was closed, so that saves nothing.
///
/// Ranks also get these signals when their job ends because one of them died, so they print no promise to save.
pub fn stop_on_interrupt(ranks: &Ranks) -> anyhow::Result<StopSignal> {
    let stop = StopSignal::default();
    listen(Answers {
        stop: stop.clone(),
        says_so: ranks.is_alone(),
        is_asked: false,
    })?;
    Ok(stop)
}

/// Makes a file beyond the size limit (`ulimit -f`) an error of the write instead of the end of the program.
pub fn turn_file_limits_into_errors() {
    #[cfg(unix)]
    // A failure changes nothing.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default());
}

#[cfg(unix)]
use unix::listen;

/// Ctrl-C and Ctrl-Break; the handler runs on a thread of its own.
#[cfg(windows)]
fn listen(mut answers: Answers) -> anyhow::Result<()> {
    const SIGINT: i32 = 2;
    ctrlc::set_handler(move || {
        answers.stop(SIGINT);
        answers.insist(SIGINT);
    })?;
    Ok(())
}

/// On other systems nothing is saved.
#[cfg(not(any(unix, windows)))]
fn listen(_answers: Answers) -> anyhow::Result<()> {
    Ok(())
}

/// What a training does about signals.
struct Answers {
    stop: StopSignal,
    /// Whether to tell the user what happens.
    says_so: bool,
    /// Whether a signal has asked for a stop before.
    is_asked: bool,
}

impl Answers {
    /// Saves and stops, or ends the program soon if there is nothing to save.
    fn stop(&self, signal: i32) {
        self.stop.request();
        if !self.stop.has_begun() {
            let stop = self.stop.clone();
            let wait = move || leave_unless_begun(&stop, signal);
            let _ = thread::Builder::new().spawn(wait);
        }
    }

    /// After [`Self::stop`]: ends the program if this is the second time.
    fn insist(&mut self, signal: i32) {
        if self.is_asked {
            leave(&self.stop, signal);
        }
        self.is_asked = true;
        let has_begun = self.stop.has_begun();
        if self.says_so {
            // Do not write from here: a pipe that nothing reads would block the next signal.
            let say = move || {
                terminal::note(match has_begun {
                    true => "saving a checkpoint; press Ctrl-C again to stop at once",
                    false => "stopping before the first step; press Ctrl-C again to stop at once",
                });
            };
            let _ = thread::Builder::new().spawn(say);
        }
    }
}

/// Ends the program if the training does not reach its first step soon: then it waits for data, for a server, or for a
/// long computation, and nothing would be lost.
fn leave_unless_begun(stop: &StopSignal, signal: i32) {
    thread::sleep(PATIENCE_BEFORE_FIRST_STEP);
    if !stop.has_begun() {
        leave(stop, signal);
    }
}

/// Ends the program; waits only until the terminal, and before the first step the run folder, are as they were, and not for
/// long.
fn leave(stop: &StopSignal, signal: i32) -> ! {
    let (done, is_done) = mpsc::channel();
    let stop = stop.clone();
    let clear = move || {
        dashboard::leave_terminal();
        stop.leave_nothing();
        let _ = done.send(());
    };
    if thread::Builder::new().spawn(clear).is_ok() {
        let _ = is_done.recv_timeout(PATIENCE_WHILE_LEAVING);
    }
    let code = ENDED_BY + signal;
    // At once, without destructors that could wait for the training.
    #[cfg(unix)]
    signal_hook::low_level::exit(code);
    #[cfg(not(unix))]
    std::process::exit(code)
}

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use anyhow::Context;
    use kiln_train::dashboard;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;
    use signal_hook::iterator::Signals;

    use super::{Answers, ENDED_BY};

    pub(super) fn listen(mut answers: Answers) -> anyhow::Result<()> {
        let problem = "cannot listen to signals; if the system allows no more threads, raise its limits of processes and memory";
        let ignored = ignored_signals(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let is_heard = |signal: &i32| ignored & (1 << (signal - 1)) == 0;
        let ends_at_once = Arc::new(AtomicBool::new(false));
        if !dashboard::has_terminal() {
            // In the handler itself, so that it works in a program that hangs. A dashboard must be closed first, and before the
            // first step the run folder is left as it was.
            for signal in [SIGINT, SIGTERM].into_iter().filter(is_heard) {
                let code = ENDED_BY + signal;
                flag::register_conditional_shutdown(signal, code, ends_at_once.clone())
                    .context(problem)?;
            }
        }
        let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(is_heard);
        let mut signals = Signals::new(heard).context(problem)?;
        let answer = move || {
            for signal in signals.forever() {
                let has_begun = answers.stop.has_begun();
                answers.stop(signal);
                if signal != SIGHUP {
                    answers.insist(signal);
                    ends_at_once.store(has_begun, Ordering::Relaxed);
                }
            }
        };
        let thread = thread::Builder::new().name("signals".to_owned());
        thread.spawn(answer).context(problem)?;
        Ok(())
    }

    /// The signals that this process ignores, one bit for each from SIGHUP = 1, from Linux's `status`; 0 elsewhere.
    fn ignored_signals(status: &str) -> u64 {
        let mut lines = status.lines();
        let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.unwrap_or_default()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn nohup_is_seen() {
            let status = "Name:\tkiln\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
            assert_eq!(ignored_signals(status), 1 << (SIGHUP - 1) | 1 << 12);
            assert_eq!(ignored_signals(""), 0);
        }
    }
}
