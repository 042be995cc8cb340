//! Several processes that train as one, under `mpirun`.

mod equality;
mod faults;
mod interruptions;
mod machines;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use crate::{
    Workplace,
    training::{EXPERIMENT, PIXELS, workplace},
};

/// 20 steps of all stages, with averaged weights. AdamW's epsilon is above the rounding errors of gradients that are
/// zero on paper. Otherwise AdamW would turn these errors into whole steps.
const TWENTY_STEPS: &str = "
epsilon = 1e-5
steps = 20
batch_size = 4
learning_rate = 1e-3
warmup_steps = 5
checkpoint_every = 8
ema = { decay = 0.9 }
";

const VQVAE: &str = "vqvae/model/diffusion_pytorch_model.safetensors";
const UNET: &str = "model/unet/diffusion_pytorch_model.safetensors";

/// A workplace whose `experiment.toml` is `text` with [`TWENTY_STEPS`].
fn twenty_steps(text: &str) -> Workplace {
    let workplace = workplace();
    let (short, long) = (
        "\nsteps = 4\nbatch_size = 4\nlearning_rate = 1e-3\ncheckpoint_every = 2\n",
        TWENTY_STEPS,
    );
    assert!(text.contains(short));
    fs::write(workplace.path("experiment.toml"), text.replace(short, long)).unwrap();
    workplace
}

/// A job of `ranks` processes on this machine that each run `kiln`, after the shell commands `before`.
///
/// Rank N writes its process id to the file `rank-N`.
fn job_after(workplace: &Workplace, ranks: usize, before: &str, arguments: &str) -> Command {
    let script = format!("echo $$ > rank-$OMPI_COMM_WORLD_RANK\n{before}\nexec \"$0\" {arguments}");
    let mut command = Command::new("mpirun");
    command
        .current_dir(workplace.path(""))
        .args(["--allow-run-as-root", "--oversubscribe"])
        .args(["--bind-to", "none", "-np", &ranks.to_string()])
        .args(["sh", "-c", &script, env!("CARGO_BIN_EXE_kiln")])
        .env("RAYON_NUM_THREADS", "1")
        // Processes in containers may not read each other's memory.
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        .env_remove("RUST_LOG");
    command
}

fn job(workplace: &Workplace, ranks: usize, arguments: &str) -> Command {
    job_after(workplace, ranks, "", arguments)
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().expect("mpirun");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    output
}

/// All numbers in a file of weights.
fn weights(file: &Path) -> Vec<f32> {
    let bytes = fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort();
    let views = names.into_iter().map(|name| tensors.tensor(name).unwrap());
    let bytes: Vec<u8> = views.flat_map(|view| view.data().to_vec()).collect();
    let numbers = bytes.chunks_exact(4);
    numbers
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// The numbers of a `metrics.csv`, row for row.
fn metrics(file: &Path) -> Vec<Vec<f64>> {
    let table = fs::read_to_string(file).unwrap_or_default();
    let rows = table.lines().skip(1);
    rows.map(|row| row.split(',').map(|cell| cell.parse().unwrap()).collect())
        .collect()
}

fn assert_close(one: &[f32], other: &[f32], what: &str) {
    assert_eq!(one.len(), other.len(), "{what}");
    let pairs = one.iter().zip(other);
    let difference = pairs.map(|(one, other)| (one - other).abs());
    let largest = difference.fold(0.0, f32::max);
    assert!(largest < 1e-5, "{what}: weights differ by {largest}");
}
