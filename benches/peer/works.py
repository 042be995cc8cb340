"""What is compared: the rows of the table, their networks and their inputs."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# DDPM's network for CIFAR-10 (google/ddpm-cifar10-32) at half its width.
PIXEL_UNET = Path(__file__).parent / "pixel" / "config.json"


@dataclass(frozen=True)
class Work:
    """One row."""

    name: str  # on the command line
    title: str  # in the table
    kind: str  # "unet" and "vqvae" are training steps, "sample" is drawing images
    model: str  # the network's folder in the workspace
    config: str  # the experiment that says how to train or sample
    batch: int
    shape: tuple  # of one input: channels, height, width
    warm_up: int  # repeats that do not count, in each turn
    repeats: int  # repeats that count, in each turn
    steps: int = 0  # denoising steps

    @property
    def inputs(self):
        """The batch, as a file in the workspace that both sides read."""
        return f"inputs/{self.name}.safetensors"


MNIST, FLOWERS = "configs/mnist.toml", "configs/flowers.toml"
WORKS = [
    Work("unet-8", "U-Net training step, 4x8x8 latents, batch 64",
         "unet", "mnist/unet", MNIST, 64, (4, 8, 8), warm_up=3, repeats=10),
    Work("unet-16", "U-Net training step, 4x16x16 latents, batch 32",
         "unet", "flowers/unet", FLOWERS, 32, (4, 16, 16), warm_up=2, repeats=5),
    Work("unet-pixel", "U-Net training step, 3x32x32 pixels, batch 16",
         "unet", "pixel/unet", MNIST, 16, (3, 32, 32), warm_up=2, repeats=5),
    Work("vqvae-64", "VQ-VAE training step, 3x64x64, batch 32",
         "vqvae", "flowers/vqvae", FLOWERS, 32, (3, 64, 64), warm_up=2, repeats=5),
    Work("sample-8", "DDIM 50 steps, 64 images, MNIST latents, decode included",
         "sample", "mnist", MNIST, 64, (4, 8, 8), warm_up=1, repeats=3, steps=50),
]
BY_NAME = {work.name: work for work in WORKS}


def experiment(config):
    """An experiment's TOML, with kiln's defaults where it is silent."""
    table = tomllib.loads((REPOSITORY / config).read_text())
    for stage in ("stage_1", "stage_2"):
        defaults = {"betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.0, "clip_norm": 1.0}
        table[stage]["training"] = defaults | table[stage]["training"]
    return table


def scheduler_options(table):
    """The schedule of an experiment, in the words of diffusers' schedulers."""
    schedule = table["schedule"]
    return {
        "num_train_timesteps": schedule["num_train_timesteps"],
        "beta_start": schedule["beta_start"],
        "beta_end": schedule["beta_end"],
        "beta_schedule": schedule["kind"],
        "prediction_type": {"noise": "epsilon", "velocity": "v_prediction"}[table["stage_2"]["prediction"]],
    }


def prepare(workspace, works):
    """Writes the networks, with PyTorch's initial weights, and the batches that `works` need."""
    import torch
    from diffusers import DDIMScheduler, UNet2DModel, VQModel
    from safetensors.torch import save_file

    def options(table):
        return {key: None if value == "none" else value for key, value in table.items()}

    def save(network_class, table, folder):
        torch.manual_seed(0)
        network_class(**options(table)).save_pretrained(workspace / folder)

    for work in works:
        table = experiment(work.config)
        if work.kind == "unet":
            pixel = {key: value for key, value in json.loads(PIXEL_UNET.read_text()).items() if key[0] != "_"}
            save(UNet2DModel, pixel if work.model.startswith("pixel") else table["unet"], work.model)
        elif work.kind == "vqvae":
            save(VQModel, table["vqvae"], work.model)
        else:
            save(UNet2DModel, table["unet"], f"{work.model}/unet")
            save(VQModel, table["vqvae"], f"{work.model}/vqvae")
            sampled = scheduler_options(table) | {
                "clip_sample": False,
                "timestep_spacing": table["sampling"]["spacing"],
            }
            DDIMScheduler(**sampled).save_pretrained(workspace / work.model / "scheduler")
            index = {"_class_name": "LDMPipeline", "_diffusers_version": "0.42.1"}
            parts = {"scheduler": "DDIMScheduler", "unet": "UNet2DModel", "vqvae": "VQModel"}
            index |= {part: ["diffusers", name] for part, name in parts.items()}
            (workspace / work.model / "model_index.json").write_text(json.dumps(index, indent=2))

        (workspace / "inputs").mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(1)
        shape = (work.batch, *work.shape)
        if work.kind == "unet":
            total = table["schedule"]["num_train_timesteps"]
            inputs = {
                "z0": torch.randn(shape, generator=generator),
                "noise": torch.randn(shape, generator=generator),
                "timesteps": torch.randint(0, total, (work.batch,), generator=generator).float(),
            }
        elif work.kind == "vqvae":
            inputs = {"images": torch.randn(shape, generator=generator).clamp(-1, 1)}
        else:
            continue  # kiln draws its own noise: it leaves it here in the first, untimed turn
        save_file(inputs, workspace / work.inputs)
