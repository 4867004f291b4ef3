#!/usr/bin/env python3
"""How exact one UNet call of a full-size Stable Diffusion 1.5 is, beside PyTorch.

    benches/accuracy.py WORK        WORK as compare.py makes it

Both start from the same noise and the same encoded prompt; the figures are distances from what PyTorch
computes in f32, relative to its length. One step of Euler's method without guidance is one call.
"""
import argparse
import subprocess
import tempfile
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("work", type=Path)
parser.add_argument("--impasto", type=Path, default=HERE.parent / "target/release/impasto")
arguments = parser.parse_args()
MODEL = arguments.work / "sd15-f16"

betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
alpha = torch.cumprod(1 - betas, 0)[-1]
sigma = float(((1 - alpha) / alpha) ** 0.5)


def ours(precision, folder):
    subprocess.run(
        [arguments.impasto, "generate", "--model", MODEL, "--prompt", "a fox", "--steps", "1", "--guidance", "1",
         "--sampler", "euler", "--schedule", "karras", "--seed", "7", "--width", "512", "--height", "512",
         "--precision", precision, "--save-latents", f"{folder}/latents.safetensors",
         "--save-conditioning", f"{folder}/words.safetensors", "--out", f"{folder}/a.png"],
        check=True, capture_output=True,
    )
    latents = next(iter(load_file(f"{folder}/latents.safetensors").values()))
    return latents, load_file(f"{folder}/words.safetensors")["cond"]


def theirs(dtype, x, words):
    unet = UNet2DConditionModel.from_pretrained(MODEL / "unet", torch_dtype=dtype).eval()
    with torch.inference_mode():
        scaled = (x / (sigma**2 + 1) ** 0.5).to(dtype)
        return unet(scaled, torch.tensor(999), words.to(dtype)).sample.float()


with tempfile.TemporaryDirectory() as folder:
    latents, words = ours("f32", folder)
    narrow, narrow_words = ours("bf16", folder)
noise = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(7))
x = noise * sigma
exact = theirs(torch.float32, x, words)


def distance(out, from_=exact):
    return float((out - from_).norm() / from_.norm())


print(f"impasto f32   {distance((x - latents) / sigma):.2e}")
print(f"impasto bf16  {distance((x - narrow) / sigma, theirs(torch.float32, x, narrow_words)):.2e}")
print(f"torch bf16    {distance(theirs(torch.bfloat16, x, words)):.2e}")
