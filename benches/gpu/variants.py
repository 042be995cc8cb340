"""How each side computes: the columns of the tables. A new variant is one line here. Needs no PyTorch."""

from argparse import ArgumentTypeError
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kiln:
    flags: tuple = ("--precision", "f32")
    environment: dict = field(default_factory=dict)
    not_for: tuple = ()  # kinds of works in which it does the same as another variant


@dataclass(frozen=True)
class Torch:
    """PyTorch, channels-last."""

    bf16: bool = False  # autocast in training, weights in bf16 for sampling
    compile_mode: str | None = None
    tf32: bool = True  # what is in f32 may be multiplied in TF32


VARIANTS = {
    "kiln": Kiln(),
    "kiln-bf16": Kiln(("--precision", "bf16")),
    "kiln-graphs": Kiln(environment={"KILN_GRAPHS": "on"}, not_for=("vqvae",)),
    "kiln-bf16-graphs": Kiln(("--precision", "bf16"), {"KILN_GRAPHS": "on"}, not_for=("vqvae",)),
    "torch-f32": Torch(),
    "torch-bf16": Torch(bf16=True),
    "torch-compiled": Torch(bf16=True, compile_mode="default"),
    "torch-compiled-graphs": Torch(bf16=True, compile_mode="reduce-overhead"),
    "torch-f32-exact": Torch(tf32=False),  # to compare losses with
}
# Both in the order of the turns. Software drivers have no bf16.
TRIAL = ["kiln", "torch-f32", "torch-compiled", "kiln-graphs"]
DEFAULT = ["kiln-bf16", "torch-bf16", "torch-compiled", "kiln", "torch-f32", "kiln-bf16-graphs"]


def extra(text):
    """A variant of kiln from `NAME:ENV=VALUE,ENV2=VALUE[:--flag,...]`, both lists of which may be empty."""
    name, settings, flags = (text.split(":", 2) + ["", ""])[:3]
    if name.startswith("torch-"):
        raise ArgumentTypeError(f"{name}: variants of kiln have no names of PyTorch's")
    settings = [setting for setting in settings.split(",") if setting]
    if not all("=" in setting for setting in settings):
        raise ArgumentTypeError(f"{text}: an environment variable has the form ENV=VALUE")
    environment = dict(setting.split("=", 1) for setting in settings)
    flags = tuple(flag for flag in flags.split(",") if flag)
    if not any(flag.startswith("--precision") for flag in flags):
        flags += ("--precision", "f32")
    return name, Kiln(flags, environment)
