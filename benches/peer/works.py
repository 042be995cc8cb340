"""What is compared: the rows of the table, their networks and their inputs."""

import json
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Work:
    """One row."""

    name: str  # on the command line
    title: str  # in the table
    kind: str  # "unet" and "vqvae" are training steps, "forward" is one call of a U-Net, "sample" is drawing images
    model: str  # the network's folder in the workspace
    config: str  # the experiment that says how to train or sample
    batch: int
    shape: tuple  # of one input: channels, height, width
    warm_up: int  # repeats that do not count, in each turn
    repeats: int  # repeats that count, in each turn
    steps: int = 0  # denoising steps
    network: str = ""  # the U-Net's config.json, if it is not the experiment's

    @property
    def inputs(self):
        """The batch, as a file in the workspace that both sides read."""
        return f"inputs/{self.name}.safetensors"


MNIST, FLOWERS, FLOWERS_KL = "configs/mnist.toml", "configs/flowers-vq.toml", "configs/flowers.toml"
CIFAR = "configs/cifar10-ddpm.toml"
# What compare.py measures on the processor.
WORKS = [
    Work("unet-8", "U-Net training step, 4x8x8 latents, batch 64",
         "unet", "mnist/unet", MNIST, 64, (4, 8, 8), warm_up=3, repeats=10),
    Work("unet-16", "U-Net training step, 4x16x16 latents, batch 32",
         "unet", "flowers/unet", FLOWERS, 32, (4, 16, 16), warm_up=2, repeats=5),
    Work("unet-pixel", "U-Net training step, 3x32x32 pixels, batch 16",
         "unet", "pixel/unet", MNIST, 16, (3, 32, 32), warm_up=2, repeats=5,
         # DDPM's network for CIFAR-10 (google/ddpm-cifar10-32) at half its width.
         network="benches/peer/pixel/config.json"),
    Work("vqvae-64", "VQ-VAE training step, 3x64x64, batch 32",
         "vqvae", "flowers/vqvae", FLOWERS, 32, (3, 64, 64), warm_up=2, repeats=5),
    Work("sample-8", "DDIM 50 steps, 64 images, MNIST latents, decode included",
         "sample", "mnist", MNIST, 64, (4, 8, 8), warm_up=1, repeats=3, steps=50),
    Work("forward-8", "U-Net call, 4x8x8 latents, batch 64",
         "forward", "mnist/unet", MNIST, 64, (4, 8, 8), warm_up=5, repeats=20),
    Work("forward-cifar", "U-Net call, DDPM's CIFAR-10 network, 3x32x32 pixels, batch 16",
         "forward", "cifar/unet", CIFAR, 16, (3, 32, 32), warm_up=2, repeats=6,
         network="benches/gpu/cifar/config.json"),
    Work("forward-celebahq", "U-Net call, CompVis/ldm-celebahq-256 (274 million weights), 3x64x64 latents, batch 1",
         "forward", "celebahq/unet", CIFAR, 1, (3, 64, 64), warm_up=2, repeats=5,
         network="benches/peer/celebahq/config.json"),
]
# What benches/gpu measures on a graphics card.
GPU_WORKS = [
    Work("flowers-32", "U-Net training step, 4x16x16 latents, batch 32",
         "unet", "flowers/unet", FLOWERS_KL, 32, (4, 16, 16), warm_up=10, repeats=5),
    Work("flowers-256", "U-Net training step, 4x16x16 latents, batch 256",
         "unet", "flowers/unet", FLOWERS_KL, 256, (4, 16, 16), warm_up=10, repeats=5),
    Work("cifar-128", "U-Net of DDPM's CIFAR-10, training step, 3x32x32, batch 128",
         "unet", "cifar/unet", CIFAR, 128, (3, 32, 32), warm_up=8, repeats=4,
         network="benches/gpu/cifar/config.json"),
    Work("latent-400m", "U-Net of 400 million weights, training step, 4x32x32 latents, batch 32",
         "unet", "latent-400m/unet", FLOWERS_KL, 32, (4, 32, 32), warm_up=6, repeats=3,
         network="benches/gpu/latent-400m/config.json"),
    Work("vq-64", "VQ-VAE training step, 3x64x64, batch 32",
         "vqvae", "flowers-vq/vqvae", FLOWERS, 32, (3, 64, 64), warm_up=10, repeats=5),
    Work("sample-64", "DDIM 50 steps, 64 images, flowers' latents, decode included",
         "sample", "flowers-vq", FLOWERS, 64, (4, 16, 16), warm_up=2, repeats=3, steps=50),
]
# What tries the scripts of benches/gpu where there is no card, on a software driver.
TRIAL_WORKS = [
    Work("trial", "U-Net training step, 4x8x8 latents, batch 4",
         "unet", "mnist/unet", MNIST, 4, (4, 8, 8), warm_up=4, repeats=2),
    Work("trial-sample", "DDIM 50 steps, 2 images, MNIST latents, decode included",
         "sample", "mnist", MNIST, 2, (4, 8, 8), warm_up=1, repeats=2, steps=50),
]
BY_NAME = {work.name: work for work in [*WORKS, *GPU_WORKS, *TRIAL_WORKS]}


def experiment(config):
    """An experiment's TOML, with kiln's defaults where it is silent."""
    table = tomllib.loads((REPOSITORY / config).read_text())
    for stage in table.keys() & {"stage_1", "stage_2"}:
        defaults = {"betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.0, "clip_norm": 1.0}
        training = defaults | table[stage]["training"]
        if "ema" in training:
            training["ema"] = {"decay": 0.9999} | training["ema"]
        table[stage]["training"] = training
    table["schedule"] = {"kind": "linear", "num_train_timesteps": 1000} | table["schedule"]
    table["stage_2"] = {"prediction": "noise", "loss": "mse"} | table["stage_2"]
    table["sampling"] = {"spacing": "trailing"} | table.get("sampling", {})
    return table


# Schedules of betas that both sides have, by diffusers' names.
BETA_SCHEDULES = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"noise": "epsilon", "velocity": "v_prediction"}


def known(names, value, config_key):
    if value not in names:
        sys.exit(f"PyTorch's side has no {config_key} = {value!r}, only {', '.join(names)}: add it to works.py")
    return names[value]


def scheduler_options(table):
    """The schedule of an experiment, in the words of diffusers' schedulers."""
    schedule, stage = table["schedule"], table["stage_2"]
    if stage["loss"] != "mse" or "loss_on" in stage or "loss_weight" in stage:
        sys.exit("PyTorch's side has the plain mean squared error alone: see turn.py")
    options = {
        "num_train_timesteps": schedule["num_train_timesteps"],
        "beta_schedule": known(BETA_SCHEDULES, schedule["kind"], "schedule.kind"),
        "prediction_type": known(PREDICTIONS, stage["prediction"], "stage_2.prediction"),
        "rescale_betas_zero_snr": schedule.get("zero_terminal_snr", False),
    }
    # The cosine has no range of betas.
    if schedule["kind"] != "cosine":
        options |= {"beta_start": schedule.get("beta_start", 1e-4), "beta_end": schedule.get("beta_end", 0.02)}
    return options


@dataclass(frozen=True)
class Preparation:
    """What a work needs before its first turn, in diffusers' words. Needs neither PyTorch nor diffusers itself."""

    networks: dict  # class and options, by folder in the workspace
    inputs: dict  # shapes, by tensor: a batch of timesteps is below the number of them
    timesteps: int
    scheduler: dict  # where there is a whole model to draw with


def plan(work):
    """What `prepare` writes for a work."""
    table = experiment(work.config)

    def network(name, options):
        return name, {key: None if value == "none" else value for key, value in options.items()}

    shape = (work.batch, *work.shape)
    options = scheduler_options(table)
    if work.kind in ("unet", "forward"):
        chosen = table["unet"]
        if work.network:
            written = json.loads((REPOSITORY / work.network).read_text())
            chosen = {key: value for key, value in written.items() if key[0] != "_"}
        networks = {work.model: network("UNet2DModel", chosen)}
        inputs = {"noise": shape}
        if work.kind == "unet":
            inputs = {"z0": shape, **inputs, "timesteps": (work.batch,)}
        scheduler = {}
    elif work.kind == "vqvae":
        networks, inputs, scheduler = {work.model: network("VQModel", table["vqvae"])}, {"images": shape}, {}
    else:
        networks = {
            f"{work.model}/unet": network("UNet2DModel", table["unet"]),
            f"{work.model}/vqvae": network("VQModel", table["vqvae"]),
        }
        inputs = {}  # kiln draws its own noise: it leaves it here in the first, untimed turn
        scheduler = options | {"clip_sample": False, "timestep_spacing": table["sampling"]["spacing"]}
    return Preparation(networks, inputs, options["num_train_timesteps"], scheduler)


def prepare(workspace, works):
    """Writes the networks, with PyTorch's initial weights, and the batches that `works` need."""
    import diffusers
    import torch
    from safetensors.torch import save_file

    for work in works:
        planned = plan(work)
        for folder, (name, options) in planned.networks.items():
            torch.manual_seed(0)
            getattr(diffusers, name)(**options).save_pretrained(workspace / folder)
        if planned.scheduler:
            diffusers.DDIMScheduler(**planned.scheduler).save_pretrained(workspace / work.model / "scheduler")
            index = {"_class_name": "LDMPipeline", "_diffusers_version": "0.42.1"}
            parts = {"scheduler": "DDIMScheduler", "unet": "UNet2DModel", "vqvae": "VQModel"}
            index |= {part: ["diffusers", name] for part, name in parts.items()}
            (workspace / work.model / "model_index.json").write_text(json.dumps(index, indent=2))
        (workspace / "inputs").mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(1)
        inputs = {}
        for name, shape in planned.inputs.items():
            if name == "timesteps":
                inputs[name] = torch.randint(0, planned.timesteps, shape, generator=generator).float()
            else:
                drawn = torch.randn(shape, generator=generator)
                inputs[name] = drawn.clamp(-1, 1) if name == "images" else drawn
        if inputs:
            save_file(inputs, workspace / work.inputs)
