"""What card this is, with which versions, and how fast it copies and multiplies. Prints one JSON object.

    python card.py --device cuda
"""

import argparse
import json
import platform
import subprocess
import time

import diffusers
import torch

SIDE = 8192


def best_seconds(action, wait, seconds=1.0):
    """The fastest of as many runs as fit into a time, after two that do not count."""
    for _ in range(2):
        action()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        wait()
        started = time.perf_counter()
        action()
        wait()
        best = min(best, time.perf_counter() - started)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    device = parser.parse_args().device
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "cuda": torch.version.cuda,
    }
    wait, side, bytes_ = (lambda: None), 512, 1 << 26
    if device == "cuda":
        wait, side, bytes_ = torch.cuda.synchronize, SIDE, 1 << 32
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"]
        told = subprocess.run([*query, "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()
        facts |= {"card": torch.cuda.get_device_name(), "nvidia_smi": told, "cudnn": torch.backends.cudnn.version()}
    source = torch.empty(bytes_, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # A copy reads and writes.
    facts["copied_bytes_per_second"] = 2 * bytes_ / best_seconds(lambda: target.copy_(source), wait)
    del source, target
    torch.backends.cuda.matmul.allow_tf32 = True
    for name, number_type in [("bf16", torch.bfloat16), ("tf32", torch.float32)]:
        left, right = (torch.randn(side, side, device=device).to(number_type) for _ in range(2))
        seconds = best_seconds(lambda: torch.mm(left, right), wait)
        facts[f"{name}_operations_per_second"] = 2 * side**3 / seconds
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
