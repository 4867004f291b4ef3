#!/usr/bin/env python3
"""Times Impasto and its peers on the same work, in turn, and prints ratios of medians.

    make bench                      everything (an hour on two cores)
    benches/compare.py WORK --only network adapters --rounds 3

WORK is a folder for the random-weight Stable Diffusion 1.5 and SDXL, some 40 GB. Runs alternate, peer after peer
and round after round, so that a machine that slows down slows all of them. The machine should be
otherwise idle.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("work", type=Path)
parser.add_argument("--impasto", type=Path, default=HERE.parent / "target/release/impasto")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--runs", type=int, default=5, help="calls of a peer's network a round")
parser.add_argument("--isa", default="", choices=["", "avx2", "avx512"])
parser.add_argument("--only", nargs="*", default=["network", "sdxl", "load", "picture", "starter", "adapters", "threads"])
parser.add_argument("--touch-memory", action="store_true", help="before each program (see touch_memory)")
arguments = parser.parse_args()
MODEL = arguments.work / "sd15-f16"
ADAPTERS = sorted((arguments.work / "loras").glob("*.safetensors"))
STARTER = HERE.parent / "assets/starter/model"


def touch_memory():
    """Has a virtual machine back as much memory as a program will need.

    Some hosts take free memory away from a guest and give it back page by page, when it is next touched,
    which takes longer than all else that a program does to load a model.
    """
    # In a process of its own: a child begins with its parent's peak.
    code = "import mmap; m = mmap.mmap(-1, 8 << 30)\nfor at in range(0, len(m), 4096): m[at] = 1"
    subprocess.run([sys.executable, "-c", code], check=True)


def last_json(command, environment=()):
    if arguments.touch_memory:
        touch_memory()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **dict(environment)}, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    start = done.stdout.index("{")
    return json.loads(done.stdout[start:])


def peer(script, *options, environment=()):
    return last_json([sys.executable, PEERS / script, *map(str, options)], environment)


def impasto(model, precision, *options):
    """One picture, or a batch; with the seconds from the process's start to the first UNet call."""
    with tempfile.TemporaryDirectory() as folder:
        report = last_json(
            [arguments.impasto, "generate", "--model", model, "--prompt", "a fox on a light blue background",
             "--precision", precision, "--seed", "7", "--out", f"{folder}/a.png", "--json", *map(str, options)],
            [("IMPASTO_ISA", arguments.isa)],
        )
    report["to_first_step_s"] = report["load_s"] + report["patch_s"] + report["encode_s"]
    return report


def middle(values):
    return statistics.median(values)


def table(title, ours, theirs):
    """Lists of figures by name; the ratio is to the best peer."""
    best = min(middle(values) for values in theirs.values())
    print(f"\n{title}")
    for name, values in {**ours, **theirs}.items():
        ratio = f"   ratio {middle(values) / best:.2f}" if name in ours else ""
        print(f"  {name:28} {middle(values):9.3f}   ({min(values):.3f} to {max(values):.3f}){ratio}")
    sys.stdout.flush()


def network():
    # Without the processor's own bf16 products, f32 is what people use.
    kinds = ["f32"] if arguments.isa else ["bf16"]
    isa = ["--isa", arguments.isa] if arguments.isa else []
    step, decode, peers_step, peers_decode = {}, {}, {}, {}
    for _ in range(arguments.rounds):
        for kind in kinds:
            size = ("--width", 512, "--height", 512)
            first = impasto(MODEL, kind, "--steps", 1, *size)["decode_s"]
            report = impasto(MODEL, kind, "--steps", 3, "--batch", 3, *size)
            # A picture's first step makes what the others use again; the peers are warm as well.
            steps = [s for i, s in enumerate(report["step_s"]) if i % 3]
            step.setdefault(f"impasto {kind}", []).extend(steps)
            decode.setdefault(f"impasto {kind}", []).append((report["decode_s"] - first) / 2)
            decode.setdefault(f"impasto {kind}, a process's first", []).append(first)
            for name, script, option in (
                ("torch", "bench_torch.py", "--dtype"),
                ("openvino", "bench_openvino.py", "--precision"),
            ):
                report = peer(script, arguments.work, option, kind, "--runs", arguments.runs, *isa)
                peers_step.setdefault(f"{name} {kind}", []).append(report["unet_step_s"])
                peers_decode.setdefault(f"{name} {kind}", []).append(report["vae_decode_s"])
    table("UNet step, 512 × 512, batch 2, seconds", step, peers_step)
    table("VAE decode, 512 × 512, seconds", decode, peers_decode)


def sdxl():
    """The step of SDXL at its native size; a call takes half a minute on two cores."""
    model, size = arguments.work / "sdxl-f16", 1024
    ours, theirs, peak = {"impasto bf16": []}, {}, []
    for _ in range(arguments.rounds):
        report = impasto(model, "bf16", "--steps", 3, "--width", size, "--height", size)
        ours["impasto bf16"].extend(report["step_s"][1:])
        peak.append(report["peak_rss_bytes"] / 2**20)
        for name, script in (("torch", "bench_torch.py"), ("openvino", "bench_openvino.py")):
            report = peer(script, arguments.work, "--model", "sdxl", "--size", size, "--runs", 2)
            theirs.setdefault(f"{name} bf16", []).append(report["unet_step_s"])
    table("SDXL UNet step, 1024 × 1024, batch 2, seconds", ours, theirs)
    print(f"  peak memory of the whole program: {middle(peak):.0f} MiB")


def whole(model, size, steps, title):
    figures = {name: ({}, {}) for name in ("seconds until the first step", "seconds in all", "peak memory, MiB")}
    for _ in range(arguments.rounds):
        ours = impasto(model, "bf16", "--steps", steps, "--width", size, "--height", size)
        theirs = peer("bench_pipeline.py", model, "--size", size, "--steps", steps, "--dtype", "bf16")
        for name, a, b in (
            ("seconds until the first step", ours["to_first_step_s"], theirs["to_first_step_s"]),
            ("seconds in all", ours["total_s"], theirs["total_s"]),
            ("peak memory, MiB", ours["peak_rss_bytes"] / 2**20, theirs["peak_rss_mib"]),
        ):
            figures[name][0].setdefault("impasto bf16", []).append(a)
            figures[name][1].setdefault("diffusers bf16", []).append(b)
    for name, (ours, theirs) in figures.items():
        table(f"{title}: {name}", ours, theirs)


def adapters():
    ours, theirs = {}, {}
    for _ in range(arguments.rounds):
        report = last_json([arguments.impasto.parent / "examples/adapters", MODEL, *ADAPTERS])
        other = peer("bench_lora_torch.py", arguments.work)
        for name, a, b in (
            # Ours reads the files as well.
            ("first application", report["first_s"], other["fuse_s"]),
            ("one slider moved", report["slider_s"], other["reweight_and_fuse_s"]),
            ("one taken off", report["off_s"], other["reweight_and_fuse_s"]),
            ("one put on again", report["on_s"], other["reweight_and_fuse_s"]),
        ):
            ours.setdefault(name, []).append(a)
            theirs.setdefault(name, []).append(b)
    for name, values in ours.items():
        table(
            f"Five rank-32 adapters: {name}, seconds",
            {"impasto bf16": values},
            {"diffusers + PEFT bf16": theirs[name]},
        )


def threads():
    """Seconds of a step with one thread and with two, and how many times faster two are."""
    size = ("--steps", 3, "--width", 512, "--height", 512)
    ours, theirs = {1: [], 2: []}, {1: [], 2: []}
    for _ in range(arguments.rounds):
        for count in (1, 2):
            ours[count].extend(impasto(MODEL, "bf16", *size, "--threads", count)["step_s"][1:])
            environment = [("OMP_NUM_THREADS", str(count))]
            report = peer("bench_torch.py", arguments.work, "--runs", 2, environment=environment)
            theirs[count].append(report["unet_step_s"])
    print("\nUNet step with one thread and with two, seconds")
    for name, values in (("impasto bf16", ours), ("torch bf16", theirs)):
        one, two = middle(values[1]), middle(values[2])
        print(f"  {name:28} {one:9.3f} {two:9.3f}   {one / two:.2f} times")


if not MODEL.exists():
    subprocess.run([sys.executable, PEERS / "make_sd15.py", arguments.work], check=True)
if "network" in arguments.only:
    network()
if "sdxl" in arguments.only and not arguments.isa:
    if not (arguments.work / "sdxl-f16.safetensors").exists():
        subprocess.run([sys.executable, PEERS / "make_sdxl.py", arguments.work], check=True)
    sdxl()
if "load" in arguments.only and not arguments.isa:
    whole(MODEL, 512, 1, "One step of a picture with SD 1.5, 512 × 512")
if "picture" in arguments.only and not arguments.isa:
    whole(MODEL, 512, 20, "A picture with SD 1.5, 512 × 512, 20 steps")
if "starter" in arguments.only and not arguments.isa:
    whole(STARTER, 128, 20, "A picture with the starter, 128 × 128, 20 steps")
if "adapters" in arguments.only and not arguments.isa:
    adapters()
if "threads" in arguments.only and not arguments.isa:
    threads()
