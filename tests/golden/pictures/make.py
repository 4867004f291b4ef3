"""Writes what the references make of the starter model: latents and a picture.

`latents.safetensors`: for every sampler and schedule, under `<sampler>.<schedule>`, the latents after
20 steps. `cases.safetensors`: one change each from that with `dpmpp_2m` and `karras` (CASES below),
the conditioning behind some of them, and one decoded picture.

Run: python make.py [NAME ...]   (all files, or only `latents` or `cases`; a few minutes)
Versions: see reference.py, which holds the composition.
"""

import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

import reference
from reference import Model, decode, encode, encode_picture, sample

HERE = Path(__file__).parent
STARTER = HERE.parents[2] / "assets" / "starter"
PROMPT, NEGATIVE = "a fox on a light blue background", ""

# Three chunks against two. Each chunk but the last is full in the middle of a phrase, so that its end
# moves to the next one, from the comma on.
LONG = "emoji, " + ", ".join(
    f"a {thing} on a {color} background"
    for color in ("light blue", "pink to orange gradient", "dark green")
    for thing in ("fox", "cat face", "palm tree", "castle", "hamburger", "owl", "lemon", "volcano")
)
LONG_NEGATIVE = ", ".join(
    f"a {thing} on a white background"
    for thing in ("car", "tiger face", "flamingo", "mushroom", "doughnut", "dragon face", "bee",
                  "house", "penguin", "pizza", "cherry blossom", "crab", "turtle", "owl")
)


def picture(width, height):
    """The picture that img2img starts from: a formula, so that nobody has to store it."""
    x, y = torch.arange(width)[None, :], torch.arange(height)[:, None]
    red, green, blue = 2 * x + 0 * y, 2 * y + 0 * x, 255 - x - y
    return torch.stack([red, green, blue], -1).to(torch.uint8)


def latents():
    """Every sampler with every schedule."""
    model = Model(STARTER / "model")
    cond, uncond = encode(model, PROMPT), encode(model, NEGATIVE)
    out = {}
    for sampler in reference.SAMPLERS:
        for schedule in reference.SCHEDULES:
            name = sampler if sampler in reference.OWN_SCHEDULE else f"{sampler}.{schedule}"
            if name not in out:
                out[name] = sample(model, cond, uncond, sampler=sampler, schedule=schedule)
                print(name, f"{out[name].std():.4f}", flush=True)
    return out


# Name: what differs from PROMPT with dpmpp_2m, karras, 20 steps, guidance 4, seed 7, 128 x 128.
CASES = {
    "plain": {},
    "stack": {"adapters": [("neon", 0.8, 0.8), ("ink", 0.4, 0.4), ("watercolor", 0.5, 0.5)]},
    "text_encoder_adapter": {"adapters": [("twemoji", 0.6, 0.6)]},
    "two_weights": {"adapters": [("twemoji", -0.5, 1.0)]},
    "emphasis": {"prompt": "a (fox:1.3) on a [light blue] background"},
    "long": {"prompt": LONG, "negative": LONG_NEGATIVE},
    "clip_skip_2": {"clip_skip": 2},
    "guidance_1": {"guidance": 1.0},
    "portrait": {"width": 96, "height": 160},
    "img2img": {"denoise": 0.6},
    "img2img_sde": {"denoise": 0.6, "sampler": "dpmpp_2m_sde"},
    "over_steps": {"over_steps": True},
    "over_steps_heun": {"over_steps": True, "sampler": "heun"},
}


def weights_of_step(step, steps=20):
    """Neon comes in a straight line; ink acts in the steps 5 to 12, counted from 1."""
    return [("neon", 0.8 * step / (steps - 1)), ("ink", 0.6 if 5 <= step + 1 <= 12 else 0.0)]


def cases():
    """Whole generations off the beaten path."""
    out = {}
    for name, case in CASES.items():
        case = dict(case)
        model = Model(STARTER / "model")
        model.apply([(STARTER / "adapters" / f"{adapter}.safetensors", unet_weight, text_weight)
                     for adapter, unet_weight, text_weight in case.pop("adapters", [])])
        if case.pop("over_steps", False):
            case["before_step"] = lambda step, model=model: model.repaint(
                [(STARTER / "adapters" / f"{adapter}.safetensors", weight)
                 for adapter, weight in weights_of_step(step)])
        clip_skip = case.pop("clip_skip", 1)
        cond = encode(model, case.pop("prompt", PROMPT), clip_skip)
        uncond = encode(model, case.pop("negative", NEGATIVE), clip_skip)
        if "denoise" in case:
            case["init"] = encode_picture(model, picture(128, 128))
        made = sample(model, cond, uncond, **{"sampler": "dpmpp_2m", **case})
        out[f"{name}.latents"] = made
        print(name, f"{made.std():.4f}", tuple(cond.shape), tuple(uncond.shape), flush=True)

        if name == "plain":
            out["plain.picture"] = decode(model, made)
        elif name == "emphasis":
            out["emphasis.cond"] = cond
        elif name == "long":
            # Around the first seam: the whole would be half a megabyte.
            assert (cond.shape[1], uncond.shape[1]) == (3 * 77, 2 * 77)
            out["long.cond.60..94"] = cond[:, 60:94].contiguous()
        elif name == "img2img":
            out["img2img.init"] = case["init"]
    return out


if __name__ == "__main__":
    # torchsde notes that f32 times lie outside its f32 ends by less than their rounding.
    warnings.filterwarnings("ignore", message="Should have")
    for name in sys.argv[1:] or ("latents", "cases"):
        save_file({"latents": latents, "cases": cases}[name](), HERE / f"{name}.safetensors")
