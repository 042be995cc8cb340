//! Runs the built program as a user would, on a tiny model with random weights.

mod autoencoder_kl;
mod averages;
mod bench;
mod bottlenecks;
mod check;
mod classes;
mod classifiers;
mod data_sets;
mod destinations;
mod distill;
mod doctor;
mod drawing;
mod editing;
mod evaluate;
mod failures;
mod first_stages;
mod guide;
mod hub;
mod init;
mod model_info;
mod others;
mod process;
#[cfg(feature = "mpi")]
mod ranks;
mod reconstruct;
mod resume;
mod sample;
mod samplers;
mod schedule;
mod stops;
mod strange_models;
mod sweep;
#[path = "../../../kiln-pipeline/tests/tiny/mod.rs"]
mod tiny;
mod training;
mod web;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// A folder to work in, with a tiny model in `model/`.
pub struct Workplace {
    folder: TempDir,
}

impl Workplace {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        tiny::model()
            .save(&folder.path().join("model"), Default::default())
            .expect("a saved model");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `kiln` with arguments separated by spaces.
    pub fn run(&self, arguments: &str) -> Output {
        program(self.folder.path(), arguments)
            .output()
            .expect("a program that runs")
    }

    /// Runs `kiln`, which must succeed, and returns its stdout.
    pub fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kiln {arguments}: {stderr}");
        assert_eq!(
            stderr, "",
            "kiln {arguments} has nothing to say on a stderr that is no terminal"
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs `kiln`, whose stdout must be one JSON value.
    pub fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.succeed(arguments)).expect("JSON")
    }

    /// Runs `kiln sample ARGUMENTS` and returns its grid, whose name has a number if there was an earlier one.
    pub fn draw(&self, arguments: &str) -> image::GrayImage {
        let outcome = self.json(&format!("sample {arguments} --json"));
        gray(&self.path(outcome["grids"][0]["picture"].as_str().expect("a picture")))
    }

    /// Runs `kiln`, which must fail with one sentence, and returns it.
    pub fn fail(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "kiln {arguments}: {stderr}");
        assert_eq!(output.stdout, b"", "kiln {arguments} prints no result");
        let sentence = stderr
            .strip_prefix("error: ")
            .unwrap_or_else(|| panic!("kiln {arguments}: {stderr}"));
        assert_eq!(
            sentence.trim_end().lines().count(),
            1,
            "kiln {arguments}: {stderr}"
        );
        assert!(
            !sentence.contains("bug in kiln"),
            "kiln {arguments}: {stderr}"
        );
        sentence.trim_end().to_owned()
    }

    /// Runs `kiln`, which must refuse its arguments, and returns its message.
    pub fn refuse(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "kiln {arguments}: {stderr}");
        stderr
    }
}

/// The program in a folder, undisturbed by the environment of the tests.
pub fn program(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command
        .current_dir(folder)
        .args(arguments.split_whitespace());
    command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
    // There is no Hub unless a test starts one: no server listens at port 1.
    command.env("HF_ENDPOINT", "http://127.0.0.1:1");
    command.env("HF_HOME", folder.join("huggingface"));
    for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("XDG_CACHE_HOME", folder.join("cache"));
    command
}

/// After this long a program counts as one that hangs. Machines can be slow, and busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `is_far_enough` is true for a running program; fails after [`PATIENCE`].
pub fn wait_until(child: &mut Child, is_far_enough: impl Fn() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !is_far_enough() {
        let is_running = child.try_wait().expect("a process").is_none();
        assert!(is_running, "the program has ended");
        assert!(Instant::now() < patience, "the program gets nowhere");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A picture as gray bytes.
pub fn gray(path: &Path) -> image::GrayImage {
    image::open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into_luma8()
}
