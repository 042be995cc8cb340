"""The tables of a comparison, as Markdown.

    python benches/peer/report.py FILE     the tables of what compare.py left in FILE with --json
"""

import json
import statistics
import sys
from pathlib import Path

from tables import table
from works import BY_NAME

KILN = "kiln"
KILN_BF16 = "kiln-bf16"
# PyTorch's best is the faster of these for time, and the smaller for memory.
F32 = ["torch-default", "torch-channels-last"]
BF16 = ["torch-bf16", "torch-bf16-weights"]
TITLES = {
    KILN: "kiln",
    KILN_BF16: "kiln bf16",
    "torch-default": "PyTorch f32",
    "torch-channels-last": "f32 channels-last",
    "torch-bf16": "bf16 channels-last",
    "torch-bf16-weights": "bf16 weights",
}

median = statistics.median


def times(turns):
    """All timed repeats of all turns, in milliseconds."""
    return [time for turn in turns for time in turn["milliseconds"]]


def memory(turns, above_start=False):
    """The median over turns of the peak, in bytes; `above_start` leaves out what was there before the model was."""
    peaks = [turn["peak_memory"] - (turn["memory_before"] if above_start else 0) for turn in turns]
    return median(peaks)


def best(figures, variants):
    found = [figures[variant] for variant in variants if variant in figures]
    return min(found, default=None)


def ratio(ours, theirs):
    return "" if ours is None or theirs is None else f"{ours / theirs:.2f}"


def time_table(works):
    header = ["milliseconds: median (fastest - slowest)", *TITLES.values(), "kiln / best f32", "kiln bf16 / best bf16"]
    rows = []
    for name, turns in works.items():
        figures = {variant: median(times(measured)) for variant, measured in turns.items()}
        cells = []
        for variant in TITLES:
            if variant in turns:
                all_times = times(turns[variant])
                cells.append(f"{figures[variant]:.0f} ({min(all_times):.0f} - {max(all_times):.0f})")
            else:
                cells.append("")
        ratios = [ratio(figures.get(KILN), best(figures, F32)), ratio(figures.get(KILN_BF16), best(figures, BF16))]
        rows.append([BY_NAME[name].title, *cells, *ratios])
    return table(header, rows)


def memory_table(works):
    header = ["peak memory in MB (of it loaded before the model)", *TITLES.values(), "kiln / best f32", "without what was loaded"]
    rows = []
    for name, turns in works.items():
        if any(turn["peak_memory"] is None for measured in turns.values() for turn in measured):
            continue  # this system does not tell
        peaks = {variant: memory(measured) for variant, measured in turns.items()}
        above = {variant: memory(measured, above_start=True) for variant, measured in turns.items()}
        cells = []
        for variant in TITLES:
            if variant in turns:
                cells.append(f"{peaks[variant] / 1e6:.0f} ({(peaks[variant] - above[variant]) / 1e6:.0f})")
            else:
                cells.append("")
        ratios = [ratio(figures.get(KILN), best(figures, F32)) for figures in (peaks, above)]
        rows.append([BY_NAME[name].title, *cells, *ratios])
    return table(header, rows)


def roofline_table(works, roofline):
    rate = roofline["product_rates"]["f32"]
    header = ["arithmetic", "GFLOP", "kiln, GFLOP/s", "of the rate", "PyTorch's best f32, GFLOP/s", "of the rate"]
    rows = []
    for name, turns in works.items():
        operations = roofline["operations"][name]
        figures = {variant: median(times(measured)) / 1e3 for variant, measured in turns.items()}
        cells = []
        for seconds in (figures.get(KILN), best(figures, F32)):
            reached = None if seconds is None else operations / seconds
            cells += ["", ""] if reached is None else [f"{reached / 1e9:.0f}", f"{100 * reached / rate:.0f}%"]
        rows.append([BY_NAME[name].title, f"{operations / 1e9:.1f}", *cells])
    rates = ", ".join(f"{kind} {rate / 1e9:.0f} GFLOP/s" for kind, rate in roofline["product_rates"].items())
    return f"The rate of a matrix product of 1024 x 1024 x 1024, by PyTorch: {rates}.\n\n{table(header, rows)}"


def setting(outcome):
    """One paragraph: machine, versions, how often."""
    versions = outcome["machine"]
    turns = [turn for work in outcome["works"].values() for turn in work.get(KILN, [])]
    processor = turns[0]["machine"]["processor"] if turns else "unknown processor"
    instructions = " ".join(turns[0]["machine"]["vector_instructions"]) if turns else "unknown"
    return (
        f"{processor} ({instructions}), {outcome['threads']} threads; kiln {versions['kiln']}, torch {versions['torch']}, "
        f"diffusers {versions['diffusers']}, Python {versions['python']}; {outcome['rounds']} rounds."
    )


def markdown(outcome):
    parts = [setting(outcome), time_table(outcome["works"]), memory_table(outcome["works"])]
    if "roofline" in outcome:
        parts.append(roofline_table(outcome["works"], outcome["roofline"]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
