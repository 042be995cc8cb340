"""PyTorch's turn on a card: one work in one variant, in a separate process. Prints one JSON object.

    python torch_turn.py WORK VARIANT WORKSPACE --device cuda --warm-up 10 --repeats 5 --steps-per-repeat 0

The works are those of benches/peer/turn.py. Here the host waits for the card only at the end of a repeat, which has
many steps, as a training does that reads its loss now and then. `TIMING` and `TIMED` on stderr say when the timed
repeats begin and end.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

STARTED = time.time()
sys.path.append(str(Path(__file__).resolve().parents[1] / "peer"))

import torch
from torch.utils.flop_counter import FlopCounterMode

import turn
from variants import VARIANTS, Torch
from works import BY_NAME, GPU_WORKS, TRIAL_WORKS

# A repeat takes about so long, unless that is more than the largest number of steps.
SECONDS, MOST_STEPS = 0.7, 50


def variant_of(name, work, device):
    chosen = VARIANTS[name]
    draws = work.kind == "sample"
    return turn.Variant(
        autocasts=chosen.bf16 and not draws,
        weights=torch.bfloat16 if chosen.bf16 and draws else torch.float32,
        compile_mode=chosen.compile_mode,
        device=device,
    )


class Stopwatch:
    """Times steps of a task, on a device that computes while the host goes on."""

    def __init__(self, task, variant):
        self.task, self.on_card = task, variant.device == "cuda"
        self.replays_graphs = variant.compile_mode == "reduce-overhead"

    def wait(self):
        if self.on_card:
            torch.cuda.synchronize()

    def step(self):
        if self.replays_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        return self.task()

    def seconds_per_step(self, steps):
        self.wait()
        started = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.wait()
        return (time.perf_counter() - started) / steps


def profile_one_step(stopwatch):
    """Lets a profiler that was started with `--profile-from-start off` see one step."""
    stopwatch.wait()
    torch.cuda.profiler.start()
    stopwatch.step()
    stopwatch.wait()
    torch.cuda.profiler.stop()


def peak_memory(device):
    """Bytes: what tensors took at most, and what PyTorch had asked the card for."""
    if device != "cuda":
        return {"peak_memory": turn.status("VmHWM")}
    return {"peak_memory": torch.cuda.max_memory_allocated(), "reserved_memory": torch.cuda.max_memory_reserved()}


def measure(work, arguments):
    variant = variant_of(arguments.variant, work, arguments.device)
    stopwatch = Stopwatch(turn.TASKS[work.kind](work, arguments.workspace, variant), variant)
    losses, first_step_seconds = [], None
    for _ in range(1 if work.kind == "sample" else 3):
        loss = stopwatch.step().item()
        losses.append(loss if math.isfinite(loss) else None)
        if first_step_seconds is None:
            first_step_seconds = time.time() - float(os.environ.get("KIT_STARTED", STARTED))
    for _ in range(arguments.warm_up - len(losses)):
        stopwatch.step()
    measurement = {
        "images": work.batch,
        "milliseconds": [],
        "first_result": losses[0],
        "first_losses": losses,
        "first_step_seconds": first_step_seconds,
    }
    if arguments.profile:
        profile_one_step(stopwatch)
        return measurement
    steps = arguments.steps_per_repeat
    if steps == 0:
        steps = max(1, min(MOST_STEPS, round(SECONDS / stopwatch.seconds_per_step(1 if work.kind == "sample" else 3))))
    print("TIMING", file=sys.stderr, flush=True)
    for _ in range(arguments.repeats):
        measurement["milliseconds"].append(1e3 * stopwatch.seconds_per_step(steps))
    print("TIMED", file=sys.stderr, flush=True)
    measurement |= {"steps_per_repeat": steps, **peak_memory(arguments.device)}
    if arguments.operations:
        # Of matrix products, convolutions and attention; a multiplication and its addition are two.
        with FlopCounterMode(display=False) as counter:
            stopwatch.step()
        measurement["operations"] = counter.get_total_flops()
    return measurement


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=[work.name for work in [*GPU_WORKS, *TRIAL_WORKS]])
    parser.add_argument("variant", choices=[name for name, chosen in VARIANTS.items() if isinstance(chosen, Torch)])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--steps-per-repeat", type=int, default=0, help=f"0: as many as fit into {SECONDS} s")
    parser.add_argument("--profile", action="store_true", help="show one step to a profiler instead of timing")
    parser.add_argument("--operations", action="store_true", help="also count a step's operations")
    arguments = parser.parse_args()
    tf32 = VARIANTS[arguments.variant].tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    print(json.dumps(measure(BY_NAME[arguments.work], arguments)))


if __name__ == "__main__":
    main()
