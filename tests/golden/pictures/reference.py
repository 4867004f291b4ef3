"""A generation as the references make it: what the engine's pictures are measured against.

The composition: transformers' CLIP text encoder, diffusers' UNet and VAE, k-diffusion's samplers,
LyCORIS' weight changes, all in f32 on the CPU with one thread. Where k-diffusion has no form of its
own, the formula is stated here and its source named.

Nothing here is shared with the engine, and nothing was translated from it.

Run with: python 3.11, torch 2.15.0, diffusers 0.42.1, transformers 5.24.0, k-diffusion 0.1.1.post1,
torchsde 0.2.6, lycoris-lora 4.1.3, numpy 2.4.6, scipy 1.17.1, safetensors 0.8.0.
"""

import importlib.util
import json
import math
import re
import sys
import types
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UniPCMultistepScheduler
from safetensors.torch import load_file
from scipy import stats
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

torch.set_num_threads(1)
torch.set_grad_enabled(False)


def _k_diffusion():
    """k-diffusion's `sampling` and `external`, without what its package imports for training."""
    folder = Path(importlib.util.find_spec("k_diffusion").submodule_search_locations[0])
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(folder)]
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
    package.utils = utils
    # Only `log_likelihood` integrates an ODE; no sampler does.
    odeint = types.ModuleType("torchdiffeq")
    odeint.odeint = None
    sys.modules.setdefault("torchdiffeq", odeint)
    sys.modules["k_diffusion"] = package
    sys.modules["k_diffusion.utils"] = utils
    for name in ("sampling", "external"):
        spec = importlib.util.spec_from_file_location(f"k_diffusion.{name}", folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        setattr(package, name, module)
        spec.loader.exec_module(module)
    return package


K = _k_diffusion()

# --- the model -------------------------------------------------------------------------------


class Model:
    """A diffusers folder in f32."""

    def __init__(self, folder, dtype=torch.float32):
        folder = Path(folder)
        self.dtype = dtype
        words = folder / "tokenizer"
        self.tokenizer = CLIPTokenizer.from_pretrained(words) if words.exists() else None
        load = {"torch_dtype": torch.float32}
        # The refiner has the second alone.
        second = folder / "text_encoder_2"
        self.text_encoder = self.text_encoder_2 = None
        if (folder / "text_encoder").exists():
            self.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", **load)
        if second.exists():
            self.text_encoder_2 = CLIPTextModelWithProjection.from_pretrained(second, **load)
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", **load)
        self.vae = AutoencoderKL.from_pretrained(folder / "vae", **load)
        self.networks = [self.text_encoder, self.text_encoder_2, self.unet, self.vae]
        self.networks = [network for network in self.networks if network is not None]
        for network in self.networks:
            torch.nn.Module.to(network.eval(), dtype)
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        self.prediction = config.get("prediction_type", "epsilon")
        self.betas = {key: config[key] for key in ("beta_start", "beta_end", "beta_schedule")}
        # diffusers' own f32 products; k-diffusion takes them as they come.
        self.alphas_cumprod = DDIMScheduler(**self.betas).alphas_cumprod

    def repaint(self, adapters):
        """The UNet's weights with other changes than before; the text encoder stays as it is."""
        if not hasattr(self, "unpatched"):
            self.unpatched = {name: value.clone() for name, value in self.unet.state_dict().items()}
        self.unet.load_state_dict(self.unpatched)
        self.apply([(path, weight, 0.0) for path, weight in adapters if weight != 0.0])

    def apply(self, adapters):
        """Adds the adapters' weight changes: a list of (file, UNet weight, text encoder weight).

        Each change is what LyCORIS makes of the file's factors, taken from the unpatched weights
        and summed in f32. `delta` below is the same from the definition, as a check on the reading.
        """
        targets = {}
        for prefix, network in (("lora_unet_", self.unet), ("lora_te_text_model_", self.text_encoder)):
            for name, module in network.named_modules():
                targets[prefix + name.replace(".", "_")] = module
        for path, unet_weight, text_encoder_weight in adapters:
            file = {key: value.float() for key, value in load_file(path).items()}
            names = sorted({key.split(".")[0] for key in file})
            missing = [name for name in names if name not in targets]
            assert not missing, f"{path}: no counterpart for {missing}"
            for name in names:
                module = targets[name]
                weight = unet_weight if name.startswith("lora_unet_") else text_encoder_weight
                change = lycoris_delta(file, name, module)
                apart = (change - delta(file, name, module.weight.shape)).abs().max()
                assert apart <= 1e-6 * change.abs().max(), f"{path}: {name} is {apart} apart"
                module.weight.data += (weight * change).to(self.dtype)


def lycoris_delta(file, name, module):
    """The weight change of one module at weight 1, as LyCORIS makes it."""
    from lycoris.modules import get_module, make_module

    plain = type(module)(**_shape_of(module))
    built = make_module(*get_module(file, name), name, plain)
    return built.get_diff_weight(1.0, shape=module.weight.shape)[0].float()


def _shape_of(module):
    """What a plain layer of the same shape is made from (diffusers' layers may be subclasses)."""
    if isinstance(module, torch.nn.Conv2d):
        keys = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    else:
        keys = ("in_features", "out_features")
    return {key: getattr(module, key) for key in keys}


def delta(file, name, shape):
    """The weight change of one module at weight 1, from its definition: alpha / rank * product."""
    if f"{name}.hada_w1_a" in file:
        w1a, w1b, w2a, w2b = (file[f"{name}.hada_w{part}"] for part in ("1_a", "1_b", "2_a", "2_b"))
        rank = w1b.shape[0]
        change = (w1a @ w1b) * (w2a @ w2b)
    else:
        down, up = file[f"{name}.lora_down.weight"], file[f"{name}.lora_up.weight"]
        rank = down.shape[0]
        change = up.flatten(1) @ down.flatten(1)
    alpha = file.get(f"{name}.alpha", torch.tensor(float(rank)))
    return change.reshape(shape) * (alpha / rank)


# --- the prompt ------------------------------------------------------------------------------


def emphasis(text):
    """A prompt as [(run, weight)]: `(x)` times 1.1, `[x]` divided by 1.1, `(x:1.3)` times 1.3.

    The rules of A1111: a backslash takes a bracket literally, what is not closed reaches to the end,
    `BREAK` is a run of its own with weight None, neighbours of the same weight are one run.
    """
    runs, round_open, square_open = [], [], []

    def scale(start, factor):
        for run in runs[start:]:
            if run[1] is not None:
                run[1] *= factor

    for match in re.finditer(r"\\[()\[\]\\]?|\(|\[|:([+-]?[.\d]+)\)|\)|\]|[^\\()\[\]:]+|:", text):
        token, number = match.group(0), match.group(1)
        if token.startswith("\\"):
            runs.append([token[1:], 1.0])
        elif token == "(":
            round_open.append(len(runs))
        elif token == "[":
            square_open.append(len(runs))
        elif number is not None and round_open:
            scale(round_open.pop(), float(number))
        elif token == ")" and round_open:
            scale(round_open.pop(), 1.1)
        elif token == "]" and square_open:
            scale(square_open.pop(), 1 / 1.1)
        else:
            for i, part in enumerate(re.split(r"\s*\bBREAK\b\s*", token)):
                if i > 0:
                    runs.append(["BREAK", None])
                runs.append([part, 1.0])
    for start in round_open:
        scale(start, 1.1)
    for start in square_open:
        scale(start, 1 / 1.1)

    merged = []
    for run, weight in runs or [["", 1.0]]:
        if merged and weight is not None and merged[-1][1] == weight:
            merged[-1][0] += run
        else:
            merged.append([run, weight])
    return merged


def chunks(model, text):
    """A prompt as [(77 token ids, 77 weights)], broken after a comma of the last 20 tokens if full."""
    start, end = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    comma = model.tokenizer.get_vocab().get(",</w>")
    done, ids, weights, last_comma = [], [], [], None

    def close():
        nonlocal ids, weights, last_comma
        fill = 75 - len(ids)
        done.append(([start, *ids, *[end] * fill, end], [1.0, *weights, *[1.0] * fill, 1.0]))
        ids, weights, last_comma = [], [], None

    for run, weight in emphasis(text):
        if weight is None:
            close()
            continue
        for token in model.tokenizer(run, add_special_tokens=False)["input_ids"]:
            if token == comma:
                last_comma = len(ids)
            elif len(ids) == 75 and last_comma is not None and 75 - last_comma <= 20:
                moved_ids, moved_weights = ids[last_comma + 1 :], weights[last_comma + 1 :]
                ids, weights = ids[: last_comma + 1], weights[: last_comma + 1]
                close()
                ids, weights = moved_ids, moved_weights
            if len(ids) == 75:
                close()
            ids.append(token)
            weights.append(weight)
    if ids or not done:
        close()
    return done


def encode(model, text, clip_skip=1):
    """The conditioning of a prompt, `(1, 77 n, width)`."""
    return encode_chunks(model, chunks(model, text), clip_skip)


def encode_chunks(model, chunks, clip_skip=1):
    """The text encoder's states times the tokens' weights, each chunk's mean restored (A1111)."""
    states = []
    for ids, weights in chunks:
        out = model.text_encoder(torch.tensor([ids]), output_hidden_states=True)
        if clip_skip == 1:
            z = out.last_hidden_state
        else:
            z = final_layer_norm(model.text_encoder)(out.hidden_states[-clip_skip])
        if any(weight != 1.0 for weight in weights):
            mean = z.mean()
            z = z * torch.tensor(weights, dtype=z.dtype)[None, :, None]
            z = z * (mean / z.mean())
        states.append(z)
    return torch.cat(states, 1)


def encode_pooled(model, chunks_of):
    """SDXL's conditioning of a prompt: `(1, 77 n, widths together)` and `(1, width)`.

    `chunks_of(text_encoder)` gives the chunks as that encoder reads them (their padding differs). The
    states are the last but one layer's, without normalization; the pooled vector is the first chunk's.
    """
    states, pooled = [], None
    for network in (model.text_encoder, model.text_encoder_2):
        if network is None:
            continue
        parts = []
        for ids, weights in chunks_of(network):
            assert all(weight == 1.0 for weight in weights)
            out = network(torch.tensor([ids]), output_hidden_states=True)
            parts.append(out.hidden_states[-2])
            if network is model.text_encoder_2 and pooled is None:
                pooled = out.text_embeds
        states.append(torch.cat(parts, 1))
    return torch.cat(states, 2), pooled


def final_layer_norm(text_encoder):
    """Older transformers have the network one level deeper."""
    return getattr(text_encoder, "text_model", text_encoder).final_layer_norm


# --- sigmas ----------------------------------------------------------------------------------


def schedules(wrapper, n):
    """Every schedule's n sigmas (ddim_uniform may have one more or less), then zero, in f32.

    karras and exponential are k-diffusion's; the others are A1111's of version 1.10, restated:
    normal, sgm_uniform: even timesteps between those of the two ends, with and without the last;
    simple: every (1000 / n)-th training sigma from the top; ddim_uniform: every (1000 // n)-th,
    from index 1; beta (arXiv:2407.12173): quantiles of Beta(0.6, 0.6) between the ends.
    """
    table = wrapper.sigmas
    low, high = table[0].item(), table[-1].item()
    first, last = wrapper.sigma_to_t(torch.tensor(high)), wrapper.sigma_to_t(torch.tensor(low))

    def of_timesteps(timesteps):
        return [wrapper.t_to_sigma(t).item() for t in timesteps]

    quantiles = stats.beta.ppf(1 - np.linspace(0, 1, n), 0.6, 0.6)
    made = {
        "normal": of_timesteps(torch.linspace(first, last, n)),
        "sgm_uniform": of_timesteps(torch.linspace(first, last, n + 1)[:-1]),
        "simple": [table[-(1 + int(i * (len(table) / n)))].item() for i in range(n)],
        "ddim_uniform": table[1 :: max(len(table) // n, 1)].flip(0).tolist(),
        "beta": [low + q * (high - low) for q in quantiles],
    }
    made = {name: torch.tensor([*sigmas, 0.0], dtype=torch.float32) for name, sigmas in made.items()}
    made["karras"] = K.sampling.get_sigmas_karras(n, low, high)
    made["exponential"] = K.sampling.get_sigmas_exponential(n, low, high)
    return made


SCHEDULES = ("normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta")

# --- samplers --------------------------------------------------------------------------------


def lcm(model, x, sigmas, extra_args=None, disable=None):
    """Latent consistency (arXiv:2310.04378): the estimate, with noise of the next sigma again."""
    for sigma, after in zip(sigmas, sigmas[1:]):
        x = model(x, sigma * x.new_ones([1]), **(extra_args or {}))
        if after > 0:
            x = x + after * torch.randn_like(x)
    return x


K_SAMPLERS = {
    "euler": K.sampling.sample_euler,
    "euler_a": K.sampling.sample_euler_ancestral,
    "heun": K.sampling.sample_heun,
    "dpm2": K.sampling.sample_dpm_2,
    "dpm2_a": K.sampling.sample_dpm_2_ancestral,
    "lms": K.sampling.sample_lms,
    "dpmpp_2s_a": K.sampling.sample_dpmpp_2s_ancestral,
    "dpmpp_2m": K.sampling.sample_dpmpp_2m,
    "dpmpp_sde": K.sampling.sample_dpmpp_sde,
    "dpmpp_2m_sde": K.sampling.sample_dpmpp_2m_sde,
    "dpmpp_3m_sde": K.sampling.sample_dpmpp_3m_sde,
    "lcm": lcm,
}
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
# One sigma more is computed and the last but one dropped (A1111).
DROPS_LAST_BUT_ONE = ("dpm2", "dpm2_a", "dpmpp_3m_sde")
# These have their own timesteps and ignore the schedule.
OWN_SCHEDULE = ("ddim", "unipc")
SAMPLERS = (*K_SAMPLERS, *OWN_SCHEDULE)


def wrapper(model, guided):
    """k-diffusion's wrapper for the model's prediction, with fractional timesteps."""
    kinds = {
        "epsilon": K.external.DiscreteEpsDDPMDenoiser,
        "v_prediction": K.external.DiscreteVDDPMDenoiser,
    }
    return kinds[model.prediction](guided, model.alphas_cumprod, quantize=False)


def guided_unet(model, cond, uncond, guidance, added=None, beside=None):
    """The UNet's prediction under classifier-free guidance: both halves in one batch.

    Estimates are linear in predictions, so guiding these is guiding the estimates. `added` are SDXL's
    pooled vectors and sizes, `{"text_embeds": (2, n), "time_ids": (2, k)}`, the negative prompt first.
    `beside` is what a UNet for inpainting takes behind the latents: mask and masked latents, (1, 5, h, w).
    """
    # Repeated keys leave attention unchanged, so prompts of different length share a batch.
    length = math.lcm(cond.shape[1], uncond.shape[1])
    context = torch.cat([c.repeat(1, length // c.shape[1], 1) for c in (uncond, cond)])

    def predict(x, t):
        t = torch.as_tensor(t).reshape(-1)[:1].expand(2)
        if beside is not None:
            x = torch.cat([x, beside], 1)
        without, with_prompt = model.unet(
            torch.cat([x, x]), t, context, added_cond_kwargs=added).sample.chunk(2)
        return without + guidance * (with_prompt - without)

    def predict_unguided(x, t):
        return model.unet(x, torch.as_tensor(t).reshape(-1)[:1], cond).sample

    return predict_unguided if guidance == 1 else predict


def sigmas_of(model, sampler, schedule, steps):
    """The sigmas that a k-diffusion sampler walks down."""
    wrapped = wrapper(model, None)
    if sampler in DROPS_LAST_BUT_ONE:
        sigmas = schedules(wrapped, steps + 1)[schedule]
        return torch.cat([sigmas[:-2], sigmas[-1:]])
    return schedules(wrapped, steps)[schedule]


def sample(model, cond, uncond, *, sampler, schedule="karras", steps=20, guidance=4.0, seed=7,
           width=128, height=128, init=None, denoise=1.0, noise=None, added=None, refiner=None,
           beside=None, before_step=None):
    """The latents after the last step, `(1, 4, height / 8, width / 8)`.

    `init` are the latents of a picture: img2img by A1111's rules, which run the last
    int(denoise * steps) + 1 steps, the noise of an SDE still being that of the whole schedule.
    `refiner` is another denoiser (as `guided_unet` makes it), and the step from which on it is asked.
    `before_step(step)` is called before the UNet with the step, from 0, that its time belongs to: the last
    one that begins at that time or earlier in the run.
    """
    # One generator for the first noise and for all that a sampler draws.
    torch.manual_seed(seed)
    drawn = torch.randn(1, 4, height // 8, width // 8)
    x = (drawn if noise is None else noise).to(model.dtype)
    guided = base = guided_unet(model, cond, uncond, guidance, added, beside)

    if sampler in OWN_SCHEDULE:
        assert init is None
        return own_schedule(model, guided, sampler, x, steps)

    sigmas = sigmas_of(model, sampler, schedule, steps)
    if refiner:
        refined, step = refiner
        last = wrapper(model, None).sigma_to_t(sigmas[step])

        def guided(x, t):
            late = torch.as_tensor(t).reshape(-1)[0] <= last
            return refined(x, t) if late else base(x, t)

    if before_step:
        begins = wrapper(model, None).sigma_to_t(sigmas[:-1])

        def guided(x, t):
            # Times of one sigma are computed twice, in f32.
            time = torch.as_tensor(t).reshape(-1)[0]
            before_step(int((begins >= time - 1e-3).sum()) - 1)
            return base(x, t)

    extra = {}
    if sampler in BROWNIAN:
        low, high = sigmas[sigmas > 0].min(), sigmas.max()
        extra["noise_sampler"] = K.sampling.BrownianTreeNoiseSampler(drawn, low, high, seed=seed)
    if init is None:
        x = x * sigmas[0]
    else:
        sigmas = sigmas[steps - int(min(denoise, 0.999) * steps) - 1 :]
        x = init + x * sigmas[0]
    return K_SAMPLERS[sampler](wrapper(model, guided), x, sigmas, disable=True, **extra)


def own_schedule(model, guided, sampler, x, steps):
    """diffusers' DDIM and UniPC, on latents of the variance-preserving scale."""
    given = {**model.betas, "prediction_type": model.prediction}
    if sampler == "ddim":
        scheduler = DDIMScheduler(**given, timestep_spacing="leading", steps_offset=1,
                                  set_alpha_to_one=False, clip_sample=False)
    else:
        scheduler = UniPCMultistepScheduler(**given)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(guided(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


# --- pictures --------------------------------------------------------------------------------


def decode(model, latents):
    """Pixels `(height, width, 3)`, u8, as diffusers rounds them."""
    pixels = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round()
    return pixels[0].permute(1, 2, 0).to(torch.uint8).contiguous()


def encode_picture(model, pixels):
    """The mean of the posterior of u8 pixels `(height, width, 3)`, in the UNet's scale."""
    x = pixels.permute(2, 0, 1)[None].to(model.dtype) / 255 * 2 - 1
    return model.vae.encode(x).latent_dist.mean * model.vae.config.scaling_factor
