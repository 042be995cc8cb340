"""How much arithmetic a work is, and how fast this machine can do arithmetic at all.

    python roofline.py WORKSPACE WORK ... --threads 2

Prints one JSON object: floating-point operations of one repeat of each work, counted by PyTorch's FlopCounterMode
(matrix products, convolutions and attention, forward and backward; a multiplication and its addition are two), and
the best rate of a 1024 x 1024 x 1024 matrix product, in operations per second.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from turn import TASKS, VARIANTS
from works import BY_NAME

SIDE = 1024


def operations(work, workspace):
    """Of one training step, or of drawing all the images."""
    task = TASKS[work.kind](work, workspace, VARIANTS["torch-default"])
    # PyTorch counts attention on every kind of device if it is two matrix products and a softmax.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task()
    return counter.get_total_flops()


def product_rate(number_type, seconds=2.0):
    """Operations per second of a large matrix product: the best of as many as fit into `seconds`."""
    left, right = (torch.randn(SIDE, SIDE).to(number_type) for _ in range(2))
    product = torch.empty(SIDE, SIDE, dtype=number_type)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("works", nargs="+", choices=list(BY_NAME))
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rates = {"f32": product_rate(torch.float32), "bf16": product_rate(torch.bfloat16)}
    counted = {name: operations(BY_NAME[name], arguments.workspace) for name in arguments.works}
    print(json.dumps({"product_rates": rates, "operations": counted}))


if __name__ == "__main__":
    main()
