"""Which kernels a step launched, and how long each took, by Nsight Compute."""

import csv
from collections import defaultdict

SLOWEST = 25
LONGEST_NAME = 200


def ncu(file):
    """What stands before a program's command line. It sees what the program marks with cudaProfilerStart and -Stop."""
    return [
        "ncu", "--profile-from-start", "off", "--clock-control", "none", "--cache-control", "none",
        "--metrics", "gpu__time_duration.sum", "--print-units", "base", "--csv", "--log-file", file,
    ]  # fmt: skip


def read(file):
    """Number of launches, their summed milliseconds, and the slowest kernels, all launches of one name together."""
    with open(file, newline="", errors="replace") as lines:
        # Messages of ncu, and what the program printed, stand before the table.
        table = csv.DictReader(line for line in lines if line.startswith('"'))
        kernels = defaultdict(lambda: [0, 0.0])
        for row in table:
            kernel = kernels[row["Kernel Name"][:LONGEST_NAME]]
            kernel[0] += 1
            kernel[1] += float(row["Metric Value"].replace(",", "")) / 1e6
    if not kernels:
        raise ValueError("there are no kernels in it")
    slowest = sorted(kernels.items(), key=lambda item: -item[1][1])[:SLOWEST]
    return {
        "launches": sum(launches for launches, _ in kernels.values()),
        "kernel_milliseconds": sum(milliseconds for _, milliseconds in kernels.values()),
        "slowest": [
            {"name": name, "launches": launches, "milliseconds": milliseconds}
            for name, (launches, milliseconds) in slowest
        ],
    }
