//! The signals that stop a training: Ctrl-C, SIGTERM, a closed terminal.

use kiln_train::{Ranks, StopSignal};

/// The first Ctrl-C or SIGTERM asks the training to save and stop; the second one ends the program at once. SIGHUP,
/// which a closed terminal sends, and its shell again, always saves. Before the first step there is nothing to save:
/// the program ends within seconds, and leaves nothing behind. A signal that was ignored at the program's start, for example by `nohup`, stays
/// ignored.
///
/// Ranks also get these signals when their job ends because one of them died, so they print no promise to save.
#[cfg(unix)]
pub fn stop_on_interrupt(ranks: &Ranks) -> anyhow::Result<StopSignal> {
    let stop = StopSignal::default();
    unix::listen(stop.clone(), ranks.is_alone())?;
    Ok(stop)
}

/// On other systems nothing is saved: Ctrl-C ends the program.
#[cfg(not(unix))]
pub fn stop_on_interrupt(_ranks: &Ranks) -> anyhow::Result<StopSignal> {
    Ok(StopSignal::default())
}

/// Makes a file beyond the size limit (`ulimit -f`) an error of the write instead of the end of the program.
pub fn turn_file_limits_into_errors() {
    #[cfg(unix)]
    // A failure changes nothing.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default());
}

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use anyhow::Context;
    use kiln_train::{StopSignal, dashboard};
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::{flag, low_level};

    use crate::terminal;

    /// The number that shells add to a signal that ended a program.
    const ENDED_BY: i32 = 128;
    /// How long the work before the first step, such as reading data, may take to end by itself.
    const PATIENCE_BEFORE_FIRST_STEP: Duration = Duration::from_secs(3);
    /// How long restoring the terminal and the run folder may take.
    const PATIENCE_WHILE_LEAVING: Duration = Duration::from_secs(1);

    pub(super) fn listen(stop: StopSignal, says_so: bool) -> anyhow::Result<()> {
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
            let mut is_asked = false;
            for signal in signals.forever() {
                stop.request();
                let has_begun = stop.has_begun();
                if !has_begun {
                    let stop = stop.clone();
                    let wait = move || leave_unless_begun(&stop, signal);
                    let _ = thread::Builder::new().spawn(wait);
                }
                if signal == SIGHUP {
                    continue;
                }
                if is_asked {
                    leave(&stop, signal);
                }
                is_asked = true;
                ends_at_once.store(has_begun, Ordering::Relaxed);
                if says_so {
                    // Do not write from here: a pipe that nothing reads would block the next signal.
                    let say = move || {
                        terminal::note(match has_begun {
                            true => "saving a checkpoint; press Ctrl-C again to stop at once",
                            false => {
                                "stopping before the first step; press Ctrl-C again to stop at once"
                            }
                        });
                    };
                    let _ = thread::Builder::new().spawn(say);
                }
            }
        };
        let thread = thread::Builder::new().name("signals".to_owned());
        thread.spawn(answer).context(problem)?;
        Ok(())
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
        low_level::exit(ENDED_BY + signal)
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
