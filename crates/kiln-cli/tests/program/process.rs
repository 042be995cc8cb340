//! How a process treats files that are not its own, other processes, and requests to stop.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::training::{EXPERIMENT, PIXELS, train, workplace};
use crate::{PATIENCE, Workplace, program, wait_until};

const TRAIN: &str = "train-vqvae --config experiment.toml --out run";
const LONG: &str = "--set stage_1.training.steps=1000000";

/// Names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Begins an endless training, without output.
fn begin(workplace: &Workplace, command: &mut Command) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    let metrics = workplace.path("run/vqvae/metrics.csv");
    wait_until(&mut child, || metrics.exists());
    child
}

#[cfg(unix)]
pub fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args([name, &id]).status().unwrap();
    assert!(sent.success());
}

/// Waits until a process ends; fails after [`PATIENCE`].
pub fn ended(mut child: Child) -> std::process::ExitStatus {
    let patience = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > patience {
            let _ = child.kill();
            panic!("the program does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The newest checkpoint belongs to the last row in the metrics.
fn assert_last_round_is_saved(workplace: &Workplace) {
    let steps = |name: &String| name.strip_prefix("step-")?.parse::<usize>().ok();
    let saved = names(&workplace.path("run/vqvae/checkpoints"));
    let saved = saved.iter().filter_map(steps).max();
    let metrics = fs::read_to_string(workplace.path("run/vqvae/metrics.csv")).unwrap();
    let row = metrics.lines().last().unwrap().split(',').next().unwrap();
    assert_eq!(saved, row.parse().ok());
}

#[test]
fn foreign_folders_are_refused_before_any_work() {
    let workplace = workplace();
    fs::create_dir_all(workplace.path("project/src")).unwrap();
    fs::write(workplace.path("project/config.json"), "{}").unwrap();
    fs::write(workplace.path("project/src/main.rs"), "fn main() {}").unwrap();
    // The input does not exist: the destination is checked first.
    for command in [
        "convert nowhere.ckpt --to project",
        "push nowhere a/b --dry-run project",
        "model guide nowhere --by nowhere --to project",
    ] {
        let sentence = workplace.fail(command);
        assert!(
            sentence.contains("project holds \"config.json\", which kiln did not write"),
            "{command}: {sentence}"
        );
    }
    fs::create_dir_all(workplace.path("run/vqvae/model")).unwrap();
    fs::write(workplace.path("run/vqvae/model/notes.txt"), "mine").unwrap();
    let sentence = workplace.fail(TRAIN);
    assert!(sentence.contains("\"notes.txt\""), "{sentence}");
    assert_eq!(names(&workplace.path("run")), ["vqvae"]);
    assert_eq!(names(&workplace.path("run/vqvae")), ["model"]);
    assert_eq!(names(&workplace.path("project")), ["config.json", "src"]);
}

#[test]
fn a_folder_with_files_of_the_same_names_is_no_run_folder() {
    for (file, contents) in [
        ("config.toml", "title = \"mine\""),
        ("vqvae/metrics.csv", "a,b"),
        ("vqvae/curves.svg", "<svg/>"),
    ] {
        let workplace = workplace();
        let path = workplace.path("run").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        let sentence = workplace.fail(TRAIN);
        assert!(
            sentence.contains(file) && sentence.contains("kiln did not write it"),
            "{sentence}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), contents);
    }
}

#[test]
fn a_run_that_has_lost_its_config_is_not_called_foreign() {
    let workplace = workplace();
    train(&workplace, "train-vqvae --out run");
    let config = fs::read(workplace.path("run/config.toml")).unwrap();
    fs::remove_file(workplace.path("run/config.toml")).unwrap();
    for resume in ["", "--resume"] {
        let sentence = workplace.fail(&format!("{TRAIN} {resume}"));
        assert!(
            sentence.contains("run holds a training of kiln, but not the config.toml"),
            "{sentence}"
        );
    }
    // The first line identifies it.
    let text = String::from_utf8(config.clone()).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    fs::write(workplace.path("run/config.toml"), rest).unwrap();
    let sentence = workplace.fail(&format!("{TRAIN} --resume"));
    assert!(
        sentence.contains("config.toml does not begin with `# Written by kiln`"),
        "{sentence}"
    );
    fs::write(workplace.path("run/config.toml"), config).unwrap();
    let more = "train-vqvae --out run --resume --set stage_1.training.steps=6";
    train(&workplace, more);
}

#[test]
fn a_refused_start_leaves_everything_as_it_was() {
    let workplace = workplace();
    fs::create_dir(workplace.path("empty")).unwrap();
    let all_kinds = format!("{EXPERIMENT}[stage_2.evaluation]\nfeatures = \"digits\"\n");
    fs::write(workplace.path("all.toml"), all_kinds).unwrap();
    fs::write(workplace.path("pixels.toml"), PIXELS).unwrap();
    for arguments in [
        "train-vqvae --config experiment.toml --data nowhere --out run",
        "train-vqvae --config experiment.toml --data empty --out deep/down/run",
        "train-vqvae --config experiment.toml --initial-weights nowhere --out run",
        "train-diffusion --config pixels.toml --data nowhere --out run",
        "train-diffusion --config pixels.toml --set unet.num_class_embeds=5 --out run",
    ] {
        workplace.fail(arguments);
        for left in ["run", "deep", "runs"] {
            assert!(!workplace.path(left).exists(), "{arguments} left {left}");
        }
    }
    // Not even in the folder of an earlier run.
    train(&workplace, "train-vqvae --out run");
    let before = fs::read(workplace.path("run/config.toml")).unwrap();
    for arguments in [
        "train-latent-diffusion --config all.toml --data nowhere --out run",
        "train-latent-diffusion --config all.toml --out run --set stage_2.evaluation.features=2048 --set stage_2.evaluation.feature_weights=nowhere",
        "train-vqvae --config experiment.toml --data /nowhere --out run --resume --set stage_1.training.steps=9",
    ] {
        workplace.fail(arguments);
        assert_eq!(
            names(&workplace.path("run")),
            ["config.toml", "vqvae"],
            "{arguments}"
        );
        assert!(
            fs::read(workplace.path("run/config.toml")).unwrap() == before,
            "{arguments}"
        );
    }
}

#[test]
fn one_run_folder_belongs_to_one_process() {
    let workplace = workplace();
    let mut command = program(&workplace.path(""), &format!("{TRAIN} {LONG}"));
    let mut first = begin(&workplace, &mut command);
    for resume in ["", "--resume"] {
        let sentence = workplace.fail(&format!("{TRAIN} {resume}"));
        assert!(
            sentence.contains("another kiln is training in run"),
            "{sentence}"
        );
    }
    first.kill().unwrap();
    first.wait().unwrap();
    train(
        &workplace,
        "train-vqvae --out run --resume --set stage_1.training.steps=2000",
    );
}

#[test]
fn what_a_killed_training_has_left_is_cleared_away() {
    let workplace = workplace();
    train(&workplace, "train-vqvae --out run");
    let leftovers = [
        "run/.kiln-aB3dE6.partial",
        "run/vqvae/.kiln-aB3dE6.partial",
        "run/vqvae/reconstructions/step-0000004.png.partial",
    ];
    let foreign = [
        "run/.tmpAbCdEf",
        "run/notes.partial",
        "run/vqvae/.kiln-notes",
    ];
    for file in leftovers.iter().chain(&foreign) {
        fs::write(workplace.path(file), "half").unwrap();
    }
    fs::create_dir(workplace.path("run/vqvae/checkpoints/.writing")).unwrap();
    let more = "train-vqvae --out run --resume --set stage_1.training.steps=6";
    train(&workplace, more);
    for file in leftovers.iter().chain(&["run/vqvae/checkpoints/.writing"]) {
        assert!(!workplace.path(file).exists(), "{file}");
    }
    for file in foreign {
        assert!(workplace.path(file).exists(), "{file}");
    }
}

#[cfg(unix)]
#[test]
fn a_closed_terminal_saves_however_often_it_is_said() {
    let workplace = workplace();
    let mut command = program(&workplace.path(""), &format!("{TRAIN} {LONG}"));
    let child = begin(&workplace, &mut command);
    signal(&child, "-HUP");
    signal(&child, "-HUP");
    signal(&child, "-TERM");
    assert!(ended(child).success());
    assert_last_round_is_saved(&workplace);
}

#[cfg(unix)]
#[test]
fn signals_that_were_ignored_at_the_start_stay_ignored() {
    let workplace = workplace();
    let mut command = Command::new("sh");
    let trap = "trap '' HUP INT; exec \"$0\" \"$@\"";
    command.current_dir(workplace.path("")).args(["-c", trap]);
    command.arg(env!("CARGO_BIN_EXE_kiln"));
    command.args(format!("{TRAIN} {LONG}").split_whitespace());
    let mut child = begin(&workplace, &mut command);
    let metrics = || fs::read_to_string(workplace.path("run/vqvae/metrics.csv")).unwrap();
    for name in ["-HUP", "-INT", "-INT"] {
        signal(&child, name);
        let before = metrics().len();
        wait_until(&mut child, || metrics().len() > before);
    }
    signal(&child, "-TERM");
    assert!(ended(child).success());
}

#[cfg(unix)]
#[test]
fn a_second_interrupt_ends_at_once_whatever_the_process_does() {
    let workplace = workplace();
    // A Hub that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let arguments =
            format!("train-vqvae --config experiment.toml --data hf:ada/digits --out run{name}");
        let mut command = program(&workplace.path(""), &arguments);
        command.env("HF_ENDPOINT", &endpoint);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let run = workplace.path(&format!("run{name}"));
        wait_until(&mut child, || run.exists());
        signal(&child, name);
        thread::sleep(Duration::from_millis(50));
        // The kernel merges a signal with an earlier one that has not been handled.
        let patience = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() && Instant::now() < patience {
            signal(&child, name);
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(ended(child).code(), Some(code));
        assert!(!run.exists(), "{name} left {}", run.display());
    }
}

/// Like a terminal whose window is closed: the dashboard dies with it, and the training is saved.
#[cfg(target_os = "linux")]
#[test]
fn a_training_outlives_the_terminal_of_its_dashboard() {
    let workplace = workplace();
    let is_there = Command::new("script").arg("--version").output().is_ok();
    if !is_there {
        eprintln!("skipped: there is no `script` to make a terminal");
        return;
    }
    let command = format!("exec {} {TRAIN} {LONG}", env!("CARGO_BIN_EXE_kiln"));
    let mut script = Command::new("script");
    script.current_dir(workplace.path(""));
    script.args(["--quiet", "--command", &command, "/dev/null"]);
    script.env("TERM", "xterm").stdin(Stdio::piped());
    let mut terminal = begin(&workplace, &mut script);
    thread::sleep(Duration::from_millis(300));
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    // The training has lost its parent now; it releases the folder after it has saved.
    let rest =
        "train-vqvae --config experiment.toml --out run --resume --set stage_1.training.steps=1";
    let patience = Instant::now() + PATIENCE;
    while String::from_utf8_lossy(&workplace.run(rest).stderr).contains("another kiln") {
        assert!(Instant::now() < patience, "the training has not stopped");
        thread::sleep(Duration::from_millis(50));
    }
    assert_last_round_is_saved(&workplace);
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_goes_nowhere_is_no_crash() {
    let workplace = workplace();
    let full = || Stdio::from(File::create("/dev/full").unwrap());
    let run = |arguments: &str, stdout: Stdio, stderr: Stdio| -> Output {
        let mut command = program(&workplace.path(""), arguments);
        command.stdout(stdout).stderr(stderr).output().unwrap()
    };
    // A result that cannot be printed is an error; a warning that cannot be printed is not.
    for arguments in ["model info model", "--help", "sample --help", "--version"] {
        let output = run(arguments, full(), Stdio::piped());
        let sentence = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {sentence}");
        assert!(sentence.contains("cannot print"), "{arguments}: {sentence}");
    }
    fs::create_dir(workplace.path("damaged")).unwrap();
    for number in 0..9 {
        let name =
            |folder: &str, number: usize| workplace.path(&format!("{folder}/{number:02}.png"));
        fs::copy(name("photos", number), name("damaged", number)).unwrap();
    }
    fs::write(workplace.path("damaged/99.png"), "no image").unwrap();
    let warns = format!("{TRAIN} --data damaged --set data.max_undecodable=0.5");
    let output = run(&warns, Stdio::piped(), full());
    assert_eq!(output.status.code(), Some(0));
    let output = run("sample --model nowhere", full(), full());
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_environment_that_is_not_understood_is_refused() {
    let workplace = Workplace::new();
    for (name, valid) in [
        ("KILN_INSTRUCTIONS", "avx2"),
        ("KILN_KERNELS", "burn"),
        ("RAYON_NUM_THREADS", "a number of threads"),
    ] {
        let mut command = program(&workplace.path(""), "model info model");
        let output = command.env(name, "bogus").output().unwrap();
        let sentence = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{sentence}");
        assert!(
            sentence.contains(&format!("{name} is \"bogus\"")) && sentence.contains(valid),
            "{sentence}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn numbers_that_no_machine_has_memory_for_are_refused_by_their_key() {
    let workplace = workplace();
    fs::write(workplace.path("pixels.toml"), PIXELS).unwrap();
    for (arguments, key) in [
        ("stage_1.training.batch_size=1000000000000", "batch_size"),
        (
            "data.size=4096 --set unet.sample_size=2048 --set stage_1.training.batch_size=4096",
            "batch_size",
        ),
        (
            "stage_1.training.accumulate=9223372036854775807",
            "accumulate",
        ),
        ("stage_1.training.accumulate=1000000", "accumulate"),
        ("stage_1.training.steps=9223372036854775807", "steps"),
        (
            "stage_1.training.checkpoint_every=9223372036854775807",
            "checkpoint_every",
        ),
        (
            "vqvae.num_vq_embeddings=9223372036854775807",
            "num_vq_embeddings",
        ),
        ("vqvae.block_out_channels=[16384,16384]", "parameters"),
        ("data.size=9223372036854775806", "data.size"),
        ("sampling.count=9223372036854775807", "sampling.count"),
        // More codes than latent vectors.
        ("vqvae.num_vq_embeddings=2000", "vqvae.num_vq_embeddings"),
    ] {
        let sentence = workplace.fail(&format!("{TRAIN} --set {arguments}"));
        assert!(sentence.contains(key), "{arguments}: {sentence}");
        assert!(!workplace.path("run").exists(), "{arguments}");
    }
    let pixels = "train-diffusion --config pixels.toml --out run --set data.size=1024 --set unet.sample_size=1024";
    let sentence = workplace.fail(&format!(
        "{pixels} --set sampling.count=4096 --set stage_2.training.batch_size=1"
    ));
    assert!(sentence.contains("sampling.count"), "{sentence}");
    // A round may have any length: its batches are made one after the other.
    let mut command = program(
        &workplace.path(""),
        &format!(
            "{TRAIN} --set stage_1.training.steps=100000000 --set stage_1.training.checkpoint_every=100000000"
        ),
    );
    let mut child = command
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(&mut child, || workplace.path("run/config.toml").exists());
    thread::sleep(Duration::from_millis(500));
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kilobytes: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(kilobytes < 1_000_000, "{kilobytes} kB");
}
