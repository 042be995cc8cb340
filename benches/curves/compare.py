"""Training curves with and without kiln's own operators, in one picture.

    cargo build --release --workspace
    pip install -r benches/curves/requirements.txt
    python benches/curves/compare.py FOLDER

Both stages of configs/mnist-quick.toml learn for 200 steps, once with kiln's operators and once with Burn's
(KILN_KERNELS=burn), from the same seed. Stage 2 starts from the same VQ-VAE and the same latents in both, so that only
the operators differ. A run that FOLDER already has is not repeated. The picture goes to docs/images and a table of
how far the losses are apart, relatively, to stdout.
"""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

REPOSITORY = Path(__file__).resolve().parents[2]
PICTURE = REPOSITORY / "docs/images/curves-with-and-without-kernels.svg"
VARIANTS = {"kiln's operators": {}, "Burn's operators": {"KILN_KERNELS": "burn"}}
# Small batches, since Burn's operators are slow; a row of metrics.csv every ten steps.
STAGES = {
    "train-vqvae": ("stage_1", "vqvae", "stage 1: VQ-VAE", 8),
    "train-latent-diffusion": ("stage_2", "diffusion", "stage 2: U-Net", 32),
}


def train(command, folder, environment):
    """Runs one stage into `folder` unless it is there, and returns its steps and training losses."""
    stage, name, _, batch_size = STAGES[command]
    metrics = folder / name / "metrics.csv"
    if not metrics.exists():
        settings = {
            "steps": 200,
            "batch_size": batch_size,
            "checkpoint_every": 10,
            "validation_images": 64,
            "pictures_every": 0,
        }
        overrides = [part for key, value in settings.items() for part in ("--set", f"{stage}.training.{key}={value}")]
        program = REPOSITORY / "target/release/kiln"
        config = ["--config", REPOSITORY / "configs/mnist-quick.toml", "--out", folder]
        subprocess.run([program, command, *config, *overrides], env=os.environ | environment, check=True)
    with open(metrics, newline="") as file:
        rows = list(csv.DictReader(file))
    return [int(row["step"]) for row in rows], [float(row["loss/train"]) for row in rows]


def curves(folder):
    """The steps and losses of every stage and variant."""
    found = {}
    folders = [folder / name for name in ("kiln", "burn")]
    for command in STAGES:
        for (variant, environment), run_folder in zip(VARIANTS.items(), folders):
            if command == "train-latent-diffusion":
                # Beside stage 1's run, and from one VQ-VAE: that of the first variant.
                run_folder = run_folder.with_name(run_folder.name + "-stage-2")
                first = folders[0].with_name(folders[0].name + "-stage-2")
                for source, part in [(folders[0], "vqvae"), (first, "latents")]:
                    if (source / part).exists() and not (run_folder / part).exists():
                        shutil.copytree(source / part, run_folder / part)
            found[command, variant] = train(command, run_folder, environment)
    return found


def draw(found):
    pyplot.rcParams["svg.hashsalt"] = "kiln"
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for panel, (command, (_, _, title, batch_size)) in zip(panels, STAGES.items()):
        for variant, line in zip(VARIANTS, ("-", "--")):
            steps, losses = found[command, variant]
            panel.plot(steps, losses, line, label=variant, linewidth=1.8)
        panel.set(title=f"{title}, batches of {batch_size}", xlabel="step", ylabel="training loss", yscale="log")
        panel.grid(alpha=0.3, which="both")
        panel.legend()
    figure.savefig(PICTURE, metadata={"Date": None})


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = curves(Path(sys.argv[1]))
    draw(found)
    first, second = VARIANTS
    for command in STAGES:
        steps, losses = found[command, first]
        apart = [abs(other / loss - 1) for loss, other in zip(losses, found[command, second][1])]
        print(f"{command}: at most {max(apart):.1e}, at step {steps[apart.index(max(apart))]}")
        for step, loss, difference in zip(steps, losses, apart):
            print(f"  step {step}: {loss:.5f}, {difference:.1e} apart")


if __name__ == "__main__":
    main()
