"""kiln against PyTorch, ONNX Runtime and OpenVINO: the same networks, weights, batches and threads, in turns.

    pip install -r benches/peer/requirements.txt
    python benches/peer/compare.py                                     the whole table
    python benches/peer/compare.py --work unet-8 --rounds 1            one row
    python benches/peer/compare.py --variant kiln,torch-default        some columns
    python benches/peer/compare.py --dry-run                           what would be done; needs no libraries

It builds kiln with cargo first. The whole table takes three quarters of an hour on two cores.

Every turn is a separate process, which warms up, does the work a few times and reports each time and its peak memory.
The turns alternate: kiln, then the others' variants, then kiln again, so that other load on the machine affects all of
them. The tables go to stdout as Markdown, and with --json all measurements go to a file.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import kiln
import report
from works import REPOSITORY, WORKS, plan, prepare

HERE = Path(__file__).parent
KILN = "kiln"
OURS = {KILN: "f32", "kiln-bf16": "bf16"}
TRAINED = ["torch-default", "torch-channels-last", "torch-bf16", "compile", "compile-bf16"]
CALLED = [*TRAINED, "torch-bf16-weights", "onnxruntime", "openvino", "openvino-bf16"]
POSSIBLE = {"unet": TRAINED, "vqvae": TRAINED, "sample": CALLED, "forward": CALLED}
# The largest relative difference between both sides' first losses, and between the mean squares of their drawn images.
# Images have fifty steps to drift, and a latent between two codes may fall to either.
TOLERANCE = {"unet": 1e-4, "vqvae": 1e-4, "forward": 1e-4, "sample": 1e-3}
# The same for kiln in bf16.
TOLERANCE_OF_BF16 = 2e-3


def note(text):
    print(text, file=sys.stderr, flush=True)


def run(command, threads):
    """The JSON that a process prints. It computes with `threads` threads, whichever library it uses."""
    names = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"]
    environment = os.environ | {name: str(threads) for name in names} | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [str(part) for part in command], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed with {done.returncode}: its message is above")
    return json.loads(done.stdout.strip().splitlines()[-1])


def kiln_command(peer, work, workspace, warm_up, repeats, precision="f32"):
    counts = ["--warm-up", warm_up, "--repeats", repeats, "--precision", precision]
    return kiln.command(peer, work, workspace, counts)


def turn(variant, peer, work, arguments):
    """One process's measurement."""
    repeats = arguments.repeats or work.repeats
    if variant in OURS:
        command = kiln_command(peer, work, arguments.workspace, work.warm_up, repeats, OURS[variant])
    else:
        counts = ["--warm-up", work.warm_up, "--repeats", repeats, "--threads", arguments.threads]
        command = [sys.executable, HERE / "turn.py", work.name, variant, arguments.workspace, *counts]
    return run(command, arguments.threads)


def variants_of(work, chosen):
    possible = [*OURS, *POSSIBLE[work.kind]]
    return [variant for variant in possible if not chosen or variant in chosen]


def check_same_work(work, turns):
    """Ends the comparison if kiln and the others in f32, or kiln in bf16, did not compute the same at first."""
    firsts = {variant: measured[0]["first_result"] for variant, measured in turns.items() if measured}
    ours = firsts.get(KILN)
    for variant in ("kiln-bf16", "torch-default", "torch-channels-last", "compile", "onnxruntime", "openvino"):
        theirs = firsts.get(variant)
        if ours is None or theirs is None:
            continue
        apart = abs(ours - theirs) / abs(theirs)
        if apart > (TOLERANCE_OF_BF16 if variant == "kiln-bf16" else TOLERANCE[work.kind]):
            sys.exit(f"{work.name}: kiln says {ours} and {variant} {theirs}: they do not do the same work")
        note(f"{work.name}: kiln {ours:.7g}, {variant} {theirs:.7g}: {apart:.1e} apart")


def compare(work, peer, arguments):
    """All rounds of one work: the turns of each variant."""
    if work.kind == "sample":
        # An untimed turn of kiln writes the noise that PyTorch begins with.
        command = kiln_command(peer, work, arguments.workspace, 0, 1)
        run([*command, "--save-noise", arguments.workspace / work.inputs], arguments.threads)
    turns = {variant: [] for variant in variants_of(work, arguments.variant)}
    for number in range(1, arguments.rounds + 1):
        for variant, measured in turns.items():
            measured.append(turn(variant, peer, work, arguments))
            median = report.median(measured[-1]["milliseconds"])
            memory = (measured[-1]["peak_memory"] or 0) / 1e6
            note(f"{work.name}, round {number}: {variant} {median:.1f} ms, {memory:.0f} MB")
        if number == 1:
            check_same_work(work, turns)
    return turns


def say_plan(works, arguments):
    """What a run would prepare and measure."""
    for work in works:
        planned = plan(work)
        written = [f"{folder} ({name})" for folder, (name, _) in planned.networks.items()]
        written += [f"{name} of {'x'.join(map(str, shape))}" for name, shape in planned.inputs.items()]
        repeats = arguments.repeats or work.repeats
        print(f"{work.name}: {work.title}")
        print(f"  prepared in {arguments.workspace}: {', '.join(written)}")
        print(f"  {arguments.rounds} turns of {repeats} repeats: {', '.join(variants_of(work, arguments.variant))}")


def machine():
    """What the figures were measured on and with."""
    import diffusers
    import onnxruntime
    import openvino
    import torch

    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True
    )
    return {
        "kiln": revision.stdout.strip() or "unknown",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__.split("-")[0],
        "python": platform.python_version(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def save(outcome, path):
    """Writes the measurements so far to a file, if one was asked for."""
    if path:
        temporary = path.with_name(path.name + ".partial")
        temporary.write_text(json.dumps(outcome, indent=1))
        temporary.replace(path)


def positive(text):
    """For argparse: a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [work.name for work in WORKS]
    parser.add_argument("--work", type=kiln.list_of(names), metavar="WORK,...", help="rows [default: all]")
    parser.add_argument(
        "--variant", type=kiln.list_of([*OURS, *CALLED]), metavar="VARIANT,...",
        help=f"columns [default: all: {', '.join([*OURS, *CALLED])}]",
    )
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each variant [default: %(default)s]")
    parser.add_argument("--repeats", type=positive, help="timed repeats in a turn [default: each work's own]")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="[default: all cores]")
    parser.add_argument(
        "--workspace", type=Path, default=REPOSITORY / "target" / "peer",
        help="for models and inputs [default: target/peer]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to leave everything that was measured")
    parser.add_argument("--roofline", action="store_true", help="also count operations: see docs/performance.md")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    arguments = parser.parse_args()
    arguments.workspace = arguments.workspace.resolve()
    works = [work for work in WORKS if not arguments.work or work.name in arguments.work]
    works = [work for work in works if variants_of(work, arguments.variant)]
    if not works:
        parser.error("none of these variants does any of these works: --dry-run lists which does what")
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        parser.error(f"there is no folder for {arguments.json}")

    if arguments.dry_run:
        say_plan(works, arguments)
        return
    load = os.getloadavg()[0]
    if load > 0.5:
        # PyTorch's threads wait for each other in busy loops, so it loses far more than kiln does.
        note(f"warning: the machine is busy (load {load:.1f}), which falsifies the ratios in kiln's favour")
    peer = kiln.build()
    prepare(arguments.workspace, works)
    outcome = {
        "machine": machine(),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "load_before": load,
        "works": {},
    }
    for work in works:
        outcome["works"][work.name] = compare(work, peer, arguments)
        save(outcome, arguments.json)
    if arguments.roofline:
        command = [sys.executable, HERE / "roofline.py", arguments.workspace, *outcome["works"]]
        outcome["roofline"] = run([*command, "--threads", arguments.threads], arguments.threads)
        save(outcome, arguments.json)
    print(report.markdown(outcome))


if __name__ == "__main__":
    main()
