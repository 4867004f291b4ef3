#!/usr/bin/env python3
"""Stable Diffusion 1.5 with diffusers on a card: seconds of a UNet step and of a VAE decode, as JSON.

    peer.py [--compile] [--dtype f16] [--size 512] [--runs 20]

Weights are random, at their true shapes: arithmetic does not look at them. Layouts are channels-last, attention
is PyTorch's own choice. With --compile, both networks go through torch.compile's max-autotune, which takes minutes.
"""
import argparse
import json
import statistics
import time

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--dtype", default="f16", choices=["f16", "bf16", "f32"])
parser.add_argument("--size", type=int, default=512)
parser.add_argument("--runs", type=int, default=20)
arguments = parser.parse_args()

dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[arguments.dtype]
side = arguments.size // 8
torch.manual_seed(0)


def prepared(network):
    network = network.eval().to("cuda", dtype).to(memory_format=torch.channels_last)
    if arguments.compile:
        network = torch.compile(network, mode="max-autotune", fullgraph=True)
    return network


def timed(work, runs):
    began = time.perf_counter()
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    warm = time.perf_counter() - began
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), min(seconds), warm, torch.cuda.max_memory_allocated()


report = {
    "peer": f"diffusers {diffusers.__version__}, torch {torch.__version__}",
    "card": torch.cuda.get_device_name(0),
    "dtype": arguments.dtype,
    "compiled": arguments.compile,
}
with torch.inference_mode():
    unet = prepared(UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8,
    ))
    latents = torch.randn(2, 4, side, side, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
    prompt = torch.randn(2, 77, 768, device="cuda", dtype=dtype)
    moment = torch.tensor(500, device="cuda")
    step = timed(lambda: unet(latents, moment, encoder_hidden_states=prompt, return_dict=False), arguments.runs)
    report |= dict(zip(("unet_step_s", "unet_min_s", "unet_warm_s", "unet_peak_bytes"), step))
    del unet
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, layers_per_block=2, latent_channels=4, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), scaling_factor=0.18215,
    )
    vae = prepared(vae.decoder)
    latents = torch.randn(1, 4, side, side, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
    decode = timed(lambda: vae(latents), max(3, arguments.runs // 4))
    report |= dict(zip(("decode_s", "decode_min_s", "decode_warm_s", "decode_peak_bytes"), decode))
print(json.dumps(report))
