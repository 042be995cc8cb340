"""Loads a model that kiln wrote with Python's diffusers, and compares a sample with kiln's.

pip install diffusers==0.42.1 torch==2.15.0 safetensors==0.8.0
python load_model.py MODEL [SAMPLE.safetensors] [--tolerance 1e-3]

Without a sample: every part must load without a warning, a missing key or an unexpected key.

With a sample, as kiln leaves one, the same noise must give the same images:

    noise        [batch, channels, height, width]  what sampling starts from
    images       [batch, 1 or 3, height, width]    kiln's result in [-1, 1], cropped or not
    step_noise   [steps, batch, channels, h, w]    the fresh noise of each step, for samplers that add some
    labels       [batch]                           only of class-conditional models
    __metadata__                                   strings: steps, and eta ("0" if not given)

A model with a folder guide/ is guided as its guidance.json says: diffusers' pipelines do not know of it, the loop below does.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, SchedulerMixin, UNet2DModel, VQModel
from safetensors import safe_open


class Warnings(logging.Handler):
    """Keeps what diffusers complains about."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def load(folder):
    """The pipeline, once all its parts have been found to load cleanly."""
    warnings = Warnings()
    diffusers.utils.logging.add_handler(warnings)
    # Without `low_cpu_mem_usage` there is no need for, and no warning about, the package `accelerate`.
    pipeline = DiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    print(f"{type(pipeline).__name__} of {', '.join(pipeline.components)}")

    for name, part in pipeline.components.items():
        if isinstance(part, (UNet2DModel, VQModel, AutoencoderKL)):
            options = {"output_loading_info": True, "low_cpu_mem_usage": False}
            if (Path(folder) / name).is_dir():
                options["subfolder"] = name
            _, info = type(part).from_pretrained(folder, **options)
            problems = {kind: keys for kind, keys in info.items() if keys}
            assert not problems, f"{name}: {problems}"
            count = sum(parameter.numel() for parameter in part.parameters())
            print(f"{name}: {type(part).__name__}, {count} parameters, no missing or unexpected keys")
        else:
            assert isinstance(part, SchedulerMixin), type(part)
            print(f"{name}: {type(part).__name__}, predicts {part.config.prediction_type}")
    # LDMPipeline itself is deprecated, expects a VQModel but takes an AutoencoderKL, and pickles are warned of: none of these
    # says anything about the model.
    harmless = ("deprecated", "expected types for vqvae", "unsafe serialization", "no file named diffusion_pytorch_model.safetensors")
    complaints = [message for message in warnings.messages if not any(word in message.lower() for word in harmless)]
    assert not complaints, complaints
    return pipeline


def load_guide(folder):
    """The worse version of the U-Net, its scale, and the noise rates between which it guides; None if there is none."""
    if not (Path(folder) / "guide").is_dir():
        return None
    unet, info = UNet2DModel.from_pretrained(folder, subfolder="guide", output_loading_info=True, low_cpu_mem_usage=False)
    assert not any(info.values()), info
    guidance = json.loads((Path(folder) / "guide" / "guidance.json").read_text())
    print(f"guide: {guidance}")
    return unet, guidance["scale"], guidance["interval"]


@torch.no_grad()
def sample(pipeline, noise, steps, eta=0.0, step_noise=None, labels=None, guide=None):
    """LDMPipeline's loop, with all of its noise given. Images in [-1, 1], not clipped."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    fresh = iter(step_noise if step_noise is not None else [])
    # Where a scheduler draws noise of its own, as those of DDPM and of consistency models do, it gets the given one.
    sys.modules[type(scheduler).__module__].randn_tensor = lambda *_, **__: next(fresh)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        output = pipeline.unet(scaled, timestep, class_labels=labels).sample
        if guide is not None:
            worse, scale, (lowest, highest) = guide
            noise_rate = (1 - scheduler.alphas_cumprod[timestep]).sqrt().item()
            if lowest <= noise_rate <= highest:
                worse = worse(scaled, timestep, class_labels=labels).sample
                output = worse + scale * (output - worse)
        options = {}
        if isinstance(scheduler, DDIMScheduler):
            options["eta"] = eta
        latents = scheduler.step(output, timestep, latents, **options).prev_sample
    vqvae = getattr(pipeline, "vqvae", None)
    if vqvae is None:
        return latents
    shift = vqvae.config.get("shift_factor") or 0.0
    return vqvae.decode(latents / vqvae.config.scaling_factor + shift).sample


def cropped(images, height, width):
    """The middle of the images: kiln crops the border that padded them for training."""
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("model")
    arguments.add_argument("sample", nargs="?")
    arguments.add_argument("--tolerance", type=float, default=1e-3)
    arguments = arguments.parse_args()

    pipeline = load(arguments.model)
    if arguments.sample is None:
        return 0

    with safe_open(arguments.sample, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        settings = file.metadata() or {}
    steps, eta = int(settings["steps"]), float(settings.get("eta", "0"))
    if eta > 0 and "step_noise" not in tensors:
        sys.exit("with eta > 0 the sample must bring the `step_noise`")
    labels = tensors.get("labels")
    theirs = sample(
        pipeline,
        tensors["noise"].float(),
        steps,
        eta,
        tensors.get("step_noise"),
        None if labels is None else labels.long(),
        load_guide(arguments.model),
    )
    ours = tensors["images"].float()
    theirs = cropped(theirs, *ours.shape[-2:]).clamp(-1, 1)
    largest = (ours.clamp(-1, 1) - theirs).abs().max().item()
    print(f"{len(ours)} images, {steps} steps of {type(pipeline.scheduler).__name__}, eta {eta}: largest difference {largest:.2e}")
    if largest > arguments.tolerance:
        sys.exit(f"more than {arguments.tolerance}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
