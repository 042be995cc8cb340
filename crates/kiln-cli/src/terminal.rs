//! The program's output: results on stdout; progress, warnings and errors on stderr.

use std::{
    env,
    error::Error,
    io::{self, IsTerminal, Write},
    panic,
    process::ExitCode,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use kiln_data::ProgressUnit;
use kiln_kernels::MODEL_IS_GONE;
use kiln_train::dashboard;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::printable::{printable, printable_json};

/// Prints a command's outcome: one JSON object on stdout with `--json`, otherwise the lines that `words` gives.
///
/// Does not use `println!`, which panics if the reader of a pipe has gone.
pub fn print_outcome<O: Serialize>(
    outcome: &O,
    as_json: bool,
    words: impl FnOnce(&O) -> String,
) -> anyhow::Result<()> {
    let text = if as_json {
        printable_json(&serde_json::to_string_pretty(outcome)?).into_owned()
    } else {
        printable(&words(outcome)).into_owned()
    };
    writeln!(io::stdout(), "{}", text.trim_end()).context(CANNOT_PRINT)
}

/// Prints `error: SENTENCE` on stderr.
pub fn print_error(sentence: &str) {
    note(&format!("error: {sentence}"));
}

/// Prints a line on stderr.
///
/// Writes it at once: stderr has no buffer, and what other processes print there must not end up within the line.
pub fn note(line: &str) {
    let line = printable(line) + "\n";
    // If stderr is closed, there is no place to report this.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Joins an error and its causes into one line: "cannot do this: because of that".
///
/// Messages that already end with their cause do not repeat it.
pub fn one_sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let message = one_line(&cause.to_string());
        if sentence.is_empty() {
            sentence = message;
        } else if !sentence.contains(&message) {
            sentence = format!("{sentence}: {message}");
        }
    }
    sentence
}

/// Prints clap's output instead of a command's: help on stdout, or an error about the arguments on stderr.
pub fn print_help(help_or_error: &clap::Error) -> ExitCode {
    match help_or_error.print() {
        Err(problem)
            if !help_or_error.use_stderr() && problem.kind() != io::ErrorKind::BrokenPipe =>
        {
            print_error(&format!("cannot print the help: {problem}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(help_or_error.exit_code() as u8),
    }
}

/// Advice if a GPU's memory is full.
const FEWER_IMAGES: &str = "work on fewer images at a time";

/// A message without line breaks. Burn reports a device's failure with all its consequences: only the outermost and the
/// deepest cause are kept.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cause = " Caused by: ";
    let (Some((failure, _)), Some((_, deepest))) =
        (line.split_once(cause), line.rsplit_once(cause))
    else {
        return line;
    };
    let deepest = deepest.split(" No backtrace").next().unwrap_or(deepest);
    if deepest.contains("allocate") {
        format!("{failure}: {deepest}; {FEWER_IMAGES}")
    } else {
        format!("{failure}: {deepest}")
    }
}

/// The message if stdout does not accept a result.
pub const CANNOT_PRINT: &str = "cannot print the result";

/// Whether an error only means that the reader of our stdout has gone: a pipe's, or the user at a dashboard's terminal.
pub fn has_no_reader(error: &anyhow::Error) -> bool {
    let is_closed = |cause: &(dyn Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    };
    let of_printing = error.to_string() == CANNOT_PRINT;
    of_printing && (error.chain().any(is_closed) || dashboard::has_lost_its_terminal())
}

/// Libraries through which Burn uses GPUs. They panic if a driver fails or memory runs out.
const GPU_LIBRARIES: [&str; 4] = ["burn-cubecl", "cubecl", "cudarc", "wgpu"];

/// The message if a thread cannot be started.
pub const NO_MORE_THREADS: &str = "the system allows this program no more threads; raise its limits of processes and memory \
    (ulimit -u and -v), or set RAYON_NUM_THREADS=1 to use fewer";

/// The message of the last panic.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());
/// Whether there was a panic that a GPU or a limit of the system did not cause.
static FOUND_A_BUG: AtomicBool = AtomicBool::new(false);

/// From now on a panic prints one sentence: that a GPU failed, or else that this is a bug. With RUST_BACKTRACE set, it
/// also prints the trace.
pub fn turn_panics_into_sentences() {
    let default_hook = panic::take_hook();
    panic::set_hook(Box::new(move |information| {
        if dashboard::has_lost_its_terminal() && is_of_dashboard(&thread::current()) {
            return; // training continues without it
        }
        let message = one_line(information.payload_as_str().unwrap_or("no message"));
        let place = information.location().map(ToString::to_string);
        let cause = Cause::of(&message, place.as_deref());
        if cause == Cause::Bug {
            FOUND_A_BUG.store(true, Ordering::Relaxed);
        }
        print_error(&cause.sentence(&message, place.as_deref()));
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = message;
        if env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            default_hook(information);
        }
    }));
}

/// Whether there was a panic that is a bug.
pub fn found_a_bug() -> bool {
    FOUND_A_BUG.load(Ordering::Relaxed)
}

/// Whether this is Burn's thread that draws the dashboard.
fn is_of_dashboard(thread: &thread::Thread) -> bool {
    thread.name() == Some("train-renderer")
}

/// Whether an error only repeats the message of a panic on another thread.
pub fn was_a_panic(error: &anyhow::Error) -> bool {
    let said = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    !said.is_empty() && one_sentence(error).contains(said.as_str())
}

/// Why something panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A GPU failed, or its driver.
    Gpu,
    /// No thread could be started. The standard library and the libraries above Burn then panic.
    Threads,
    /// Somebody changed the file of a model in use.
    Weights,
    Bug,
}

impl Cause {
    fn of(message: &str, place: Option<&str>) -> Self {
        let place = place.unwrap_or_default();
        let of_gpu =
            |folder: &str| (GPU_LIBRARIES.iter()).any(|library| folder.starts_with(library));
        let is_of_threads = ["thread", "spawn", "Result::unwrap()"];
        let is_refusal = ["kind: WouldBlock", "kind: OutOfMemory"];
        let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if place.split(['/', '\\']).any(of_gpu) {
            Self::Gpu
        } else if has(&is_of_threads) && has(&is_refusal) {
            Self::Threads
        } else if message.starts_with(MODEL_IS_GONE) {
            Self::Weights
        } else {
            Self::Bug
        }
    }

    fn sentence(self, message: &str, place: Option<&str>) -> String {
        match self {
            Self::Gpu if message.contains(FEWER_IMAGES) => format!("the GPU failed: {message}"),
            Self::Gpu => {
                format!("the GPU failed: {message}; if its memory is full, {FEWER_IMAGES}")
            }
            Self::Threads => NO_MORE_THREADS.to_owned(),
            Self::Weights => message.to_owned(),
            Self::Bug => format!(
                "this is a bug in kiln {} ({message} at {}); please report it with this sentence",
                env!("CARGO_PKG_VERSION"),
                place.unwrap_or_default()
            ),
        }
    }
}

/// Sends log messages to stderr: warnings, with `-v` also information, with `-vv` everything of kiln's.
pub fn log_to_stderr(verbosity: u8) {
    let default = match verbosity {
        // The messages of these two are in their errors.
        0 => "warn,hf_hub=off,cubecl_runtime=off",
        1 => {
            "warn,hf_hub=off,cubecl_runtime=off,kiln=info,kiln_checkpoint=info,kiln_data=info,kiln_diffusion=info,kiln_hub=info,kiln_models=info,kiln_train=info"
        }
        _ => {
            "info,kiln=trace,kiln_checkpoint=trace,kiln_data=trace,kiln_diffusion=trace,kiln_hub=trace,kiln_models=trace,kiln_train=trace"
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // The subscriber itself escapes text from files.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would report a broken stderr with `eprintln!`, and panic because of that.
        .log_internal_errors(false)
        .with_ansi(has_colours())
        .with_target(false)
        .without_time()
        .init();
}

/// Whether stderr shows colours, and the user wants them (<https://no-color.org>).
fn has_colours() -> bool {
    let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !is_unwanted
}

/// The largest number of characters in a line on stdout: the terminal's width or, if that is unknown, COLUMNS or a
/// usual number. There is no limit if stdout is not a terminal.
pub fn width() -> usize {
    if !io::stdout().is_terminal() {
        return usize::MAX;
    }
    let (columns, _) = viuer::terminal_size();
    let of_environment = || env::var("COLUMNS").ok()?.parse().ok();
    match usize::from(columns) {
        0 => of_environment()
            .filter(|&columns| columns > 0)
            .unwrap_or(USUAL_WIDTH),
        columns => columns,
    }
}

const USUAL_WIDTH: usize = 100;

/// A bar with rate and remaining time if stderr is a terminal; otherwise nothing.
pub fn progress_bar(task: String, length: usize, unit: &str) -> ProgressBar {
    let template =
        format!("{{msg}} [{{bar:32}}] {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left");
    styled_bar(Some(length as u64), &template).with_message(printable(&task).into_owned())
}

fn styled_bar(length: Option<u64>, template: &str) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// Shows the progress of opening a data set, downloads and decoding: a bar on a terminal, otherwise a line per minute.
#[derive(Default)]
pub struct DataProgress(Mutex<Option<Shown>>);

/// The running task.
struct Shown {
    task: String,
    bar: ProgressBar,
    said: Instant,
}

/// Without a terminal, the time between two lines of progress.
const PATIENCE: Duration = Duration::from_secs(60);

impl DataProgress {
    fn shown(&self) -> MutexGuard<'_, Option<Shown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl kiln_data::Progress for DataProgress {
    fn begin(&self, task: &str, unit: ProgressUnit, total: Option<u64>) {
        let template = match unit {
            ProgressUnit::Bytes => {
                "{msg} [{bar:32}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left"
            }
            ProgressUnit::Images => "{msg} [{bar:32}] {pos}/{len} images, {eta} left",
            ProgressUnit::Work => "{msg} [{bar:32}] {percent}%, {eta} left",
        };
        let bar = styled_bar(total, template);
        let task = printable(task).into_owned();
        bar.set_message(task.clone());
        let said = Instant::now();
        *self.shown() = Some(Shown { task, bar, said });
    }

    fn advance(&self, amount: u64) {
        if let Some(Shown { task, bar, said }) = &mut *self.shown() {
            bar.inc(amount);
            if bar.is_hidden() && said.elapsed() >= PATIENCE {
                *said = Instant::now();
                note(&how_far(task, bar.position(), bar.length()));
            }
        }
    }

    fn end(&self) {
        if let Some(shown) = self.shown().take() {
            shown.bar.finish_and_clear();
        }
    }
}

/// `encoding the images: 34%`, if the total is known.
fn how_far(task: &str, done: u64, all: Option<u64>) -> String {
    match all {
        Some(all) if all > 0 => format!("{task}: {}%", 100 * done.min(all) / all),
        _ => format!("{task}: going on"),
    }
}

/// A size for people: "512 bytes", "4.2 MB".
pub fn size_in_words(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// A duration for people: "0.42 s", "12.3 s", "4 min 5 s".
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        ..10.0 => format!("{seconds:.2} s"),
        ..120.0 => format!("{seconds:.1} s"),
        _ => format!(
            "{} min {} s",
            duration.as_secs() / 60,
            duration.as_secs() % 60
        ),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_are_joined_without_repeating_or_breaking_lines() {
        let error = anyhow!("no such\n  key")
            .context("cannot read a.toml: no such key")
            .context("cannot train");
        assert_eq!(
            one_sentence(&error),
            "cannot train: cannot read a.toml: no such key"
        );
    }

    #[test]
    fn how_far_work_is_takes_a_total() {
        assert_eq!(how_far("encoding", 51, Some(150)), "encoding: 34%");
        assert_eq!(how_far("encoding", 51, Some(0)), "encoding: going on");
        assert_eq!(how_far("a/b", 51, None), "a/b: going on");
    }

    #[test]
    fn panics_of_a_gpu_are_no_bugs() {
        let cargo = "/home/ada/.cargo/registry/src/index.crates.io-1/";
        for (place, words) in [
            (
                "cubecl-cuda-0.10.0/src/server.rs:7:5",
                "the GPU failed: full;",
            ),
            ("wgpu-26.0.1/src/lib.rs:1:1", "the GPU failed: full;"),
            ("burn-flex-0.22.1/src/lib.rs:1:1", "a bug in kiln"),
        ] {
            let place = format!("{cargo}{place}");
            let sentence = Cause::of("full", Some(&place)).sentence("full", Some(&place));
            assert!(sentence.contains(words), "{sentence}");
        }
    }

    #[test]
    fn a_limit_of_threads_is_no_bug() {
        let refused =
            r#"Os { code: 11, kind: WouldBlock, message: "Resource temporarily unavailable" }"#;
        for message in [
            format!("failed to spawn thread: {refused}"),
            format!(
                "The global thread pool has not been initialized.: ThreadPoolBuildError {{ kind: IOError({refused}) }}"
            ),
            format!("called `Result::unwrap()` on an `Err` value: {refused}"),
        ] {
            assert_eq!(
                Cause::of(&message, Some("std/thread.rs")),
                Cause::Threads,
                "{message}"
            );
        }
        let other = "called `Result::unwrap()` on an `Err` value: NotFound";
        assert_eq!(Cause::of(other, None), Cause::Bug);
    }

    #[test]
    fn a_changed_file_is_no_bug() {
        let message = format!("{MODEL_IS_GONE}: it has changed");
        let cause = Cause::of(&message, Some("crates/kiln-kernels/src/stored.rs"));
        assert_eq!(cause, Cause::Weights);
        assert_eq!(cause.sentence(&message, None), message);
    }

    #[test]
    fn what_followed_from_a_failure_is_left_out() {
        // Burn's report if a GPU has no memory left.
        let report = "An error happened\nCaused by: Several failures\nCaused by: skipped `A`: it needed memory 7\n\
            Caused by: can't allocate buffer of size: 4294967296\nNo backtrace available\nAsked at: No backtrace available";
        let error = anyhow!("the device failed: {report}");
        assert_eq!(
            one_sentence(&error),
            "the device failed: An error happened: can't allocate buffer of size: 4294967296; work on fewer images at a time"
        );
    }

    #[test]
    fn a_closed_pipe_is_found_below_its_context() {
        let closed: io::Result<()> = Err(io::ErrorKind::BrokenPipe.into());
        assert!(has_no_reader(&closed.context(CANNOT_PRINT).unwrap_err()));
        assert!(!has_no_reader(&anyhow!("broken pipe")));
        // A broken server or file is not a reader of our output.
        let of_others: io::Result<()> = Err(io::ErrorKind::BrokenPipe.into());
        let of_others = of_others.context("cannot upload").unwrap_err();
        assert!(!has_no_reader(&of_others));
    }

    #[test]
    fn sizes_read_well() {
        let words = [7, 1500, 4_200_000, 1_530_000_000].map(size_in_words);
        assert_eq!(words, ["7 bytes", "1.5 kB", "4.2 MB", "1.53 GB"]);
    }

    #[test]
    fn durations_read_well() {
        let words = [0.42, 12.34, 245.0].map(|seconds| in_words(Duration::from_secs_f64(seconds)));
        assert_eq!(words, ["0.42 s", "12.3 s", "4 min 5 s"]);
    }
}
