"""Writes the golden tensors of noise, schedules and samplers beside this file.

Run with: torch 2.15 (CPU, AVX2), k-diffusion 0.1.1.post1 and torchsde 0.2.6 (both installed with
--no-deps), diffusers 0.42.1, scipy 1.17, numpy 2.4, tqdm, trampoline.

Where the numbers come from:
  randn        torch.randn with one torch.Generator
  nv           Philox 4x32-10 (Salmon et al., 2011) and Box-Muller, written out below; equal to
               AUTOMATIC1111 stable-diffusion-webui 1.10's "NV" source, value for value
  brownian     k-diffusion's BrownianTreeNoiseSampler; for "nv" with the generator above in place of
               torch.randn for every node of the tree
  training     diffusers' DDIMScheduler; timesteps from k-diffusion's DiscreteSchedule
  schedules    karras, exponential: k-diffusion. normal, sgm_uniform, simple, ddim_uniform and beta are
               defined by AUTOMATIC1111 stable-diffusion-webui 1.10; the formulas below are our own
               words for them, and their results were compared once with those of that program's
               functions, for every number of steps below: equal, value for value
  samplers     k-diffusion's samplers; diffusers' DDIMScheduler and UniPCMultistepScheduler; lcm is
               short enough to be written out below
"""

import importlib.util
import math
import sys
import types
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler
from safetensors.torch import save_file
from scipy import stats

HERE = Path(__file__).parent
torch.set_num_threads(1)
torch.set_grad_enabled(False)

# k-diffusion as a package imports much that sampling does not need.
package = types.ModuleType("k_diffusion")
package.__path__ = list(importlib.util.find_spec("k_diffusion").submodule_search_locations)
utils = types.ModuleType("k_diffusion.utils")
utils.append_dims = lambda x, ndim: x[(...,) + (None,) * (ndim - x.ndim)]
torchdiffeq = types.ModuleType("torchdiffeq")
torchdiffeq.odeint = None
sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils, "torchdiffeq": torchdiffeq}
package.utils = utils
from k_diffusion import external, sampling  # noqa: E402
from torchsde._brownian import brownian_interval  # noqa: E402

STABLE_DIFFUSION = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


# Noise


class Philox:
    """What torch.randn computes on a CUDA device, up to the last bits of logarithm and sine."""

    def __init__(self, seed):
        self.key = [seed & 0xFFFFFFFF, seed >> 32]
        self.calls = 0

    def randn(self, shape):
        n = math.prod(shape)
        c = [np.full(n, w, np.uint64) for w in (self.calls, 0, 0, 0)]
        c[2] = np.arange(n, dtype=np.uint64)
        self.calls += 1
        low = np.uint64(0xFFFFFFFF)
        k0, k1 = self.key
        for _ in range(10):
            a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
            c = [(b >> 32) ^ c[1] ^ np.uint64(k0), b & low, (a >> 32) ^ c[3] ^ np.uint64(k1), a & low]
            k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
        cell, angle = np.float32(2.0**-32), np.float32(2.0**-32 * 6.2831855)
        u = c[0] * np.float64(cell) + cell / 2
        v = c[1] * np.float64(angle) + angle / 2
        values = np.sqrt(-2 * np.log(u)) * np.sin(v)
        return torch.from_numpy(values.astype(np.float32).reshape(shape))


SEEDS = [0, 42, 12345, 2**32 - 1, 2**32 + 5, 2**53 - 1]
# More than 16 values and a multiple of it, more and none; fewer than 16, even and odd.
SHAPES = [(1, 4, 8, 8), (1, 4, 3, 5), (1, 4, 1, 5), (1, 4, 1, 1), (1, 3, 1, 1)]


def noise():
    """Three calls of one generator, for every seed and shape: `(3, *shape)`."""
    randn, nv = {}, {}
    for seed in SEEDS:
        for shape in SHAPES:
            key = f"{seed}.{'x'.join(map(str, shape))}"
            generator = torch.Generator().manual_seed(seed)
            randn[key] = torch.stack([torch.randn(shape, generator=generator) for _ in range(3)])
            philox = Philox(seed)
            nv[key] = torch.stack([philox.randn(shape) for _ in range(3)])
    large = torch.Generator().manual_seed(7)
    randn["7.1x4x32x32"] = torch.randn((1, 1, 4, 32, 32), generator=large)
    save_file(randn, HERE / "randn.safetensors")
    save_file(nv, HERE / "nv.safetensors")


def brownian():
    """For every seed, noise `(steps, 1, 4, 3, 3)` of stretches `(steps, 2)` of sigma."""
    sigmas = sampling.get_sigmas_karras(10, 0.02916753478348255, 14.614646911621094)
    stretches = [(sigmas[i], sigmas[i + 1]) for i in range(9)]
    stretches += [(sigmas[0], sigmas[9]), (sigmas[3], sigmas[7]), (sigmas[8], sigmas[9])]
    stretches += [(torch.tensor(a), torch.tensor(b)) for a, b in ((8.0, 2.5), (1.000002, 1.0), (0.5, 0.03125))]
    x = torch.zeros(1, 4, 3, 3)
    out = {"sigmas": sigmas, "stretches": torch.tensor(stretches)}
    torch_randn = brownian_interval._randn
    nv_randn = lambda size, dtype, device, seed: Philox(int(seed)).randn(size)
    for rng, randn in (("torch-cpu", torch_randn), ("nv", nv_randn)):
        brownian_interval._randn = randn
        for seed in (0, 42, 2**53 - 1):
            sampler = sampling.BrownianTreeNoiseSampler(x, sigmas[9], sigmas[0], seed=seed)
            out[f"{rng}.{seed}"] = torch.stack([sampler(a, b) for a, b in stretches])
    brownian_interval._randn = torch_randn
    save_file(out, HERE / "brownian.safetensors")


# Schedules


def discrete(alphas_cumprod):
    return external.DiscreteSchedule(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5, quantize=False)


def training():
    """Sigmas of three training schedules, and timesteps of sigmas in between and outside."""
    out = {}
    for name, config in (
        ("scaled_linear", STABLE_DIFFUSION),
        ("linear", dict(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)),
        ("squaredcos_cap_v2", dict(beta_schedule="squaredcos_cap_v2")),
    ):
        schedule = discrete(DDIMScheduler(**config).alphas_cumprod)
        out[f"{name}.sigmas"] = schedule.sigmas
        sigmas = torch.tensor([0.001, 0.03, 0.1, 0.33, 1.0, 2.5, 7.7, 14.0, 100.0])
        out[f"{name}.between"] = sigmas
        out[f"{name}.timesteps"] = schedule.sigma_to_t(sigmas)
    signal = DDIMScheduler(**STABLE_DIFFUSION, rescale_betas_zero_snr=True).alphas_cumprod
    out["zero_terminal.sigmas"] = ((1 - signal) / signal) ** 0.5
    save_file(out, HERE / "training.safetensors")


def ending_in_zero(sigmas):
    return torch.tensor([float(sigma) for sigma in sigmas] + [0.0])


def at_timesteps(schedule, timesteps):
    return ending_in_zero([schedule.t_to_sigma(t) for t in timesteps])


def schedule_sigmas(name, schedule, n):
    all_sigmas = schedule.sigmas
    low, high, last = all_sigmas[0].item(), all_sigmas[-1].item(), len(all_sigmas) - 1
    match name:
        case "karras":
            return sampling.get_sigmas_karras(n, low, high)
        case "exponential":
            return sampling.get_sigmas_exponential(n, low, high)
        case "normal":
            return at_timesteps(schedule, torch.linspace(last, 0, n))
        case "sgm_uniform":
            return at_timesteps(schedule, torch.linspace(last, 0, n + 1)[:-1])
        case "simple":
            return ending_in_zero(all_sigmas[last - int(i * ((last + 1) / n))] for i in range(n))
        case "ddim_uniform":
            return ending_in_zero(all_sigmas[1 :: max((last + 1) // n, 1)].flip(0))
        case "beta":
            quantiles = stats.beta.ppf(1 - np.linspace(0, 1, n), 0.6, 0.6)
            return ending_in_zero(low + q * (high - low) for q in quantiles)


SCHEDULES = ["normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta"]
STEPS = [1, 2, 3, 5, 10, 20, 30, 50, 150]


def schedules():
    schedule = discrete(DDIMScheduler(**STABLE_DIFFUSION).alphas_cumprod)
    out = {f"{name}.{n}": schedule_sigmas(name, schedule, n) for name in SCHEDULES for n in STEPS}
    save_file(out, HERE / "schedules.safetensors")


# Samplers

K_DIFFUSION = {
    "euler": sampling.sample_euler,
    "euler_a": sampling.sample_euler_ancestral,
    "heun": sampling.sample_heun,
    "dpm2": sampling.sample_dpm_2,
    "dpm2_a": sampling.sample_dpm_2_ancestral,
    "lms": sampling.sample_lms,
    "dpmpp_2s_a": sampling.sample_dpmpp_2s_ancestral,
    "dpmpp_2m": sampling.sample_dpmpp_2m,
    "dpmpp_sde": sampling.sample_dpmpp_sde,
    "dpmpp_2m_sde": sampling.sample_dpmpp_2m_sde,
    "dpmpp_3m_sde": sampling.sample_dpmpp_3m_sde,
}
WITHOUT_NEXT_TO_LAST = {"dpm2", "dpm2_a", "dpmpp_3m_sde"}
SHAPE, SEED, N = (1, 4, 4, 4), 1234, 12
STRENGTH = 0.6


def unet(x, t):
    """Stands for a UNet of either prediction: smooth, bounded, different at every timestep."""
    t = torch.as_tensor(t, dtype=torch.float32).reshape(-1, 1, 1, 1)
    return torch.tanh(x) + 0.1 * torch.sin(t / 150 + x)


def sample_lcm(model, x, sigmas, noise_sampler):
    for sigma, following in zip(sigmas, sigmas[1:]):
        x = model(x, sigma[None])
        if following > 0:
            x = x + following * noise_sampler(sigma, following)
    return x


def run_k_diffusion(name, prediction, sigmas, start, init=None):
    """From the sigma number `start` of the full schedule on."""
    wrapper = dict(epsilon=external.DiscreteEpsDDPMDenoiser, v_prediction=external.DiscreteVDDPMDenoiser)
    model = wrapper[prediction](unet, DDIMScheduler(**STABLE_DIFFUSION).alphas_cumprod, quantize=False)
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(SHAPE, generator=generator) * sigmas[start]
    if init is not None:
        x = init + x
    arguments = {}
    if name.endswith("_sde"):
        arguments["noise_sampler"] = sampling.BrownianTreeNoiseSampler(
            x, sigmas[sigmas > 0].min(), sigmas.max(), seed=SEED
        )
    elif name.endswith("_a") or name == "lcm":
        arguments["noise_sampler"] = lambda *_: torch.randn(SHAPE, generator=generator)
    if name == "lcm":
        return sample_lcm(model, x, sigmas[start:], **arguments)
    return K_DIFFUSION[name](model, x, sigmas[start:], disable=True, **arguments)


def run_diffusers(name, prediction, n, start, init=None):
    """Returns the sigmas too: those of the timesteps, then the one that the last step goes to."""
    config = STABLE_DIFFUSION | dict(prediction_type=prediction)
    if name == "ddim":
        scheduler = DDIMScheduler(
            **config, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False, clip_sample=False
        )
    else:
        scheduler = UniPCMultistepScheduler(**config)
    scheduler.set_timesteps(n)
    if name == "unipc":
        scheduler.set_begin_index(start)
    alphas = scheduler.alphas_cumprod
    timesteps = scheduler.timesteps[start:]
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED))
    if init is not None:
        alpha = alphas[timesteps[0]]
        x = alpha.sqrt() * init + (1 - alpha).sqrt() * x
    for t in timesteps:
        x = scheduler.step(unet(x, t), t, x).prev_sample
    sigmas = ((1 - alphas) / alphas) ** 0.5
    end = sigmas[0] if name == "ddim" else torch.tensor(0.0)
    return x, torch.cat([sigmas[scheduler.timesteps], end[None]])


def samplers():
    """`sampler.prediction.schedule`, the last without a schedule for those that ignore it.

    `sigmas.schedule`, `sigmas.discard.schedule`, `sigmas.ddim`, `sigmas.unipc`: the full schedules;
    `img2img.sampler.prediction`: the end of the karras schedule, from `init`.
    """
    schedule = discrete(DDIMScheduler(**STABLE_DIFFUSION).alphas_cumprod)
    init = torch.sin(torch.arange(math.prod(SHAPE), dtype=torch.float32) / 3).reshape(SHAPE)
    start = N - int(min(STRENGTH, 0.999) * N) - 1
    out = {"init": init}
    for name in SCHEDULES:
        out[f"sigmas.{name}"] = schedule_sigmas(name, schedule, N)
        longer = schedule_sigmas(name, schedule, N + 1)
        out[f"sigmas.discard.{name}"] = torch.cat([longer[:-2], longer[-1:]])
    for prediction in ("epsilon", "v_prediction"):
        for name in (*K_DIFFUSION, "lcm"):
            kind = "sigmas.discard" if name in WITHOUT_NEXT_TO_LAST else "sigmas"
            for schedule_name in SCHEDULES:
                sigmas = out[f"{kind}.{schedule_name}"]
                out[f"{name}.{prediction}.{schedule_name}"] = run_k_diffusion(name, prediction, sigmas, 0)
            sigmas = out[f"{kind}.karras"]
            out[f"img2img.{name}.{prediction}"] = run_k_diffusion(name, prediction, sigmas, start, init)
        for name in ("ddim", "unipc"):
            out[f"{name}.{prediction}"], out[f"sigmas.{name}"] = run_diffusers(name, prediction, N, 0)
            out[f"img2img.{name}.{prediction}"], _ = run_diffusers(name, prediction, N, start, init)
    save_file({key: value.contiguous() for key, value in out.items()}, HERE / "samplers.safetensors")


if __name__ == "__main__":
    noise()
    brownian()
    training()
    schedules()
    samplers()
