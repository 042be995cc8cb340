"""Which kernels a step launched: by Nsight Compute, with the time of each; or by CubeCL's log, without."""

import csv
import re
from collections import Counter, defaultdict

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


def logging(file):
    """CubeCL's settings that list all launches in a file, in the folder where a program starts."""
    return f'[profiling]\nlogger = {{ level = "minimal", file = "{file}", append = false }}\n'


def launches(log):
    """How often each kernel was launched, by its name without the hash of its settings."""
    with open(log, errors="replace") as lines:
        names = (line.removeprefix("Executing ").strip() for line in lines)
        return Counter(re.sub(r"_[0-9a-f]{8}$", "", name)[:LONGEST_NAME] for name in names)


def of_one_step(shorter, longer):
    """What a run with one step more launched more."""
    more = longer - shorter
    slowest = [{"name": name, "launches": count} for name, count in more.most_common(SLOWEST)]
    return {"launches": more.total() - (shorter - longer).total(), "slowest": slowest}
