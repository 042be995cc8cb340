"""Models that diffusers writes, drawn with by both sides from the same noise: every scheduler that kiln reads, both kinds of
autoencoder, pickles and safetensors.

    pip install diffusers==0.42.1 torch==2.15.0 safetensors==0.8.0
    cargo build --release --example sample_for_python
    python tests/interop/both_ways.py target/release/examples/sample_for_python

Weights are random. `--model FOLDER` takes a model that is already there instead, and `--full google--ddpm-cifar10-32` makes one
of random weights for the configs of a folder in tests/fixtures/published, at full size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LDMPipeline,
    PNDMScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
    VQModel,
)
from safetensors import safe_open

from load_model import load, sample

TOLERANCE = 1e-3
PUBLISHED = Path(__file__).parent.parent / "fixtures" / "published"


def unet(channels, size):
    return UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, attention_head_dim=8,
    )


LEVELS = dict(
    down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, block_out_channels=[16, 32],
    norm_num_groups=8, sample_size=32,
)


def schedulers():
    """Every class with the settings that public models use."""
    spacings = ["leading", "linspace", "trailing"]
    # Where an image is clipped, what comes next is the predicted noise alone: a network of random weights that predicts noise is
    # then applied to its own output, and magnifies a rounding tenfold a step. One that predicts velocities does not.
    velocity = {"prediction_type": "v_prediction"}
    cases = {"ddim": DDIMScheduler(steps_offset=1, set_alpha_to_one=False, clip_sample=False)}
    cases["ddim/clip"] = DDIMScheduler(**velocity)
    cases["ddpm/clip"] = DDPMScheduler(variance_type="fixed_large", **velocity)
    cases["lcm"] = LCMScheduler(original_inference_steps=1000, rescale_betas_zero_snr=False, clip_sample=False, **velocity)
    cases["pndm"] = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    for spacing in spacings:
        option = {"timestep_spacing": spacing}
        cases[f"dpm-solver/{spacing}"] = DPMSolverMultistepScheduler(**option)
        cases[f"unipc/{spacing}"] = UniPCMultistepScheduler(**option)
        cases[f"heun/{spacing}"] = HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, **option)
        cases[f"euler/{spacing}"] = EulerDiscreteScheduler(**option)
    for name, solver in [("dpm-solver", DPMSolverMultistepScheduler), ("unipc", UniPCMultistepScheduler), ("euler", EulerDiscreteScheduler)]:
        cases[f"{name}/karras"] = solver(use_karras_sigmas=True)
    scaled = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
    cases["dpm-solver/velocity"] = DPMSolverMultistepScheduler(prediction_type="v_prediction", **scaled)
    return cases


def models(folder):
    """Writes one model a case, and yields its name and folder."""
    for name, scheduler in schedulers().items():
        torch.manual_seed(0)
        # LDMPipeline is the one that scales what it hands to the network.
        vqvae = VQModel(latent_channels=3, num_vq_embeddings=64, scaling_factor=1.0, **LEVELS)
        torch.nn.init.normal_(vqvae.quantize.embedding.weight)
        path = folder / name.replace("/", "-").replace(" ", "-")
        LDMPipeline(vqvae=vqvae, unet=unet(3, 16), scheduler=scheduler).save_pretrained(path)
        yield name, path
    torch.manual_seed(1)
    kl = AutoencoderKL(latent_channels=4, shift_factor=0.1, scaling_factor=0.7, **LEVELS)
    LDMPipeline(vqvae=kl, unet=unet(4, 16), scheduler=DDIMScheduler(clip_sample=False)).save_pretrained(folder / "kl")
    yield "autoencoder kl", folder / "kl"
    velocity = {"prediction_type": "v_prediction"}
    for name, pipeline, scheduler in [
        ("pixels by ddim", DDIMPipeline, DDIMScheduler(**velocity)),
        ("pixels by ddpm", DDPMPipeline, DDPMScheduler(**velocity)),
    ]:
        path = folder / name.replace(" ", "-")
        pipeline(unet=unet(3, 32), scheduler=scheduler).save_pretrained(path, safe_serialization=False)
        yield f"{name}, pickled", path


def full_size(folder, model):
    """A model of random weights for published configs, in the places where they are published."""
    torch.manual_seed(0)
    for file in (PUBLISHED / model).rglob("*.json"):
        place = file.relative_to(PUBLISHED / model)
        if place.parts[0] == "small" or file.name == "parameters.json":
            continue
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text()
        config = json.loads(text)
        network = {"UNet2DModel": UNet2DModel, "VQModel": VQModel}.get(config["_class_name"])
        if network is not None:
            options = {key: value for key, value in config.items() if not key.startswith("_")}
            weights = network(**options).state_dict()
            torch.save(weights, (folder / place).parent / "diffusion_pytorch_model.bin")
        if "clip_sample" in config:
            # See `schedulers`.
            text = json.dumps({**config, "clip_sample": False})
        (folder / place).write_text(text)
    return model, folder


def difference(program, model, drawn):
    """The largest difference between what both sides draw from kiln's noise."""
    subprocess.run([program, model, drawn], check=True, stdout=subprocess.DEVNULL)
    with safe_open(drawn, "pt") as file:
        ours, noise, step_noise = (file.get_tensor(name) for name in ("images", "noise", "step_noise"))
        settings = file.metadata()
    pipeline = load(str(model))
    theirs = sample(pipeline, noise, int(settings["steps"]), step_noise=step_noise)
    return (ours.clamp(-1, 1) - theirs.clamp(-1, 1)).abs().max().item()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("program")
    arguments.add_argument("--model", type=Path)
    arguments.add_argument("--full")
    arguments = arguments.parse_args()
    program = str(Path(arguments.program).resolve())
    worst = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if arguments.model:
            cases = [(arguments.model.name, arguments.model)]
        elif arguments.full:
            cases = [full_size(folder / "full", arguments.full)]
        else:
            cases = models(folder)
        for name, model in cases:
            worst[name] = difference(program, model, folder / "drawn.safetensors")
    for name, error in worst.items():
        print(f"| {name} | {error:.1e} |")
    beyond = [name for name, error in worst.items() if error > TOLERANCE]
    if beyond:
        sys.exit(f"more than {TOLERANCE}: {', '.join(beyond)}")


if __name__ == "__main__":
    main()
