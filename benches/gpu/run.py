"""kiln against PyTorch on an NVIDIA card: the same networks, weights and batches, in turns, with a time limit.

    bash benches/gpu/run.sh                                      everything that fits into nine minutes
    bash benches/gpu/run.sh --peer PATH                          with a program that is built already
    bash benches/gpu/run.sh --parts card,works --works flowers-32 --variants kiln-bf16,torch-bf16
    bash benches/gpu/run.sh --extra plain:KILN_KERNELS=burn:--precision=bf16
    bash benches/gpu/run.sh --device wgpu                        on any card, or none: see --device
    bash benches/gpu/run.sh --dry-run                            what would be done; needs neither PyTorch nor a card

It needs Python 3.11 and `pip install -r benches/gpu/requirements.txt`, for the kernels also Nsight Compute (`ncu`), and
for kiln NVIDIA's driver for CUDA 13 and `nvvm/libdevice` of the CUDA toolkit (in $CUDA_PATH or /usr/local/cuda). With
--peer (CONTRIBUTING.md says how to build that) it needs no network, and of the project only benches/ and configs/.
Every turn is a separate process with its own time limit. A turn that fails leaves its error in the results, and the
others go on. The results are in files in the folder --out: one JSON file for each part, written anew after each turn,
the tables in report.md, and in log.txt what the turns wrote to stderr. The status is 1 if no turn measured anything.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "peer"))

import kiln
import kernels
import report
import watch
from variants import DEFAULT, TRIAL, VARIANTS, Kiln, Torch, extra
from works import BY_NAME, GPU_WORKS, REPOSITORY, TRIAL_WORKS, plan

# Parts in their order, with the most seconds of each, and the share of the deadline that earlier parts leave to it.
PARTS = {"card": (120, 0), "works": (600, 0), "first-step": (100, 0.05), "kernels": (200, 0.12), "parity": (200, 0.08)}
# Whose kernels are listed, besides those of the first work.
ALSO_PROFILED = "latent-400m"
# No turn is started with less time than this.
LEAST_SECONDS = 12
# Of works other than the first, so many variants are measured for all works before the rest.
SOONER = 3
ONE_STEP = {"warm_up": 0, "repeats": 1, "steps_per_repeat": 1}
THREE_STEPS = ONE_STEP | {"repeats": 3}
# To compare how kiln learns in f32 and in bf16: steps of one batch, and those at the end whose mean loss is compared.
CURVE = ONE_STEP | {"repeats": 60}
LAST = 10


def note(text):
    print(text, flush=True)


class Run:
    """The limits, the results so far and the way to take a turn."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.variants = VARIANTS | dict(arguments.extra)
        self.workspace, self.out = arguments.workspace, arguments.out
        # Whose first step is timed, whose kernels are listed first and whose losses are compared.
        self.first = BY_NAME[arguments.works[0]]
        self.empty = self.workspace / "empty"  # kiln's folder: in a cargo project its caches would go to `target`
        self.empty.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        if not arguments.keep_caches:
            shutil.rmtree(self.workspace / "caches", ignore_errors=True)
        for part in PARTS:
            self.file(part).unlink(missing_ok=True)
        self.log = (self.out / "log.txt").open("w")
        self.card = watch.Card()
        self.results = {}
        self.measured_anything = False
        self.end = time.monotonic() + arguments.deadline
        self.part_end = self.end

    def file(self, part):
        return self.out / f"{part}.json"

    def save(self):
        for part, result in self.results.items():
            temporary = self.out / "partial"
            temporary.write_text(json.dumps(result, indent=1))
            temporary.replace(self.file(part))
        (self.out / "report.md").write_text(report.markdown(self.results) + "\n")

    def left(self):
        return min(self.part_end, self.end) - time.monotonic()

    def process(self, name, command, environment=None, folder=REPOSITORY, limit=None, prints_json=True):
        """What a process measured; or an `error`, or `skipped` if there is no time for it."""
        limit = min(limit or self.arguments.turn_timeout, self.left())
        if limit < LEAST_SECONDS:
            note(f"{name}: skipped, for lack of time")
            return {"skipped": "for lack of time"}
        outcome = watch.run(command, environment or {}, folder, limit, self.card, self.log, prints_json)
        note(f"{name}: {report.summary(outcome)}")
        return outcome

    def measured(self, variant, work=None):
        """What a variant's turn with a work, the first unless another is named, gave in the part `works`, if any."""
        return self.results.get("works", {}).get(work or self.first.name, {}).get(variant, {})

    def variants_of(self, kind):
        """The chosen variants, without those that do the same as another in works of this kind."""
        differs = {name for name, variant in self.variants.items() if kind not in getattr(variant, "not_for", ())}
        return [name for name in self.arguments.variants if name in differs]

    def caches(self, variant):
        """The folder where a variant's compiled kernels are kept, and the environment variables that say so."""
        folder = self.workspace / "caches" / variant
        names = ["CUDA_CACHE_PATH"]
        if isinstance(self.variants[variant], Kiln):
            names += ["HOME", "XDG_CACHE_HOME"]
        else:
            names += ["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"]
        return folder, {name: str(folder) for name in names}

    def command(self, variant, work, warm_up=None, repeats=None, steps_per_repeat=0, device=None, more=()):
        chosen = self.variants[variant]
        counts = {
            "--device": device or (self.arguments.device if isinstance(chosen, Kiln) else self.arguments.torch_device),
            "--warm-up": work.warm_up if warm_up is None else warm_up,
            "--repeats": repeats or work.repeats,
            "--steps-per-repeat": steps_per_repeat,
        }
        options = [*(word for option in counts.items() for word in option), *more]
        if isinstance(chosen, Kiln):
            if work.kind != "sample":
                # PyTorch's side has the full learning rate from the first step on.
                stage = 1 if work.kind == "vqvae" else 2
                options += ["--set", f"stage_{stage}.training.warmup_steps=0"]
            return kiln.command(self.arguments.peer, work, self.workspace, [*options, *chosen.flags])
        return [sys.executable, HERE / "torch_turn.py", work.name, variant, self.workspace, *options]

    def turn(self, variant, work, what="", prefix=(), **options):
        """One turn of a work. The result's `cold` tells whether there were no compiled kernels from before."""
        chosen = self.variants[variant]
        folder, environment = self.caches(variant)
        cold = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(chosen, Kiln):
            environment |= chosen.environment
        command = [*prefix, *self.command(variant, work, **options)]
        outcome = self.process(f"{work.name}{what}, {variant}", command, environment, self.empty)
        self.measured_anything |= "milliseconds" in outcome
        return outcome | {"cold": cold}


def card(run):
    """Which card and versions, its peaks; and the networks and inputs of all works."""
    revision = ""
    if shutil.which("git"):
        describe = ["git", "describe", "--always", "--dirty"]
        revision = subprocess.run(describe, cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    run.results["card"] = result = {"kiln": revision or "unknown", "command": sys.argv[1:]}
    device = ["--device", run.arguments.torch_device]
    result |= run.process("card", [sys.executable, HERE / "card.py", *device], limit=60)
    run.save()


def prepare(run):
    """Writes networks and inputs. Without them no turn can work, so no part is without this."""
    outcome = run.process(
        "prepare", [sys.executable, HERE / "prepare.py", run.workspace, *run.arguments.works], limit=120
    )
    if "error" in outcome:
        sys.exit(f"{outcome['stderr']}\nwithout networks and inputs nothing can be measured")


def works(run):
    """Each work in each variant."""
    variants, names = run.arguments.variants, run.arguments.works
    rest = names[1:]
    order = [(run.first.name, variant) for variant in variants]
    order += [(name, variant) for name in rest for variant in variants[:SOONER]]
    order += [(name, variant) for name in rest for variant in variants[SOONER:]]
    run.results["works"] = results = {name: {} for name in names}
    for name, variant in order:
        work = BY_NAME[name]
        if variant not in run.variants_of(work.kind):
            continue
        if work.kind == "sample" and not results[name]:
            save_noise(run, work)
        # Counting operations takes a step more, so one variant does it.
        more = ["--operations"] if variant == "torch-bf16" and work.kind != "sample" else []
        results[name][variant] = run.turn(variant, work, more=more)
        run.save()


def save_noise(run, work):
    """Leaves the noise that kiln draws from where PyTorch begins as well. It does not depend on the number of steps."""
    if run.arguments.peer:
        more = ["--save-noise", run.workspace / work.inputs]
        run.turn("kiln", replace(work, steps=1), "'s noise", **ONE_STEP, device="cpu", more=more)


def first_step(run):
    """Seconds from a process's start to the end of its first step, without compiled kernels from before and with."""
    run.results["first-step"] = results = {}
    for variant in run.variants_of(run.first.kind):
        cold = run.measured(variant)
        if "error" not in cold and not (cold.get("cold") and "first_step_seconds" in cold):
            shutil.rmtree(run.caches(variant)[0], ignore_errors=True)
            cold = run.turn(variant, run.first, "'s first step, cold", **ONE_STEP)
        # One that was too slow may have left compiled kernels. Other errors would come again.
        warm = {}
        if "first_step_seconds" in cold or "timed out" in cold.get("error", ""):
            warm = run.turn(variant, run.first, "'s first step, again", **ONE_STEP)
        keys = ("first_step_seconds", "error", "skipped")
        results[variant] = {
            name: {key: outcome[key] for key in keys if key in outcome}
            for name, outcome in [("cold", cold), ("again", warm)]
        }
        run.save()


def launches_of_a_step(run, variant):
    """Launches of one training step of the first work, by CubeCL's log: what one step more launches."""
    settings, log = run.empty / "cubecl.toml", run.workspace / "launches.txt"
    settings.write_text(kernels.logging(log))
    counted = []
    try:
        for repeats in (1, 2):
            log.unlink(missing_ok=True)
            times = {"warm_up": 2, "repeats": repeats, "steps_per_repeat": 1}
            outcome = run.turn(variant, run.first, "'s launches", **times)
            if "error" in outcome or "skipped" in outcome:
                return outcome
            counted.append(kernels.launches(log))
    finally:
        settings.unlink()
    return kernels.of_one_step(*counted)


def kernels_of_a_step(run):
    """Launches of one warm training step: on an NVIDIA card by ncu, of both sides."""
    run.results["kernels"] = results = {}
    variants = [name for name in run.variants_of("unet") if isinstance(run.variants[name], Kiln)]
    if run.arguments.device != "cuda":
        results[run.first.name] = {variant: launches_of_a_step(run, variant) for variant in variants}
        return
    # PyTorch's second, so that there is one of each side if time is short.
    variants[1:1] = [name for name in run.arguments.variants if name == "torch-bf16"]
    profiled = [run.first.name, *(name for name in run.arguments.works[1:] if name == ALSO_PROFILED)]
    for name in profiled:
        for variant in variants:
            if "error" in run.measured(variant, name):
                continue
            file = run.workspace / "ncu.csv"
            file.unlink(missing_ok=True)
            prefix = kernels.ncu(file)
            outcome = run.turn(variant, BY_NAME[name], "'s kernels", prefix, warm_up=4, repeats=1, more=["--profile"])
            try:
                outcome |= kernels.read(file)
            except (OSError, ValueError, KeyError) as error:
                outcome.setdefault("error", f"ncu's table could not be read: {error}")
            results.setdefault(name, {})[variant] = outcome
            run.save()


def parity(run):
    """Losses of the first three steps on all sides; kiln's after more; and kiln's test programs, if any are given."""
    run.results["parity"] = result = {"works": {}, "curves": {}, "gpu_tests": {}}
    # One of each kind of network that is trained.
    chosen = [BY_NAME[name] for name in run.arguments.works]
    kinds = {work.kind: work for work in reversed(chosen) if work.kind != "sample"}
    for work in kinds.values():
        first_losses(run, work, result["works"].setdefault(work.name, {}))
    for work in [work for work in chosen if work.kind in kinds][:1]:
        curves = result["curves"][work.name] = {}
        for variant in run.variants_of(work.kind):
            if isinstance(run.variants[variant], Kiln):
                outcome = run.turn(variant, work, f"'s loss after {CURVE['repeats']} steps", **CURVE)
                losses = outcome.get("first_losses", [])[-LAST:]
                curves[variant] = sum(losses) / len(losses) if losses else report.failed(outcome)
                run.save()
    for program in run.arguments.gpu_test:
        # As cargo would say it.
        environment = {"CARGO_MANIFEST_DIR": str(REPOSITORY / "crates" / "kiln")}
        result["gpu_tests"][program.name] = run.process(program.name, [program], environment, prints_json=False)
        run.save()


def first_losses(run, work, result):
    """Losses of the first three steps on all sides."""

    def add(name, outcome):
        losses = outcome.get("first_losses")
        result[name] = losses[:3] if losses else outcome.get("error") or outcome.get("skipped")
        run.save()

    add("torch-f32-exact", run.turn("torch-f32-exact", work, "'s losses", **THREE_STEPS))
    if run.arguments.peer:
        losses = run.turn("kiln", work, "'s losses on the processor", **THREE_STEPS, device="cpu")
        add("kiln on the processor", losses)
    for variant in run.variants_of(work.kind):
        measured = run.measured(variant, work.name)
        if "first_losses" not in measured and "error" not in measured:
            measured = run.turn(variant, work, "'s losses", **THREE_STEPS)
        add(variant, measured)


STEPS = {"card": card, "works": works, "first-step": first_step, "kernels": kernels_of_a_step, "parity": parity}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    all_works = [work.name for work in GPU_WORKS]
    trials = [work.name for work in TRIAL_WORKS]
    out = Path(os.environ.get("OUT") or REPOSITORY / "target" / "gpu")
    parser.add_argument("--peer", type=Path, metavar="PATH", help="kiln's side [default: cargo builds it]")
    parser.add_argument("--parts", type=kiln.list_of(PARTS), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument(
        "--works", type=kiln.list_of([*all_works, *trials]), metavar="NAME,...",
        help=f"the first one is looked at most closely [default: {', '.join(all_works)}; with wgpu: {', '.join(trials)}]",
    )
    parser.add_argument(
        "--variants", metavar="NAME,...", help=f"[default: {', '.join(DEFAULT)}; with wgpu: {', '.join(TRIAL)}]"
    )
    parser.add_argument(
        "--extra", type=extra, action="append", default=[], metavar="NAME:ENV=VALUE,...[:--flag,...]",
        help="one more variant of kiln, in f32 unless a flag says --precision=bf16",
    )
    parser.add_argument(
        "--gpu-test", type=Path, action="append", default=[], metavar="PATH",
        help="a test program of kiln's (gpu, gpu_operators), to run as well; may be repeated",
    )
    parser.add_argument(
        "--deadline", type=float, default=540, help="seconds for everything but the build [default: %(default)s]"
    )
    parser.add_argument("--turn-timeout", type=float, default=100, help="seconds for each turn [default: %(default)s]")
    parser.add_argument("--out", type=Path, default=out, help="for results [default: $OUT or %(default)s]")
    parser.add_argument(
        "--workspace", type=Path, default=Path(tempfile.gettempdir()) / "kiln-gpu",
        help="for models, inputs and caches, not in a cargo project [default: %(default)s]",
    )
    parser.add_argument("--keep-caches", action="store_true", help="begin with the last run's compiled kernels")
    parser.add_argument(
        "--device", choices=["cuda", "wgpu"], default="cuda",
        help="wgpu tries the scripts: kiln by Vulkan, for which Debian's mesa-vulkan-drivers is enough, without bf16, and "
        "PyTorch on the processor",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    arguments = parser.parse_args()
    arguments.torch_device = "cuda" if arguments.device == "cuda" else "cpu"
    arguments.works = arguments.works or (trials if arguments.device == "wgpu" else all_works)
    arguments.variants = arguments.variants or ",".join(TRIAL if arguments.device == "wgpu" else DEFAULT)
    for name, _ in arguments.extra:
        if name in VARIANTS:
            parser.error(f"--extra {name}: there is a variant of this name already")
    for name in ("deadline", "turn_timeout"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name.replace('_', '-')} is a number of seconds above 0")
    known = [*VARIANTS, *(name for name, _ in arguments.extra)]
    try:
        arguments.variants = kiln.list_of(known)(arguments.variants)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    arguments.variants += [name for name, _ in arguments.extra if name not in arguments.variants]
    for name in ("workspace", "out", "peer"):
        path = getattr(arguments, name)
        setattr(arguments, name, path and path.resolve())
    arguments.gpu_test = [path.resolve() for path in arguments.gpu_test]
    for path in [*filter(None, [arguments.peer]), *arguments.gpu_test]:
        if not (path.is_file() and os.access(path, os.X_OK)):
            parser.error(f"{path} is no program")
    return arguments


def say_plan(arguments):
    program = arguments.peer or "built by cargo first, which takes half an hour on two cores"
    note(f"kiln's side: {program}")
    note(f"at most {arguments.deadline:.0f} s after that, and {arguments.turn_timeout:.0f} s a turn")
    note(f"results: {arguments.out}; models and caches: {arguments.workspace}")
    variants = ", ".join(arguments.variants)
    for part in (part for part in PARTS if part in arguments.parts):
        note(f"== {part}: at most {min(PARTS[part][0], arguments.deadline):.0f} s")
        if part == "works":
            for work in (BY_NAME[name] for name in arguments.works):
                plan(work)  # fails if its config no longer fits
                note(f"{work.name}, {work.title}, {work.warm_up} + {work.repeats} repeats: {variants}")


def main():
    arguments = parse()
    if arguments.dry_run:
        say_plan(arguments)
        return
    missing = [name for name in ("torch", "diffusers") if not importlib.util.find_spec(name)]
    if missing:
        sys.exit(f"there is no {' and no '.join(missing)} here: pip install -r {HERE / 'requirements.txt'}")
    if not arguments.peer and any(isinstance(VARIANTS.get(name, Kiln()), Kiln) for name in arguments.variants):
        arguments.peer = kiln.build(["kiln-cli/wgpu" if arguments.device == "wgpu" else "kiln-cli/cuda"])
    # So that the turn in progress is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    run = Run(arguments)
    parts = [part for part in PARTS if part in arguments.parts]
    for number, part in enumerate(parts):
        most, _ = PARTS[part]
        kept = arguments.deadline * sum(PARTS[later][1] for later in parts[number + 1 :])
        run.part_end = min(time.monotonic() + most, run.end - kept)
        note(f"== {part}: {run.left():.0f} s")
        if number == 0 and part != "card":
            prepare(run)
        try:
            STEPS[part](run)
        except Exception as error:  # a fault here must not cost the parts that follow
            run.results.setdefault(part, {})["error"] = f"{type(error).__name__}: {error}"
            note(f"{part}: {run.results[part]['error']}")
        if part == "card":
            prepare(run)
        run.save()
    print(report.markdown(run.results, brief=True))
    note(f"== everything is in {arguments.out}")
    if {"works", "first-step", "kernels", "parity"} & set(parts) and not run.measured_anything:
        sys.exit("no turn measured anything")


if __name__ == "__main__":
    main()
