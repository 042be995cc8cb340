//! Jobs that are killed, stopped and resumed.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    EXPERIMENT, VQVAE, Workplace, assert_close, job, metrics, succeed, twenty_steps, weights,
    workplace,
};
use crate::{PATIENCE, wait_until};

/// A training of two ranks after some rounds.
fn begin(workplace: &Workplace, arguments: &str) -> Child {
    let file = workplace.path("run/vqvae/metrics.csv");
    let rows = metrics(&file).len();
    let mut child = job(workplace, 2, arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(&mut child, || metrics(&file).len() > rows);
    child
}

fn send(workplace: &Workplace, signal: &str, rank: usize) {
    let process = fs::read_to_string(workplace.path(&format!("rank-{rank}"))).unwrap();
    let mut kill = Command::new("kill");
    let sent = kill.args([signal, process.trim()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_job_that_loses_a_rank_again_and_again_ends_with_the_weights_of_one_that_never_did() {
    let workplace = workplace();
    // A learning rate that does not depend on the number of steps.
    let command = |out: &str, steps: usize| {
        format!(
            "train-vqvae --config experiment.toml --out {out} --resume --set stage_1.training.final_learning_rate=1e-3 --set stage_1.training.steps={steps}"
        )
    };
    for attempt in 0..10 {
        let mut child = begin(&workplace, &command("run", 1_000_000));
        // Kill at any moment.
        thread::sleep(Duration::from_millis(attempt * 7 % 20));
        send(&workplace, "-KILL", attempt as usize % 2);
        let killed = Instant::now();
        assert!(!child.wait().unwrap().success());
        assert!(killed.elapsed() < PATIENCE, "the job hangs");
    }
    let rows = metrics(&workplace.path("run/vqvae/metrics.csv"));
    let steps = rows.last().unwrap()[0] as usize + 3;
    succeed(job(&workplace, 2, &command("run", steps)));
    succeed(job(&workplace, 2, &command("whole", steps)));
    let of = |run: &str| weights(&workplace.path(&format!("{run}/{VQVAE}")));
    assert!(of("whole") == of("run"));
}

#[test]
fn a_run_goes_on_with_any_number_of_ranks() {
    let workplace = twenty_steps(EXPERIMENT);
    let command = |out: &str, steps: usize, batch: usize| {
        format!(
            "train-vqvae --config experiment.toml --out {out} --resume --set stage_1.training.steps={steps} --set stage_1.training.final_learning_rate=1e-3 --set stage_1.training.batch_size={batch}"
        )
    };
    assert!(workplace.run(&command("whole", 18, 12)).status.success());
    succeed(job(&workplace, 2, &command("run", 6, 6)));
    assert!(workplace.run(&command("run", 12, 12)).status.success());
    succeed(job(&workplace, 3, &command("run", 18, 4)));
    let of = |run: &str| weights(&workplace.path(&format!("{run}/{VQVAE}")));
    assert_close(&of("whole"), &of("run"), "2, 1 and 3 processes");
}

#[test]
fn a_stop_that_one_rank_hears_of_is_one_of_all() {
    let workplace = workplace();
    let long = "train-vqvae --config experiment.toml --out run --json --set stage_1.training.steps=1000000";
    let child = begin(&workplace, long);
    send(&workplace, "-INT", 1);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    // The last step is saved, even within a round.
    let step = report["steps"].as_u64().unwrap();
    let checkpoint = format!("run/vqvae/checkpoints/step-{step:07}");
    assert!(workplace.path(&checkpoint).exists());
}
