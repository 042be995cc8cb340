"""The tables of a run on a card, as Markdown.

    python benches/gpu/report.py FOLDER     the tables of what run.py left in FOLDER
"""

import json
import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "peer"))

from tables import table
from works import BY_NAME

RIVALS = {"torch-bf16": "torch bf16", "torch-compiled": "compiled"}
NAME_IN_TABLE = 90


def median(outcome):
    """Milliseconds per step."""
    times = outcome.get("milliseconds")
    return statistics.median(times) if times else None


def failed(outcome):
    """A word for a cell without a figure."""
    if "error" in outcome:
        return "timed out" if "timed out" in outcome["error"] else "failed"
    return "skipped" if "skipped" in outcome else ""


def summary(outcome):
    """One line of progress."""
    if "error" in outcome or "skipped" in outcome:
        last = outcome.get("stderr", "").strip().splitlines()
        return " | ".join([outcome.get("error") or outcome["skipped"], *last[-1:]])
    parts = [f"{outcome['seconds']:.0f} s"]
    if median(outcome) is not None:
        parts.insert(0, f"{median(outcome):.2f} ms")
    for key, form in [("first_step_seconds", "first step after {:.1f} s"), ("busy", "busy {:.0%}")]:
        if outcome.get(key) is not None:
            parts.append(form.format(outcome[key]))
    if outcome.get("card_memory") is not None:
        parts.append(f"{outcome['card_memory'] / 1e6:.0f} MB")
    return ", ".join(parts)


def columns(works):
    """All variants that any work has, in their order."""
    return list(dict.fromkeys(variant for turns in works.values() for variant in turns))


def is_kiln(variant):
    return not variant.startswith("torch-")


def per_work(works, title, cell, always=False):
    """A row for each work, a column for each variant. Nothing if there is no figure at all, unless it is wanted always."""
    variants = columns(works)
    if not always and not any(cell(outcome) for turns in works.values() for outcome in turns.values()):
        return ""
    rows = []
    for name, turns in works.items():
        outcomes = [turns.get(variant, {}) for variant in variants]
        rows.append([BY_NAME[name].title, *(failed(outcome) or cell(outcome) for outcome in outcomes)])
    return table([title, *variants], rows)


def time_cell(outcome):
    if median(outcome) is None:
        return ""
    times = outcome["milliseconds"]
    return f"{median(outcome):.2f} ({min(times):.2f} - {max(times):.2f})"


def ratio_table(works):
    """kiln's time in parts of PyTorch's."""
    ours = [variant for variant in columns(works) if is_kiln(variant)]
    pairs = [(variant, rival) for variant in ours for rival in RIVALS]
    rows = []
    for name, turns in works.items():
        cells = []
        for pair in pairs:
            mine, theirs = (median(turns.get(variant, {})) for variant in pair)
            cells.append(f"{mine / theirs:.2f}" if mine and theirs else "")
        rows.append([BY_NAME[name].title, *cells])
    if not any(cell for row in rows for cell in row[1:]):
        return ""
    return table(["time, as a multiple", *(f"{variant} / {RIVALS[rival]}" for variant, rival in pairs)], rows)


def rate_table(works, peaks):
    """How much of the card's measured rate in bf16 the steps reach, where operations were counted."""
    rows = []
    for name, turns in works.items():
        counted = [outcome["operations"] for outcome in turns.values() if "operations" in outcome]
        if not counted:
            continue
        cells = []
        for variant in columns(works):
            time = median(turns.get(variant, {}))
            rate = counted[0] / time * 1e3 if time else None
            share = f" ({rate / peaks['bf16_operations_per_second']:.0%})" if rate and peaks else ""
            cells.append(f"{rate / 1e12:.1f}{share}" if rate else "")
        rows.append([BY_NAME[name].title, f"{counted[0] / 1e9:.0f}", *cells])
    header = ["TFLOP/s (of a bf16 matrix product's)", "GFLOP per step", *columns(works)]
    return table(header, rows) if rows else ""


def megabytes(key):
    return lambda outcome: f"{outcome[key] / 1e6:.0f}" if outcome.get(key) is not None else ""


def busy_cell(outcome):
    return f"{outcome['busy']:.0%}" if "busy" in outcome else ""


def card_lines(card):
    lines = [f"kiln {card['kiln']}"]
    if "torch" in card:
        lines.append(f"torch {card['torch']}, diffusers {card['diffusers']}, Python {card['python']}")
        lines.append(f"{card['card']} ({card['nvidia_smi']})" if "card" in card else "no NVIDIA card")
        lines.append(
            f"copies {card['copied_bytes_per_second'] / 1e9:.0f} GB/s (read and written), "
            f"multiplies {card['bf16_operations_per_second'] / 1e12:.0f} TFLOP/s in bf16, "
            f"{card['tf32_operations_per_second'] / 1e12:.0f} in TF32"
        )
    return "\n".join(f"- {line}" for line in lines)


def first_step_table(first_step):
    def cell(outcome):
        return f"{outcome['first_step_seconds']:.1f}" if "first_step_seconds" in outcome else failed(outcome)

    rows = [[variant, cell(times["cold"]), cell(times["again"])] for variant, times in first_step.items()]
    return table(["seconds from start to the first step's end", "without caches", "again"], rows)


def kernel_tables(kernels, works, brief):
    parts, rows = [], []
    for name, variants in kernels.items():
        for variant, outcome in variants.items():
            if "launches" not in outcome:
                rows.append([f"{name}, {variant}", failed(outcome), "", ""])
                continue
            step = median(works.get(name, {}).get(variant, {}))
            in_kernels = outcome.get("kernel_milliseconds")
            figures = [f"{time:.2f}" if time else "" for time in (in_kernels, step)]
            rows.append([f"{name}, {variant}", str(outcome["launches"]), *figures])
    header = ["one training step", "launches", "ms in kernels, by ncu", "ms per step, without ncu"]
    parts.append(table(header, rows))
    for name, variants in kernels.items():
        for variant, outcome in variants.items():
            total = outcome.get("kernel_milliseconds")
            rows = [
                [
                    "`" + kernel["name"][:NAME_IN_TABLE].replace("|", "\\|") + "`",
                    str(kernel["launches"]),
                    f"{kernel['milliseconds']:.3f}" if total else "",
                    f"{kernel['milliseconds'] / total:.0%}" if total else "",
                ]
                for kernel in outcome.get("slowest", [])
            ]
            if rows:
                parts.append(table([f"{name}, {variant}: slowest kernels", "launches", "ms", "share"], rows))
    return "\n\n".join(parts[:1] if brief else parts)


def parity_tables(parity):
    tables = [losses_table(work, losses) for work, losses in parity["works"].items()]
    for work, curves in parity["curves"].items():
        rows = [[name, f"{loss:.6f}" if isinstance(loss, float) else loss] for name, loss in curves.items()]
        if rows:
            tables.append(table([f"kiln, {work}", "loss at the end of 60 steps of one batch"], rows))
    rows = [[name, failed(outcome) or "passed"] for name, outcome in parity["gpu_tests"].items()]
    if rows:
        tables.append(table(["test program", ""], rows))
    return "\n\n".join(tables)


def losses_table(work, first_losses):
    reference = first_losses.get("torch-f32-exact")
    rows = []
    for name, losses in first_losses.items():
        if not isinstance(losses, list):
            rows.append([name, str(losses), ""])
            continue
        apart = ""
        if isinstance(reference, list) and None not in losses + reference:
            apart = ", ".join(f"{abs(mine - theirs) / abs(theirs):.1e}" for mine, theirs in zip(losses, reference))
        rows.append([name, ", ".join(f"{loss:.6f}" if loss is not None else "not finite" for loss in losses), apart])
    return table([work, "losses of the first steps", "relative distance from PyTorch's in f32"], rows)


def first_results(works):
    return per_work(
        works, "first result", lambda outcome: f"{outcome['first_result']:.6g}" if outcome.get("first_result") else ""
    )


def markdown(results, brief=False):
    """All tables for which there are results; if brief, without the lists of kernels."""
    ended = [(part, result) for part, result in results.items() if "error" in result]
    parts = [f"{part} ended early: {summary(result)}" for part, result in ended]
    results = {part: {key: result[key] for key in result if key != "error"} for part, result in results.items()}
    works = {name: turns for name, turns in results.get("works", {}).items() if turns}

    def add(title, make, *inputs):
        if all(inputs):
            try:
                content = make()
            except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
                content = f"no table: {type(error).__name__} {error}"
            if content:
                parts.append(f"### {title}\n\n{content}")

    card, kernels, parity = (results.get(part) for part in ("card", "kernels", "parity"))
    peaks = card if card and "bf16_operations_per_second" in card else None
    add("Setting", lambda: card_lines(card), card)
    add("Time", lambda: per_work(works, "ms: median (fastest - slowest)", time_cell, always=True), works)
    add("Ratios", lambda: ratio_table(works), works)
    add("Rates", lambda: rate_table(works, peaks), works)
    on_card, counted = megabytes("card_memory"), megabytes("peak_memory")
    add("Memory on the card, with the process's context", lambda: per_work(works, "MB", on_card), works)
    # PyTorch's: of tensors on the card. kiln's: of the process, in the machine's own memory, unless it says otherwise.
    add("Memory by each side's own count", lambda: per_work(works, "MB", counted), works)
    add("Share of time in which a kernel ran", lambda: per_work(works, "busy", busy_cell), works)
    add("First losses, or mean squares of images", lambda: first_results(works), works)
    add("First step", lambda: first_step_table(results["first-step"]), results.get("first-step"))
    add("Kernels", lambda: kernel_tables(kernels, works, brief), kernels)
    add("Parity", lambda: parity_tables(parity), parity)
    return "\n\n".join(parts)


def load(folder):
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(markdown(load(Path(sys.argv[1]))))
