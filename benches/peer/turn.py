"""PyTorch's turn: one work in one variant, in a separate process. Prints one JSON object.

    python turn.py WORK VARIANT WORKSPACE --threads 2 --warm-up 2 --repeats 5

It uses PyTorch as an expert would: diffusers' own classes in eager mode, scaled-dot-product attention,
AdamW fused, the average of all weights in one call, no gradients where none are needed.
"""

import argparse
import contextlib
import json
import math
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel, VQModel
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from works import BY_NAME, experiment, scheduler_options

VARIANTS = {
    "torch-default": "f32",
    "torch-channels-last": "f32 channels-last",
    "torch-bf16": "bf16 channels-last",  # f32 weights, autocast
    "torch-bf16-weights": "bf16 weights channels-last",  # only where nothing is trained
}


def status(key):
    """Bytes, of this process: VmHWM is its peak memory, VmRSS its memory now."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return None


class Variant:
    """How a work is computed."""

    def __init__(self, name):
        self.channels_last = name != "torch-default"
        self.autocasts = name == "torch-bf16"
        self.weights = torch.bfloat16 if name == "torch-bf16-weights" else torch.float32

    def load(self, network_class, folder):
        options = {"torch_dtype": self.weights, "low_cpu_mem_usage": False}
        return self.laid_out(network_class.from_pretrained(folder, **options))

    def laid_out(self, thing):
        """A network, or the images that go through it, in this variant's order of channels and pixels."""
        return thing.to(memory_format=torch.channels_last) if self.channels_last else thing

    def autocast(self):
        if self.autocasts:
            return torch.autocast("cpu", torch.bfloat16)
        return contextlib.nullcontext()


def updating(network, training):
    """Clipping, AdamW and, where the experiment has one, the average of the weights: what follows backward()."""
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=training["learning_rate"],
        betas=tuple(training["betas"]),
        eps=training["epsilon"],
        weight_decay=training["weight_decay"],
        fused=True,
    )
    average = [parameter.detach().clone() for parameter in parameters] if "ema" in training else None

    def update():
        torch.nn.utils.clip_grad_norm_(parameters, training["clip_norm"], foreach=True)
        optimizer.step()
        if average:
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - training["ema"]["decay"])
        optimizer.zero_grad(set_to_none=True)

    return update


def unet_training(work, workspace, variant):
    table = experiment(work.config)
    network = variant.load(UNet2DModel, workspace / work.model).train()
    update = updating(network, table["stage_2"]["training"])
    scheduler = DDPMScheduler(**scheduler_options(table))
    inputs = load_file(workspace / work.inputs)
    z0, noise = variant.laid_out(inputs["z0"]), variant.laid_out(inputs["noise"])
    timesteps = inputs["timesteps"].long()
    predicts_noise = scheduler.config.prediction_type == "epsilon"

    def step():
        noisy = scheduler.add_noise(z0, noise, timesteps)
        target = noise if predicts_noise else scheduler.get_velocity(z0, noise, timesteps)
        with variant.autocast():
            output = network(noisy, timesteps).sample
        loss = mse_loss(output.float(), target)
        loss.backward()
        update()
        return loss.item()

    return step


def vqvae_training(work, workspace, variant):
    table = experiment(work.config)
    network = variant.load(VQModel, workspace / work.model).train()
    # The paper's weights of the codebook's two terms; diffusers' default swaps them.
    network.quantize.legacy = False
    update = updating(network, table["stage_1"]["training"])
    images = variant.laid_out(load_file(workspace / work.inputs)["images"])

    def step():
        with variant.autocast():
            output = network(images)
        loss = mse_loss(output.sample.float(), images) + output.commit_loss
        loss.backward()
        update()
        return loss.item()

    return step


def sampling(work, workspace, variant):
    folder = workspace / work.model
    unet = variant.load(UNet2DModel, folder / "unet").eval()
    vqvae = variant.load(VQModel, folder / "vqvae").eval()
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    noise = variant.laid_out(load_file(workspace / work.inputs)["noise"])

    @torch.inference_mode()
    def draw():
        scheduler.set_timesteps(work.steps)
        latents = noise
        with variant.autocast():
            for timestep in scheduler.timesteps:
                output = unet(latents.to(variant.weights), timestep).sample
                latents = scheduler.step(output.float(), timestep, latents).prev_sample
            latents = (latents / vqvae.config.scaling_factor).to(variant.weights)
            images = vqvae.decode(latents).sample
        images = images.float().contiguous()
        return images.square().mean().item()

    return draw


TASKS = {"unet": unet_training, "vqvae": vqvae_training, "sample": sampling}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=BY_NAME)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    arguments = parser.parse_args()
    work = BY_NAME[arguments.work]

    torch.set_num_threads(arguments.threads)
    memory_before = status("VmRSS")
    task = TASKS[work.kind](work, arguments.workspace, Variant(arguments.variant))
    first_result, milliseconds = None, []
    for repeat in range(arguments.warm_up + arguments.repeats):
        started = time.perf_counter()
        result = task()
        elapsed = (time.perf_counter() - started) * 1e3
        if repeat == 0:
            first_result = result if math.isfinite(result) else None
        if repeat >= arguments.warm_up:
            milliseconds.append(elapsed)
    measurement = {
        "images": work.batch,
        "milliseconds": milliseconds,
        "first_result": first_result,
        "peak_memory": status("VmHWM"),
        "memory_before": memory_before,
    }
    print(json.dumps(measurement))


if __name__ == "__main__":
    main()
