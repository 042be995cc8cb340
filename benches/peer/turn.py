"""The others' turn: one work in one variant, in a separate process. Prints one JSON object.

    python turn.py WORK VARIANT WORKSPACE --threads 2 --warm-up 2 --repeats 5

It uses PyTorch as an expert would: diffusers' own classes in eager mode, scaled-dot-product attention,
AdamW fused, the average of all weights in one call, no gradients where none are needed.
"""

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel, VQModel
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from works import BY_NAME, experiment, scheduler_options


def status(key):
    """Bytes, of this process: VmHWM is its peak memory, VmRSS its memory now."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return None


def forget_peak():
    """Begins to count the peak memory anew: loading, exporting and converting a network is not what a user waits for."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@dataclass(frozen=True)
class Variant:
    """How a work is computed."""

    channels_last: bool = True
    autocasts: bool = False  # weights in f32, arithmetic in bf16
    weights: torch.dtype = torch.float32
    compile_mode: str | None = None  # of torch.compile; None computes eagerly
    device: str = "cpu"
    engine: str = "torch"  # what calls the network, of those in ENGINES

    def load(self, network_class, folder):
        options = {"torch_dtype": self.weights, "low_cpu_mem_usage": False}
        network = self.laid_out(network_class.from_pretrained(folder, **options))
        if self.compile_mode:
            network.compile(mode=self.compile_mode)
        return network

    def laid_out(self, thing):
        """A network, or images, on this variant's device, in its order of channels and pixels."""
        order = torch.channels_last if self.channels_last else torch.preserve_format
        return thing.to(self.device, memory_format=order)

    def autocast(self):
        if self.autocasts:
            return torch.autocast(self.device, torch.bfloat16)
        return contextlib.nullcontext()

    def compiled(self, function):
        return torch.compile(function, mode=self.compile_mode) if self.compile_mode else function


# On a processor. Those on a graphics card are in benches/gpu/variants.py.
VARIANTS = {
    "torch-default": Variant(channels_last=False),
    "torch-channels-last": Variant(),
    "torch-bf16": Variant(autocasts=True),
    "torch-bf16-weights": Variant(weights=torch.bfloat16),  # only where nothing is trained
    "compile": Variant(compile_mode="max-autotune-no-cudagraphs"),
    "compile-bf16": Variant(autocasts=True, compile_mode="max-autotune-no-cudagraphs"),
    # What people deploy with: not for training.
    "onnxruntime": Variant(channels_last=False, engine="onnxruntime"),
    "openvino": Variant(channels_last=False, engine="openvino-f32"),
    "openvino-bf16": Variant(channels_last=False, engine="openvino-bf16"),
}


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
    timesteps = inputs["timesteps"].long().to(variant.device)
    predicts_noise = scheduler.config.prediction_type == "epsilon"

    def step():
        noisy = scheduler.add_noise(z0, noise, timesteps)
        target = noise if predicts_noise else scheduler.get_velocity(z0, noise, timesteps)
        with variant.autocast():
            output = network(noisy, timesteps).sample
        loss = mse_loss(output.float(), target)
        loss.backward()
        update()
        return loss.detach()

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
        return loss.detach()

    return step


class Prediction(torch.nn.Module):
    """A U-Net as one tensor's function, as the engines' importers want it."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, sample, timestep):
        return self.unet(sample, timestep, return_dict=False)[0]


class Decoder(torch.nn.Module):
    """The half of a VQ-VAE that makes images of latents, the same way."""

    def __init__(self, vqvae):
        super().__init__()
        self.vqvae = vqvae

    def forward(self, latents):
        return self.vqvae.decode(latents, return_dict=False)[0]


def with_onnxruntime(module, inputs, workspace):
    import onnxruntime

    path = workspace / "inputs" / f"{type(module).__name__}.onnx"
    names = [f"input-{number}" for number in range(len(inputs))]
    torch.onnx.export(module, inputs, path, input_names=names, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def call(*inputs):
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return call


def with_openvino(precision):
    def prepare(module, inputs, workspace):
        import openvino

        model = openvino.convert_model(module, example_input=inputs, input=[tensor.shape for tensor in inputs])
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.compile_model(model, "CPU", options).create_infer_request()
        # The result's memory belongs to the request, until the next call.
        return lambda *inputs: torch.from_numpy(request.infer([tensor.numpy() for tensor in inputs])[0])

    return prepare


# Each makes a module a function of tensors with the shapes of `inputs`.
ENGINES = {
    "torch": lambda module, inputs, workspace: module,
    "onnxruntime": with_onnxruntime,
    "openvino-f32": with_openvino("f32"),
    "openvino-bf16": with_openvino("bf16"),
}


def prepared(variant, module, inputs, workspace):
    """The function that calls a module in a variant's engine."""
    # Exporters refuse tensors of inference mode.
    with torch.no_grad():
        return ENGINES[variant.engine](module.eval(), inputs, workspace)


def sampling(work, workspace, variant):
    folder = workspace / work.model
    vqvae = variant.load(VQModel, folder / "vqvae")
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    noise = variant.laid_out(load_file(workspace / work.inputs)["noise"])
    example = noise.to(variant.weights)
    predict = Prediction(variant.load(UNet2DModel, folder / "unet"))
    predict = prepared(variant, predict, (example, torch.tensor(1, device=variant.device)), workspace)
    decode = variant.compiled(prepared(variant, Decoder(vqvae), (example,), workspace))

    @torch.inference_mode()
    def draw():
        scheduler.set_timesteps(work.steps)
        latents = noise
        with variant.autocast():
            # The network's timesteps are on its device, the scheduler's are numbers: so no step waits for the other.
            for number, timestep in zip(scheduler.timesteps.tolist(), scheduler.timesteps.to(variant.device)):
                output = predict(latents.to(variant.weights), timestep)
                latents = scheduler.step(output.float(), number, latents).prev_sample
            latents = (latents / vqvae.config.scaling_factor).to(variant.weights)
            images = decode(latents)
        images = images.float().contiguous()
        return images.square().mean()

    return draw


def forward(work, workspace, variant):
    noise = variant.laid_out(load_file(workspace / work.inputs)["noise"]).to(variant.weights)
    inputs = (noise, torch.full((work.batch,), 500.0))
    predict = prepared(variant, Prediction(variant.load(UNet2DModel, workspace / work.model)), inputs, workspace)

    @torch.inference_mode()
    def once():
        with variant.autocast():
            return predict(*inputs).float().square().mean()

    return once


# Each returns a function that does the work once. What that returns, a loss or a mean square, is still on the device.
TASKS = {"unet": unet_training, "vqvae": vqvae_training, "forward": forward, "sample": sampling}


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
    importlib.import_module(VARIANTS[arguments.variant].engine.split("-")[0])
    memory_before = status("VmRSS")
    task = TASKS[work.kind](work, arguments.workspace, VARIANTS[arguments.variant])
    forget_peak()
    first_result, milliseconds = None, []
    for repeat in range(arguments.warm_up + arguments.repeats):
        started = time.perf_counter()
        result = task().item()
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
