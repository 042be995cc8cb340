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
TITLES = {
    KILN: "kiln",
    KILN_BF16: "kiln bf16",
    "torch-default": "PyTorch",
    "torch-channels-last": "channels-last",
    "torch-bf16": "bf16",
    "torch-bf16-weights": "bf16 weights",
    "compile": "torch.compile",
    "compile-bf16": "torch.compile bf16",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bf16",
}
OURS = [KILN, KILN_BF16]
THEIRS = [variant for variant in TITLES if variant not in OURS]
THEIR_F32 = ["torch-default", "torch-channels-last", "compile", "onnxruntime", "openvino"]

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


def figures_table(title, works, figure, cell):
    """A row for each work: `cell` of each variant, and the ratios of `figure` to the best of the others."""
    columns = [variant for variant in TITLES if any(variant in turns for turns in works.values())]
    header = [title, *(TITLES[variant] for variant in columns), "f32 / best f32", "kiln / best of all"]
    rows = []
    for name, turns in works.items():
        figures = {variant: figure(measured) for variant, measured in turns.items()}
        cells = [cell(turns[variant]) if variant in turns else "" for variant in columns]
        ratios = [
            ratio(figures.get(KILN), best(figures, THEIR_F32)),
            ratio(best(figures, OURS), best(figures, THEIRS)),
        ]
        rows.append([BY_NAME[name].title, *cells, *ratios])
    return table(header, rows)


def time_table(works):
    milliseconds = lambda turns: median(times(turns))
    return figures_table("milliseconds, median", works, milliseconds, lambda turns: f"{milliseconds(turns):.0f}")


def memory_table(works):
    """Peaks without what was loaded before the model. On a system that tells them."""
    told = {
        name: turns
        for name, turns in works.items()
        if all(turn["peak_memory"] is not None for measured in turns.values() for turn in measured)
    }
    above = lambda turns: memory(turns, above_start=True)
    cell = lambda turns: f"{above(turns) / 1e6:.0f} + {(memory(turns) - above(turns)) / 1e6:.0f}"
    return figures_table("peak memory in MB, + loaded before the model", told, above, cell)


def roofline_table(works, roofline):
    rates = roofline["product_rates"]
    header = ["arithmetic", "GFLOP", "kiln, GFLOP/s", "of f32's rate", "kiln bf16, GFLOP/s", "of bf16's rate", "the best other, GFLOP/s"]
    rows = []
    for name, turns in works.items():
        operations = roofline["operations"][name]
        figures = {variant: median(times(measured)) / 1e3 for variant, measured in turns.items()}
        cells = []
        for variant, rate in ((KILN, rates["f32"]), (KILN_BF16, rates["bf16"])):
            reached = operations / figures[variant] if variant in figures else None
            cells += ["", ""] if reached is None else [f"{reached / 1e9:.0f}", f"{100 * reached / rate:.0f}%"]
        others = best(figures, THEIRS)
        cells.append("" if others is None else f"{operations / others / 1e9:.0f}")
        rows.append([BY_NAME[name].title, f"{operations / 1e9:.1f}", *cells])
    told = ", ".join(f"{kind} {rate / 1e9:.0f} GFLOP/s" for kind, rate in rates.items())
    return f"The rate of a matrix product of 1024 x 1024 x 1024, by PyTorch: {told}.\n\n{table(header, rows)}"


def setting(outcome):
    """One paragraph: machine, versions, how often."""
    versions = outcome["machine"]
    turns = [turn for work in outcome["works"].values() for turn in work.get(KILN, [])]
    processor = turns[0]["machine"]["processor"] if turns else "unknown processor"
    instructions = " ".join(turns[0]["machine"]["vector_instructions"]) if turns else "unknown"
    rounds = outcome["rounds"]
    return (
        f"{processor} ({instructions}), {outcome['threads']} threads; kiln {versions['kiln']}, torch {versions['torch']}, "
        f"diffusers {versions['diffusers']}, ONNX Runtime {versions['onnxruntime']}, OpenVINO {versions['openvino']}, Python {versions['python']}; {rounds} round{'s' if rounds > 1 else ''}."
    )


def markdown(outcome):
    parts = [setting(outcome), time_table(outcome["works"]), memory_table(outcome["works"])]
    if "roofline" in outcome:
        parts.append(roofline_table(outcome["works"], outcome["roofline"]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        outcome = json.loads(Path(sys.argv[1]).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{sys.argv[1]} cannot be read: {error}")
    print(markdown(outcome))
