"""Training curves with and without kiln's own operators, in one picture.

    cargo build --release --workspace
    pip install -r benches/curves/requirements.txt
    python benches/curves/compare.py FOLDER

Both stages of configs/mnist-quick.toml learn for 200 steps, with kiln's operators and with Burn's (KILN_KERNELS=burn),
from the same seeds. Stage 2 starts from the same VQ-VAE and the same latents in both, so that only the operators differ.
Stage 1 also runs with kiln's operators and other vector instructions (KILN_INSTRUCTIONS=portable), which differ only in
the order of sums. That shows how far rounding errors grow: other operators cannot be expected to agree better.

A run that FOLDER already has is not repeated. The picture goes to docs/images, and a table of the relative differences
between the losses to stdout.
"""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

REPOSITORY = Path(__file__).resolve().parents[2]
PICTURE = REPOSITORY / "docs/images/curves-with-and-without-kernels.svg"
KILN, PORTABLE, BURN = "kiln", "kiln, other instructions", "Burn"
VARIANTS = {KILN: {}, PORTABLE: {"KILN_INSTRUCTIONS": "portable"}, BURN: {"KILN_KERNELS": "burn"}}


class Stage(NamedTuple):
    command: str
    table: str
    folder: str
    title: str
    # Small, because Burn's operators are slow.
    batch_size: int
    seeds: list
    variants: list


VQVAE = Stage("train-vqvae", "stage_1", "vqvae", "stage 1: VQ-VAE", 8, [1, 2, 3, 4], [KILN, PORTABLE, BURN])
UNET = Stage("train-latent-diffusion", "stage_2", "diffusion", "stage 2: U-Net", 32, [1], [KILN, BURN])


def train(stage, folder, variant, seed, *more):
    """Runs a stage into `folder` unless it is there, and returns its steps and training losses: a row every ten steps."""
    metrics = folder / stage.folder / "metrics.csv"
    if not metrics.exists():
        settings = {
            "steps": 200,
            "batch_size": stage.batch_size,
            "checkpoint_every": 10,
            "validation_images": 64,
            "pictures_every": 0,
        }
        overrides = [f"{stage.table}.training.{key}={value}" for key, value in settings.items()] + [f"seed={seed}"]
        overrides = [part for override in overrides for part in ("--set", override)]
        program = REPOSITORY / "target/release/kiln"
        config = ["--config", REPOSITORY / "configs/mnist-quick.toml", "--out", folder]
        subprocess.run(
            [program, stage.command, *config, *overrides, *more], env=os.environ | VARIANTS[variant], check=True
        )
    with open(metrics, newline="") as file:
        rows = list(csv.DictReader(file))
    return [int(row["step"]) for row in rows], [float(row["loss/train"]) for row in rows]


def curves(folder):
    """The steps and losses of every stage, seed and variant."""
    found = {}
    for seed in VQVAE.seeds:
        for variant in VQVAE.variants:
            run = folder / f"stage-1-seed-{seed}-{variant.replace(', ', '-').replace(' ', '-')}"
            found[VQVAE.title, seed, variant] = train(VQVAE, run, variant, seed)
    vqvae = folder / f"stage-1-seed-{VQVAE.seeds[0]}-{KILN}" / "vqvae/model"
    encoded = None
    for variant in UNET.variants:
        run = folder / f"stage-2-{variant}"
        if encoded and not (run / "latents").exists():
            shutil.copytree(encoded, run / "latents")
        encoded = run / "latents"
        found[UNET.title, UNET.seeds[0], variant] = train(UNET, run, variant, UNET.seeds[0], "--vqvae", vqvae)
    return found


def draw(found):
    pyplot.rcParams["svg.hashsalt"] = "kiln"
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    styles = {KILN: ("C0", "-"), PORTABLE: ("C2", ":"), BURN: ("C1", "--")}
    for panel, stage in zip(panels, (VQVAE, UNET)):
        for seed in stage.seeds:
            for variant in stage.variants:
                color, line = styles[variant]
                label = f"{variant}'s operators" if variant != PORTABLE else variant
                label = label if seed == stage.seeds[0] else None
                panel.plot(*found[stage.title, seed, variant], line, color=color, label=label, linewidth=1.4)
        several = f", {len(stage.seeds)} seeds" if len(stage.seeds) > 1 else ""
        panel.set(title=f"{stage.title}, batches of {stage.batch_size}{several}", xlabel="step", ylabel="training loss")
        panel.set_yscale("log")
        panel.grid(alpha=0.3, which="both")
        panel.legend()
    figure.savefig(PICTURE, metadata={"Date": None})


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = curves(Path(sys.argv[1]))
    draw(found)
    print("| stage | seed | against kiln's own | first ten steps | largest | mean of the last hundred |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    for stage in (VQVAE, UNET):
        for seed in stage.seeds:
            for variant in stage.variants[1:]:
                ours, other = (found[stage.title, seed, name][1] for name in (KILN, variant))
                apart = [loss / our - 1 for our, loss in zip(ours, other)]
                largest = max(apart, key=abs)
                last = sum(other[10:]) / sum(ours[10:]) - 1
                cells = " | ".join(f"{100 * value:+.2g}%" for value in (apart[0], largest, last))
                print(f"| {stage.title} | {seed} | {variant} | {cells} |")


if __name__ == "__main__":
    main()
