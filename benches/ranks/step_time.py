"""How much of a step goes to the network when several processes train as one, and a prediction for more of them.

    pip install -r benches/ranks/requirements.txt
    python benches/ranks/step_time.py measure --json steps.json
    python benches/ranks/step_time.py predict --model flowers:10.7e6:0.03 --network "10 Gbit/s:1.25e9:50e-6" --out efficiency.svg

`measure` trains VQ-VAEs of several sizes with one process and with two, each pinned to a core and with the same batch, on
an idle machine with Open MPI and a kiln that was built with `--features mpi`. It fits the model below to the
times. `predict` draws the model's efficiency for 1 to 1,024 processes, for each model (its name, weights and seconds of
a step on one device) on each network (its name, bytes a second, and seconds until a message begins to arrive).

The model: ranks compute side by side, then sum their gradients; the sum does not overlap with the backward pass. With n
ranks and W weights of 4 bytes in messages of 4 MB,

    t(n) = compute + 2 (n - 1) / n * 4 W / bandwidth + messages * 2 log2(n) * latency
    efficiency(n) = compute / t(n)

This is Rabenseifner's all-reduce (Thakur, Rabenseifner and Gropp 2005, section 4.5): ranks exchange halves of the data that is
left to be summed in log2(n) turns, and spread the sums in as many.
"""

import argparse
import itertools
import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

REPOSITORY = Path(__file__).parents[2]
MESSAGE = 4 << 20
SIZES = ["[16,32,64]", "[32,64,128]", "[64,128,256]"]


def share(ranks):
    """Bytes that a rank sends for every byte that is summed."""
    return 2 * (ranks - 1) / ranks


def turns(ranks, weights):
    return math.ceil(4 * weights / MESSAGE) * 2 * math.log2(ranks)


def step_time(ranks, weights, compute, bandwidth, latency):
    return compute + share(ranks) * 4 * weights / bandwidth + turns(ranks, weights) * latency


def train(kiln, ranks, channels, batch_size, steps):
    """Seconds of a training, and the weights of its network."""
    with tempfile.TemporaryDirectory() as place:
        overrides = {
            "vqvae.block_out_channels": channels,
            "stage_1.training.batch_size": batch_size,
            "stage_1.training.steps": steps,
            "stage_1.training.checkpoint_every": steps,
            "stage_1.training.validation_images": 8,
        }
        command = ["mpirun", "--allow-run-as-root", "-np", str(ranks), "--bind-to", "core", "-x", "RAYON_NUM_THREADS=1"]
        command += [kiln, "train-vqvae", "--json", "--out", place, "--config", REPOSITORY / "configs/mnist-quick.toml"]
        for key, value in overrides.items():
            command += ["--set", f"{key}={value}"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        return json.loads(done.stdout)["seconds"], weights_in(Path(place) / "vqvae/model/diffusion_pytorch_model.safetensors")


def weights_in(file):
    with open(file, "rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def measure(arguments):
    rows = []
    for channels in SIZES:
        times = {}
        for ranks in (1, 2):
            # A short and a long training differ only in their steps, so the difference is the time of the steps.
            short, long = arguments.steps, 3 * arguments.steps
            differences = []
            for _ in range(arguments.rounds):
                begun, weights = train(arguments.kiln, ranks, channels, arguments.batch_size, short)
                ended, _ = train(arguments.kiln, ranks, channels, arguments.batch_size, long)
                differences.append((ended - begun) / (long - short))
            times[ranks] = float(np.median(differences))
        rows.append({"channels": channels, "weights": weights, "one": times[1], "two": times[2]})
        print(f"{channels}: {weights} weights, {times[1]:.4f} s a step alone, {times[2]:.4f} s with two, "
              f"efficiency {times[1] / times[2]:.1%}", flush=True)
    # Least squares for 1 / bandwidth and latency.
    system = np.array([[share(2) * 4 * row["weights"], turns(2, row["weights"])] for row in rows])
    extra = np.array([row["two"] - row["one"] for row in rows])
    (slowness, latency), *_ = np.linalg.lstsq(system, extra, rcond=None)
    if latency < 0:
        latency, slowness = 0.0, (system[:, 0] @ extra) / (system[:, 0] @ system[:, 0])
    if slowness <= 0:
        sys.exit("steps of two ranks are no slower than those of one: is the machine idle, and has it two cores?")
    print(f"bandwidth {1e-9 / slowness:.2f} GB/s, latency {1e6 * latency:.0f} us a turn")
    for row in rows:
        modelled = step_time(2, row["weights"], row["one"], 1 / slowness, latency)
        print(f"{row['channels']}: {modelled:.4f} s with two by the model, {row['two']:.4f} s measured")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "bandwidth": 1 / slowness, "latency": latency}, indent=1))


def predict(arguments):
    ranks = 2 ** np.arange(11)
    figure, axes = plt.subplots(figsize=(7, 4))
    print("| model | network | " + " | ".join(str(n) for n in ranks) + " |")
    print("| --- | --- |" + " ---: |" * len(ranks))
    for (model, weights, compute), color in zip(arguments.model, plt.get_cmap("tab10").colors):
        for (network, bandwidth, latency), line in zip(arguments.network, itertools.cycle(["-", "--", ":"])):
            percent = [100 * compute / step_time(n, weights, compute, bandwidth, latency) for n in ranks]
            axes.semilogx(ranks, percent, line, marker=".", base=2, color=color, label=f"{model}, {network}")
            print(f"| {model} | {network} | " + " | ".join(f"{value:.0f}%" for value in percent) + " |")
    axes.set(xlabel="processes", ylabel="efficiency in percent", ylim=(0, 105), xticks=ranks, xticklabels=ranks)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(arguments.out, bbox_inches="tight", metadata={"Date": None})


def named_pair(text):
    name, first, second = text.rsplit(":", 2)
    return name, float(first), float(second)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--kiln", default=REPOSITORY / "target/release/kiln", type=Path)
    measuring.add_argument("--batch-size", default=16, type=int, help="images of a rank in a step")
    measuring.add_argument("--steps", default=10, type=int, help="steps of a short training; a long one has three times as many")
    measuring.add_argument("--rounds", default=3, type=int)
    measuring.add_argument("--json", type=Path)
    measuring.set_defaults(run=measure)
    predicting = commands.add_parser("predict")
    predicting.add_argument("--model", required=True, action="append", type=named_pair, metavar="NAME:WEIGHTS:SECONDS")
    predicting.add_argument("--network", required=True, action="append", type=named_pair, metavar="NAME:BYTES_PER_SECOND:SECONDS")
    predicting.add_argument("--out", required=True, type=Path)
    predicting.set_defaults(run=predict)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
