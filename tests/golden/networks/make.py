"""Writes what diffusers and transformers make of three models whose weights are a formula.

`tiny`: everything that a configuration can say differs from SD 1.x, and all is small.
`sd15`: the structure of SD 1.5 (four levels, two resnets each, 32 groups, 8 heads, CLIP's vocabulary),
so that the same weights can also be written as a single file of the original naming (with the maps
of ../../fixtures/keymaps, which name exactly these tensors); narrow.
`sd21`: the same for SD 2.1: heads of 64 channels, linear layers around the transformers, OpenCLIP's
activation and padding, velocities.
`sdxl`, `refiner`: the same for SDXL and its refiner: two text encoders or the second alone, all depths
of transformers, pooled prompts with sizes.
`taesd`: TAESD's own structure, which is one network only.
`inpaint`: sd15 with a UNet that takes a mask and what it leaves of a picture; whole pictures only.

Weights are not stored. Each value is a function of its tensor's name and its index (`fill`), made
again by the tests; inputs too. Beside the configurations each folder has `tensors.json`, the names
and shapes per network. `<model>.safetensors` holds the networks' answers, all f32:

    text.ids                the chunk that was encoded (i64)
    text.last, text.skip2   its encoding, and that with clip skip 2, (1, 77, width)
    text.states, text2.states, text2.pooled   SDXL's instead: of each encoder the last but one layer's
    unet.<t>.<tokens>       for latents (2, 4, 12, 10), timestep t, context (2, tokens, width), and for
                            SDXL "pooled" (2, width) with SIZES
    sinusoid.<t>            the timestep embedding before the first layer
    vae.moments             mean and logarithm of the variance, for a picture (1, 3, 48, 32)
    vae.picture             decoded from latents (1, 4, 3, 5)
    vae.latents             of TAESD, for the same picture as vae.moments
    latents.<sampler>.<schedule>   the end of a whole generation: "a fox", 48 x 64 pixels, guidance 3,
                            seed 3; for tiny all pairs with 20 steps, for the others a few with 5
    latents.all, latents.half   for `inpaint`: everything painted from noise, and the right half of a
                            picture (x, y -> 2 x, 2 y, 255 - x - y) at denoising strength 0.75
    latents.refined         with `refiner` for the last two of the five steps (in sdxl)
    latents.told            the same with a negative prompt and the sizes TOLD (SDXL: without a negative
                            prompt its conditioning is zero)

Run: python make.py [MODEL ...]   (two minutes). Versions: see ../pictures/reference.py, which it uses.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pictures"))
import reference  # noqa: E402

SD1_UNET = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SD1_VAE = {
    "sample_size": 64, "in_channels": 3, "out_channels": 3, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}
MODELS = {
    "tiny": {
        "unet": {**SD1_UNET, "layers_per_block": 1, "block_out_channels": [16, 24],
                 "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
                 "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
                 "attention_head_dim": 4, "cross_attention_dim": 40, "norm_num_groups": 8},
        "vae": {**SD1_VAE, "layers_per_block": 1, "block_out_channels": [8, 8, 12, 16],
                "norm_num_groups": 4, "scaling_factor": 0.25},
        "text_encoder": {"hidden_size": 40, "intermediate_size": 96, "num_hidden_layers": 3,
                         "num_attention_heads": 4, "hidden_act": "gelu", "vocab_size": 526,
                         "bos_token_id": 524, "eos_token_id": 525, "pad_token_id": 525},
        "scheduler": {"_class_name": "DDIMScheduler", "beta_start": 0.001, "beta_end": 0.011,
                      "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
                      "prediction_type": "v_prediction"},
    },
    "sd15": {
        "unet": {**SD1_UNET, "layers_per_block": 2, "block_out_channels": [64, 96, 128, 128],
                 "attention_head_dim": 8, "cross_attention_dim": 128},
        "vae": {**SD1_VAE, "layers_per_block": 2, "block_out_channels": [64, 96, 128, 128],
                "scaling_factor": 0.18215},
        "text_encoder": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
                         "num_attention_heads": 2, "hidden_act": "quick_gelu", "vocab_size": 49408,
                         "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407},
        "scheduler": {"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
                      "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
                      "prediction_type": "epsilon", "set_alpha_to_one": False, "skip_prk_steps": True,
                      "steps_offset": 1},
    },
}
MODELS["sd21"] = {
    "unet": {**MODELS["sd15"]["unet"], "block_out_channels": [64, 128, 128, 128],
             "attention_head_dim": [1, 2, 2, 2], "use_linear_projection": True},
    "vae": MODELS["sd15"]["vae"],
    "text_encoder": {**MODELS["sd15"]["text_encoder"], "num_hidden_layers": 3, "hidden_act": "gelu",
                     "pad_token_id": 0},
    "scheduler": {**MODELS["sd15"]["scheduler"], "prediction_type": "v_prediction"},
}
MODELS["sdxl"] = {
    "unet": {**MODELS["sd15"]["unet"], "block_out_channels": [64, 64, 128],
             "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
             "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
             "attention_head_dim": [1, 1, 2], "use_linear_projection": True,
             "transformer_layers_per_block": [1, 2, 10], "cross_attention_dim": 64 + 128,
             "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
             "projection_class_embeddings_input_dim": 128 + 6 * 256},
    "vae": {**MODELS["sd15"]["vae"], "scaling_factor": 0.13025, "force_upcast": True},
    "text_encoder": {**MODELS["sd15"]["text_encoder"], "hidden_size": 64, "intermediate_size": 256,
                     "num_hidden_layers": 3, "num_attention_heads": 1},
    "text_encoder_2": {**MODELS["sd15"]["text_encoder"], "num_hidden_layers": 3, "hidden_act": "gelu",
                       "pad_token_id": 0, "projection_dim": 128},
    "scheduler": MODELS["sd15"]["scheduler"],
}
MODELS["refiner"] = {
    "unet": {**MODELS["sdxl"]["unet"], "block_out_channels": [64, 64, 128, 128],
             "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"],
             "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
             "attention_head_dim": [1, 1, 2, 2], "transformer_layers_per_block": 4,
             "cross_attention_dim": 128, "projection_class_embeddings_input_dim": 128 + 5 * 256},
    "vae": MODELS["sdxl"]["vae"],
    "text_encoder_2": MODELS["sdxl"]["text_encoder_2"],
    "scheduler": MODELS["sdxl"]["scheduler"],
}
# SD 1.5 with nine channels, for inpainting.
MODELS["inpaint"] = {**MODELS["sd15"], "unet": {**MODELS["sd15"]["unet"], "in_channels": 9}}
COMPONENTS = {
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [None, None],
}
KIND = {
    "unet": {"_class_name": "UNet2DConditionModel"},
    "vae": {"_class_name": "AutoencoderKL"},
    "text_encoder": {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"},
    "text_encoder_2": {"architectures": ["CLIPTextModelWithProjection"],
                       "model_type": "clip_text_model"},
}
# Height, width, top, left, and the height and width aimed at, of the two images of a batch; the refiner
# has a score in place of the last two.
SIZES = [[100, 80, 5, 7, 64, 48], [64, 48, 0, 0, 1024, 1000]]
SCORES = [[100, 80, 5, 7, 2.5], [64, 48, 0, 0, 6]]
TOLD = [512, 768, 16, 8, 1024, 1152]
MERGES = ["f o", "fo x</w>", "b l", "u e</w>", "bl ue</w>", "l i", "g h", "li gh", "ligh t</w>", "a n",
          "o n</w>", "b a"]
PROMPT = "a fox"
SD15_PROMPT = [320, 3240]  # "a fox" in CLIP's vocabulary, which is not in this folder

# --- the formula -----------------------------------------------------------------------------


def uniform(name, count):
    """`count` numbers in [-1, 1), exact in f32: FNV-1a of the name, then SplitMix64."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 & (1 << 64) - 1
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - np.float32(1)


def fill(name, shape):
    """A tensor whose size is right for what its name says it is: activations stay near 1."""
    if name.endswith(".bias"):
        center, spread = 0.0, 0.1
    elif len(shape) == 1:
        center, spread = 1.0, 0.3
    elif name.endswith("embedding.weight"):
        center, spread = 0.0, 0.5
    else:
        center, spread = 0.0, math.sqrt(3 / math.prod(shape[1:]))
    values = np.float32(center) + np.float32(spread) * uniform(name, math.prod(shape))
    return torch.from_numpy(values.reshape(shape))


def given(name, shape):
    """An input of unit variance."""
    return torch.from_numpy((np.float32(math.sqrt(3)) * uniform(name, math.prod(shape))).reshape(shape))


# --- the folders -----------------------------------------------------------------------------


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_folder(folder, model):
    """The folder without weights, and the names and shapes of these."""
    kinds = [part for part in KIND if part in model]
    for part in kinds:
        write_json(folder / part / "config.json", {**KIND[part], **model[part]})
    write_json(folder / "scheduler" / "scheduler_config.json", model["scheduler"])
    components = {part: kind for part, kind in COMPONENTS.items()
                  if part in model or part == "safety_checker"}
    if model.get("text_encoder", {}).get("vocab_size", 49408) < 49408:
        write_tokenizer(folder / "tokenizer")
        components["tokenizer"] = ["transformers", "CLIPTokenizer"]
    name = "StableDiffusionXLPipeline" if "text_encoder_2" in model else "StableDiffusionPipeline"
    if "text_encoder" not in model:
        components |= {"text_encoder": [None, None], "force_zeros_for_empty_prompt": False}
    write_json(folder / "model_index.json", {"_class_name": name, **components})

    make = {
        "unet": lambda config: UNet2DConditionModel(**config),
        "vae": lambda config: AutoencoderKL(**config),
        "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig(**config)),
        "text_encoder_2": lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config)),
    }
    parts = {part: make[part](model[part]) for part in kinds}
    # One tensor a line: a listing that can be read and compared.
    lines = []
    for part, network in parts.items():
        prefix = "text_model." if part.startswith("text_encoder") else ""
        for name, tensor in sorted(network.state_dict().items()):
            if not name.startswith("text_projection."):
                name = prefix + name.removeprefix(prefix)
            lines.append(f'"{part}.{name}": {json.dumps(list(tensor.shape))}')
    (folder / "tensors.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_tokenizer(folder):
    """A CLIP tokenizer of bytes and a few merges."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1),
                 *range(ord("\xae"), ord("\xff") + 1)]
    others = [256 + i for i in range(256 - len(printable))]
    letters = [chr(code) for code in (*printable, *others)]
    words = [*letters, *(letter + "</w>" for letter in letters),
             *(merge.replace(" ", "") for merge in MERGES), "<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json",
               {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True,
                "add_prefix_space": False, "errors": "replace", **special})


FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
         "text_encoder_2": "model"}


def with_weights(folder, target):
    """A copy of the folder with its weights, as the tests make it."""
    for path in folder.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    shapes = json.loads((folder / "tensors.json").read_text())
    for part, file in FILES.items():
        if not (target / part).exists():
            continue
        tensors = {name.removeprefix(f"{part}."): fill(name, shape)
                   for name, shape in shapes.items() if name.startswith(f"{part}.")}
        save_file(tensors, target / part / f"{file}.safetensors")


# --- the answers -----------------------------------------------------------------------------


def test_chunk(text_encoder):
    """A start token, twenty words, end tokens."""
    start, end = text_encoder.config.bos_token_id, text_encoder.config.eos_token_id
    words = [(37 * i + 5) % start for i in range(20)]
    return [start, *words, *[end] * (76 - len(words))]


def chunk_of(text_encoder, ids):
    """Tokens as an encoder reads them, padded as it was trained."""
    config = text_encoder.config
    padding = [config.pad_token_id] * (75 - len(ids))
    return [config.bos_token_id, *ids, config.eos_token_id, *padding], [1.0] * 77


def added(model, pooled, ids):
    """What SDXL's UNet takes beside the tokens."""
    if model.text_encoder_2 is None:
        return None
    return {"text_embeds": pooled, "time_ids": torch.tensor(ids, dtype=torch.float32)}


def sizes_of(model):
    """Those of the two images of a batch."""
    return SIZES if model.text_encoder is not None else SCORES


def answers(model):
    """What the networks say."""
    out = {}
    if model.text_encoder_2 is None:
        ids = test_chunk(model.text_encoder)
        out["text.last"] = reference.encode_chunks(model, [(ids, [1.0] * 77)])
        out["text.skip2"] = reference.encode_chunks(model, [(ids, [1.0] * 77)], clip_skip=2)
    else:
        ids = test_chunk(model.text_encoder_2)
        if model.text_encoder is not None:
            made = model.text_encoder(torch.tensor([ids]), output_hidden_states=True)
            out["text.states"] = made.hidden_states[-2]
        made = model.text_encoder_2(torch.tensor([ids]), output_hidden_states=True)
        out["text2.states"], out["text2.pooled"] = made.hidden_states[-2], made.text_embeds
    out["text.ids"] = torch.tensor(ids)

    width = model.unet.config.cross_attention_dim
    x = given("latents", (2, 4, 12, 10))
    for t, tokens in ((999.0, 77), (541.375, 154), (0.5, 77)):
        context = given(f"context {tokens}", (2, tokens, width))
        beside = added(model, given("pooled", (2, 128)), sizes_of(model))
        out[f"unet.{t}.{tokens}"] = model.unet(
            x, torch.tensor([t, t]), context, added_cond_kwargs=beside).sample
        channels = model.unet.config.block_out_channels[0]
        out[f"sinusoid.{t}"] = get_timestep_embedding(
            torch.tensor([t]), channels, flip_sin_to_cos=True, downscale_freq_shift=0)

    picture = given("picture", (1, 3, 48, 32)) / math.sqrt(3)
    out["vae.moments"] = model.vae.encode(picture).latent_dist.parameters
    out["vae.picture"] = model.vae.decode(given("vae latents", (1, 4, 3, 5))).sample

    pooled_kind = model.text_encoder_2 is not None

    def encode(text, ids):
        if pooled_kind:
            return reference.encode_pooled(model, lambda encoder: [chunk_of(encoder, ids)])
        if model.tokenizer:
            return reference.encode(model, text), None
        return reference.encode_chunks(model, [chunk_of(model.text_encoder, ids)]), None

    (cond, pooled), (uncond, unpooled) = encode(PROMPT, SD15_PROMPT), encode("", [])
    negative, unpooled_negative = uncond, unpooled
    beside = None
    if pooled_kind:
        if model.text_encoder is not None:
            uncond, unpooled = torch.zeros_like(uncond), torch.zeros_like(unpooled)
            ids = [[64, 48, 0, 0, 64, 48]] * 2
        else:
            ids = [[64, 48, 0, 0, 2.5], [64, 48, 0, 0, 6]]
        beside = added(model, torch.cat([unpooled, pooled]), ids)
    common = {"guidance": 3.0, "seed": 3, "steps": 20 if model.tokenizer else 5, "width": 48,
              "height": 64}
    for sampler in reference.SAMPLERS if model.tokenizer else ("euler", "dpmpp_2m", "ddim", "unipc"):
        for schedule in reference.SCHEDULES if model.tokenizer else ("karras",):
            name = f"latents.{sampler}"
            if sampler not in reference.OWN_SCHEDULE:
                name += f".{schedule}"
            if name not in out:
                out[name] = reference.sample(model, cond, uncond, sampler=sampler, schedule=schedule,
                                             added=beside, **common)
    if pooled_kind:
        # The prompt as negative prompt, and an empty one that is not zeroed: nothing is symmetric.
        told = TOLD if model.text_encoder is not None else [*TOLD[:4], 8]
        other = TOLD if model.text_encoder is not None else [*TOLD[:4], 3]
        beside = added(model, torch.cat([pooled, unpooled_negative]), [other, told])
        out["latents.told"] = reference.sample(model, negative, cond, sampler="euler",
                                               schedule="karras", added=beside, **common)
    return out


def inpainted(model):
    """All of a picture, and its right half, as diffusers' pipeline asks the UNet for it."""
    cond, uncond = (reference.encode_chunks(model, [chunk_of(model.text_encoder, ids)])
                    for ids in (SD15_PROMPT, []))
    x, y = torch.arange(48)[None, :], torch.arange(64)[:, None]
    picture = torch.stack([2 * x + 0 * y, 2 * y + 0 * x, 255 - x - y], -1).to(torch.uint8)
    right = (x + 0 * y >= 24)
    common = {"guidance": 3.0, "seed": 3, "steps": 5, "width": 48, "height": 64, "sampler": "euler"}
    out = {}
    for name, repainted, init in (("all", right | True, None), ("half", right, picture)):
        left = (picture.permute(2, 0, 1)[None] / 255 * 2 - 1) * ~repainted
        left = model.vae.encode(left).latent_dist.mean * model.vae.config.scaling_factor
        mask = repainted[::8, ::8][None, None].float()
        beside = torch.cat([mask, left], 1)
        start = {} if init is None else {"init": reference.encode_picture(model, init), "denoise": 0.75}
        out[f"latents.{name}"] = reference.sample(model, cond, uncond, beside=beside, **start, **common)
    return out


def tiny_vae():
    """TAESD with weights of the formula: its listing and its answers."""
    network = AutoencoderTiny().eval()
    shapes = {f"vae.{name}": list(tensor.shape) for name, tensor in sorted(network.state_dict().items())}
    write_json(HERE / "taesd" / "vae" / "config.json", {
        "_class_name": "AutoencoderTiny", "act_fn": "relu", "latent_channels": 4, "scaling_factor": 1.0})
    lines = [f'"{name}": {json.dumps(shape)}' for name, shape in shapes.items()]
    (HERE / "taesd" / "tensors.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    network.load_state_dict({name.removeprefix("vae."): fill(name, shape)
                             for name, shape in shapes.items()})
    picture = given("picture", (1, 3, 48, 32)) / math.sqrt(3)
    out = {"vae.latents": network.encode(picture).latents,
           "vae.picture": network.decode(given("vae latents", (1, 4, 3, 5))).sample}
    for name, tensor in out.items():
        print(f"taesd {name}: {tuple(tensor.shape)}, {tensor.std():.3f}")
    return out


def refined(model, other):
    """Three steps of SDXL, two of its refiner."""
    def conditioning(model, text_ids):
        return reference.encode_pooled(model, lambda encoder: [chunk_of(encoder, text_ids)])

    cond, pooled = conditioning(model, SD15_PROMPT)
    beside = added(model, torch.cat([torch.zeros_like(pooled), pooled]), [[64, 48, 0, 0, 64, 48]] * 2)
    (late, pooled), (negative, unpooled) = conditioning(other, SD15_PROMPT), conditioning(other, [])
    scores = added(other, torch.cat([unpooled, pooled]), [[64, 48, 0, 0, 2.5], [64, 48, 0, 0, 6]])
    denoiser = reference.guided_unet(other, late, negative, 3.0, scores)
    return reference.sample(model, cond, torch.zeros_like(cond), sampler="euler", schedule="karras",
                            steps=5, guidance=3.0, seed=3, width=48, height=64, added=beside,
                            refiner=(denoiser, 3))


def check(folder, model, out):
    """Every weight must matter, or a test could pass without it."""
    for name, tensor in out.items():
        assert tensor.isfinite().all(), name
        print(f"{folder.name} {name}: {tuple(tensor.shape)}, {tensor.float().std():.3f}")
    with torch.enable_grad():
        width = model.unet.config.cross_attention_dim
        x, context = given("latents", (2, 4, 12, 10)), given("context 77", (2, 77, width))
        ids = out["text.ids"][None]
        beside = added(model, given("pooled", (2, 128)), sizes_of(model))
        made = [
            model.unet(x, torch.tensor([541.375, 541.375]), context, added_cond_kwargs=beside).sample,
            model.vae.encode(given("picture", (1, 3, 48, 32))).latent_dist.parameters,
            model.vae.decode(given("vae latents", (1, 4, 3, 5))).sample,
        ]
        if model.text_encoder_2 is None:
            made.append(model.text_encoder(ids).last_hidden_state)
        else:
            made.append(model.text_encoder_2(ids).text_embeds)
            if model.text_encoder is not None:
                made.append(model.text_encoder(ids, output_hidden_states=True).hidden_states[-2])
        # Against fixed random directions, so that no norm can cancel a gradient.
        sum((y * given("direction", y.shape)).sum() for y in made).backward()
    for network in model.networks:
        # What the last but one layer's states leave out.
        unused = model.text_encoder_2 is not None and network is model.text_encoder
        last = ("layers.2.", "final_layer_norm.") if unused else ()
        for name, parameter in network.named_parameters():
            # A key's bias adds the same to every score of a query, and softmax takes it out.
            if not name.endswith(("k_proj.bias", "to_k.bias")) and not any(x in name for x in last):
                assert parameter.grad.abs().max() > 1e-5, f"{name} does not matter"


if __name__ == "__main__":
    for name in sys.argv[1:] or [*MODELS, "taesd"]:
        if name == "taesd":
            save_file({key: value.contiguous() for key, value in tiny_vae().items()},
                      HERE / f"{name}.safetensors")
            continue
        model = MODELS[name]
        write_folder(HERE / name, model)
        with tempfile.TemporaryDirectory() as target:
            with_weights(HERE / name, Path(target))
            loaded = reference.Model(target)
        if name == "inpaint":
            save_file({key: value.contiguous() for key, value in inpainted(loaded).items()},
                      HERE / f"{name}.safetensors")
            continue
        out = answers(loaded)
        if name == "sdxl":
            with tempfile.TemporaryDirectory() as target:
                write_folder(HERE / "refiner", MODELS["refiner"])
                with_weights(HERE / "refiner", Path(target))
                out["latents.refined"] = refined(loaded, reference.Model(target))
        check(HERE / name, loaded, out)
        out = {key: value.contiguous() for key, value in out.items()}
        save_file(out, HERE / f"{name}.safetensors")
