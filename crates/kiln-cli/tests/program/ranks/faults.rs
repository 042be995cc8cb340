//! A failure on one rank ends the job, with one sentence.

use std::{fs, process::Command};

use super::{job, job_after, workplace};

/// The one sentence of kiln if the job must fail.
fn fail(mut command: Command) -> String {
    let output = command.output().expect("mpirun");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{command:?}: {stderr}");
    let lines = stderr.lines();
    let sentences: Vec<&str> = lines
        .filter_map(|line| line.strip_prefix("error: "))
        .collect();
    assert_eq!(sentences.len(), 1, "{command:?}: {stderr}");
    sentences[0].to_owned()
}

/// Shell commands before `kiln`, only for rank 1.
fn on_rank_1(commands: &str) -> String {
    format!("if [ $OMPI_COMM_WORLD_RANK = 1 ]; then {commands}; fi")
}

#[test]
fn a_rank_with_another_config_is_refused() {
    let workplace = workplace();
    let arguments =
        "train-vqvae --config experiment.toml --out run --set seed=$OMPI_COMM_WORLD_RANK";
    let said = fail(job(&workplace, 3, arguments));
    assert!(said.contains("rank 1 has another experiment"), "{said}");
    assert!(!workplace.path("run").exists());
}

#[test]
fn a_rank_with_other_data_is_refused() {
    let workplace = workplace();
    fs::create_dir(workplace.path("elsewhere")).unwrap();
    let before = on_rank_1("cp -r photos elsewhere; rm elsewhere/photos/00.png; cd elsewhere");
    let config = workplace.path("experiment.toml");
    let arguments = format!("train-vqvae --config {} --out run", config.display());
    let said = fail(job_after(&workplace, 2, &before, &arguments));
    assert!(said.contains("rank 1 has another training set"), "{said}");
}

#[test]
fn a_rank_that_cannot_read_its_data_ends_the_job() {
    let workplace = workplace();
    fs::create_dir(workplace.path("elsewhere")).unwrap();
    let config = workplace.path("experiment.toml");
    let arguments = format!("train-vqvae --config {} --out run", config.display());
    let before = on_rank_1("cd elsewhere");
    let said = fail(job_after(&workplace, 2, &before, &arguments));
    assert!(said.contains("photos"), "{said}");
}

#[test]
fn a_full_disk_on_rank_0_ends_the_job() {
    let workplace = workplace();
    // No file of rank 0 may grow beyond a few kilobytes, as on a full disk.
    let before = "if [ $OMPI_COMM_WORLD_RANK = 0 ]; then trap '' XFSZ; ulimit -f 8; fi";
    let arguments = "train-vqvae --config experiment.toml --out run";
    let mut job = job_after(&workplace, 2, before, arguments);
    // MPI's shared memory consists of files, too.
    job.env("OMPI_MCA_btl", "self,tcp");
    let said = fail(job);
    assert!(said.contains("cannot write"), "{said}");
}

#[test]
fn numbers_that_are_not_finite_end_all_ranks_with_one_sentence() {
    let workplace = workplace();
    let arguments = "train-vqvae --config experiment.toml --out run --set stage_1.commitment=1e38";
    let said = fail(job(&workplace, 3, arguments));
    assert!(said.contains("at step 1"), "{said}");
}

#[test]
fn ranks_that_drift_apart_are_found_out() {
    let workplace = workplace();
    let elsewhere = workplace.path("elsewhere");
    let config = workplace.path("experiment.toml");
    let train = format!("train-vqvae --config {} --out run", config.display());
    // Rank 1 continues from other weights: the ones of a longer training, whose learning rate fell more slowly.
    let further = format!("{train} --set stage_1.training.steps=8");
    assert!(workplace.run(&further).status.success());
    fs::remove_dir_all(workplace.path("run/vqvae/checkpoints/step-0000008")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(workplace.path("run"), elsewhere.join("run")).unwrap();
    let less = format!("{train} --set stage_1.training.steps=6");
    assert!(workplace.run(&less).status.success());
    let before = on_rank_1("cp -r photos elsewhere; cd elsewhere");
    let more = format!("{further} --resume");
    let said = fail(job_after(&workplace, 2, &before, &more));
    assert!(said.contains("the weights of rank 1 differ"), "{said}");
}
