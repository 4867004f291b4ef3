"""Writes small adapters with PEFT and LyCORIS, and the weight changes that those libraries make of them.

Every module has its place in an SD 1.x UNet or text encoder, but is much smaller. Each adapter is
saved the way its library saves it, and `deltas.safetensors` holds, in f32, what the library adds to
the weights at strength 1:

    <adapter>/<canonical name of the module>        change of the weight
    <adapter>/<canonical name of the module>.bias   change of the bias, where there is one

    peft              a folder of folders: LoRA on a UNet (linear, 1x1 and 3x3 convolutions, ranks and
                      alphas by pattern, rank-stabilized) and on a text encoder (with biases)
    peft_loha         LoHa as PEFT saves it, alpha in the configuration
    locon, tucker     LoCon in kohya's names, plain and in Tucker form
    loha, loha_tucker LoHa in kohya's names, plain and in Tucker form
    half              locon in f16: the change is that of the rounded factors

`algorithms/` holds a file for each other algorithm, and `algorithms.safetensors` the base weights
(`base/<module>.weight`, `.bias`) and, in the form above, what LyCORIS and PEFT make of them at strength 1:

    lokr, lokr_factored, lokr_tucker     LoKr with one factored matrix, with both, and in Tucker form
    dora, dora_inputs, dora_peft         DoRA around LoRA: a norm for each output, each input; PEFT's own
    dora_loha, dora_lokr                 DoRA around others
    adalora_peft                         LoRA with a factor for each rank
    oft, oft_rescaled, boft, oft_peft, hra_peft   rotations
    oft_peft_convs, oft_peft_shared      PEFT's OFT of convolutions, as PEFT merges it: blocks of their rows
                                         `(in, kh, kw)`; one block for all, and linear layers too
    oft_peft_exact, oft_peft_bounded     Cayley's transform without its series; COFT
    ia3, ia3_inputs, ia3_peft, glora, full, norm
    glora_old                            the order of GLoRA's first files, which no library writes any more:
                                         by its formula, in NumPy and f64
    oft_onetrainer                       OneTrainer's OFT: what its layers do by their definition, in f64. It turns the
                                         inputs of linear layers, and the weights of convolutions
    tlora                                T-LoRA with orthogonal factors in its authors' names: what its layers do
                                         to unit inputs, by their definition, in f64

`modules.json` lists the canonical names and the shapes of the base weights.

Run: python make.py   (seconds). Written with torch 2.x (CPU), peft 0.21.2, lycoris-lora 4.1.3,
safetensors 0.8.
"""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft import AdaLoraConfig, HRAConfig, IA3Config, LoHaConfig, LoraConfig, OFTConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
torch.set_num_threads(1)
torch.manual_seed(20)

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
UNET = {
    f"{BLOCK}.attn1.to_q": nn.Linear(10, 12, bias=False),
    f"{BLOCK}.attn2.to_k": nn.Linear(14, 12, bias=False),
    f"{BLOCK}.attn1.to_out.0": nn.Linear(12, 10),
    "down_blocks.0.attentions.0.proj_in": nn.Conv2d(10, 12, 1),
    "down_blocks.0.resnets.0.conv1": nn.Conv2d(6, 8, 3, padding=1),
    "down_blocks.0.downsamplers.0.conv": nn.Conv2d(8, 8, 3, padding=1, stride=2),
}
LAYER = "text_model.encoder.layers.0"
TEXT_ENCODER = {
    f"{LAYER}.self_attn.q_proj": nn.Linear(14, 14),
    f"{LAYER}.mlp.fc1": nn.Linear(14, 20),
}


class UNet2DConditionModel(nn.Module):
    """A tree of modules with the given paths, of the class whose name PEFT writes down."""

    __module__ = "x"  # PEFT writes it down as well


class CLIPTextModel(nn.Module):
    __module__ = "x"


def tree(root, modules):
    for path, module in modules.items():
        *parents, leaf = path.split(".")
        node = root
        for name in parents:
            if not hasattr(node, name):
                node.add_module(name, nn.Module())
            node = getattr(node, name)
        node.add_module(leaf, module)
    return root


def randomize(parameters):
    for parameter in parameters:
        with torch.no_grad():
            parameter.copy_(torch.randn_like(parameter) / 3)


def peft(folder, root, config, component, modules, deltas, name):
    model = get_peft_model(tree(root, modules), config)
    randomize(p for n, p in model.named_parameters() if "lora_" in n or "hada_" in n)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    # PEFT writes this set in an order that changes from run to run.
    path = folder / "adapter_config.json"
    written = json.loads(path.read_text())
    written["target_modules"].sort()
    path.write_text(json.dumps(written, indent=1) + "\n")
    for path in modules:
        layer = model.base_model.model.get_submodule(path)
        key = f"{name}/{component}.{path}"
        deltas[key] = layer.get_delta_weight("default").detach().reshape(modules[path].weight.shape)
        if getattr(config, "lora_bias", False):
            deltas[f"{key}.bias"] = layer.lora_B["default"].bias.detach() * layer.scaling["default"]


def lycoris(name, kind, deltas, dtype=torch.float32, **options):
    tensors = {}
    spelled = [("lora_unet_", "unet", UNET), ("lora_te_", "text_encoder", TEXT_ENCODER)]
    for prefix, component, modules in spelled:
        for path, base in modules.items():
            spelling = prefix + path.replace(".", "_")
            module = kind(spelling, base, lora_dim=4, alpha=2.5, **options)
            randomize(module.parameters())
            for parameter in module.parameters():
                parameter.data = parameter.data.to(dtype).float()
            state = module.custom_state_dict()
            tensors |= {f"{spelling}.{k}": v.detach().to(dtype).contiguous() for k, v in state.items()}
            # What `forward` adds in training. LoHa's get_diff_weight, which merges into files, applies
            # alpha / rank a second time.
            delta = module.get_weight(None) if kind is LohaModule else module.get_diff_weight(1)[0]
            delta = delta.detach()
            deltas[f"{name}/{component}.{path}"] = delta.reshape(base.weight.shape)
    save_file(tensors, HERE / f"{name}.safetensors", {"ss_network_module": "lycoris.kohya"})


def main():
    deltas = {}
    modules = {f"unet.{k}": list(v.weight.shape) for k, v in UNET.items()}
    modules |= {f"text_encoder.{k}": list(v.weight.shape) for k, v in TEXT_ENCODER.items()}
    (HERE / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")

    # LyCORIS first: PEFT replaces the modules by its own.
    lycoris("locon", LoConModule, deltas)
    lycoris("tucker", LoConModule, deltas, use_tucker=True)
    lycoris("loha", LohaModule, deltas)
    lycoris("loha_tucker", LohaModule, deltas, use_tucker=True)
    lycoris("half", LoConModule, deltas, dtype=torch.float16)

    for name in ["peft", "peft_loha"]:
        shutil.rmtree(HERE / name, ignore_errors=True)
    fresh = lambda modules: {
        path: type(m)(
            *((m.in_channels, m.out_channels, m.kernel_size) if isinstance(m, nn.Conv2d)
              else (m.in_features, m.out_features)),
            bias=m.bias is not None,
        )
        for path, m in modules.items()
    }
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        target_modules=list(UNET),
        rank_pattern={"proj_in": 2, r"attn\d\.to_out\.0": 3},
        alpha_pattern={"conv1": 1.5, r"attn[12]\.to_[qk]": 9},
    )
    peft(HERE / "peft" / "unet", UNet2DConditionModel(), config, "unet", fresh(UNET), deltas, "peft")
    config = LoraConfig(r=3, lora_alpha=2, lora_bias=True, target_modules=list(TEXT_ENCODER))
    peft(HERE / "peft" / "text_encoder", CLIPTextModel(), config, "text_encoder",
         fresh(TEXT_ENCODER), deltas, "peft")
    config = LoHaConfig(r=3, alpha=2, target_modules=list(UNET), use_effective_conv2d=True)
    peft(HERE / "peft_loha", UNet2DConditionModel(), config, "unet", fresh(UNET), deltas, "peft_loha")

    save_file({k: v.contiguous() for k, v in deltas.items()}, HERE / "deltas.safetensors")



def effective(layer, base):
    """What a layer without activations does: its weight and bias, from what it makes of unit inputs."""
    with torch.no_grad():
        if isinstance(base, nn.Conv2d):
            taps, inputs = base.kernel_size, base.in_channels
            zero = torch.zeros(1, inputs, *taps)
            units = torch.eye(zero.numel()).reshape(-1, inputs, *taps)
            layer_padding, base.padding = base.padding, (0, 0)
            call = lambda x: layer(x).reshape(x.shape[0], -1)
            bias = call(zero)[0]
            weight = (call(units) - bias).T.reshape(base.weight.shape)
            base.padding = layer_padding
        else:
            bias = layer(torch.zeros(1, base.in_features))[0]
            weight = (layer(torch.eye(base.in_features)) - bias).T.reshape(base.weight.shape)
    return weight, bias


def algorithms():
    """The files and numbers of all other algorithms. Square sides, so that blocks divide them."""
    torch.manual_seed(21)
    folder = HERE / "algorithms"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    linears = {f"{BLOCK}.attn1.to_q": (16, 16, False), f"{BLOCK}.attn2.to_k": (24, 16, False),
               f"{BLOCK}.attn1.to_out.0": (16, 16, True)}
    convs = {"down_blocks.0.attentions.0.proj_in": (12, 16, 1),
             "down_blocks.0.resnets.0.conv1": (8, 16, 3)}
    numbers, bases = {}, {}
    for path, (inputs, outputs, bias) in linears.items():
        bases[path] = nn.Linear(inputs, outputs, bias=bias)
    for path, (inputs, outputs, kernel) in convs.items():
        bases[path] = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    bases["down_blocks.0.resnets.0.norm1"] = nn.GroupNorm(2, 8)
    randomize(p for base in bases.values() for p in base.parameters())
    for path, base in bases.items():
        for part, value in base.named_parameters():
            numbers[f"base/unet.{path}.{part}"] = value.detach().clone()

    def note(name, path, base, weight, bias=None):
        numbers[f"{name}/unet.{path}"] = (weight - base.weight).detach()
        if bias is not None and base.bias is not None and not torch.allclose(bias, base.bias):
            numbers[f"{name}/unet.{path}.bias"] = (bias - base.bias).detach()

    def lycoris_file(name, kind, only=lambda base: not isinstance(base, nn.GroupNorm), scale=1 / 3,
                     weight_of=None, alpha=2.5, dim=4, **options):
        tensors = {}
        for path, base in bases.items():
            if not only(base):
                continue
            spelling = "lora_unet_" + path.replace(".", "_")
            module = kind(spelling, base, lora_dim=dim, alpha=alpha, **options)
            with torch.no_grad():
                for key, parameter in module.named_parameters():
                    if "dora_scale" in key:
                        parameter.mul_(1 + torch.rand_like(parameter) / 3)
                    elif key == "rescale":
                        parameter.copy_(1 + torch.randn_like(parameter) / 5)
                    elif not key.startswith("org"):
                        parameter.copy_(torch.randn_like(parameter) * scale)
            state = module.custom_state_dict() or module.state_dict()
            state = {k: v for k, v in state.items() if not k.startswith("org")}
            tensors |= {f"{spelling}.{k}": v.detach().clone().contiguous() for k, v in state.items()}
            if weight_of:
                weight, bias = weight_of(module, base)
            else:
                weight, bias = module.get_merged_weight(1)
            note(name, path, base, weight.reshape(base.weight.shape), bias)
        save_file(tensors, folder / f"{name}.safetensors", {"ss_network_module": "lycoris.kohya"})

    # As in training: LoKr's merged weight has alpha / rank twice.
    plain = lambda module, base: (
        base.weight + module.get_weight(base.weight.shape).reshape(base.weight.shape), None)
    lycoris_file("lokr", LokrModule, weight_of=plain, dim=2, factor=2)
    lycoris_file("lokr_factored", LokrModule, weight_of=plain, decompose_both=True, dim=2, factor=2)
    lycoris_file("lokr_tucker", LokrModule, weight_of=plain, use_tucker=True, dim=2, factor=2)
    lycoris_file("dora", LoConModule, weight_decompose=True, wd_on_out=True)
    lycoris_file("dora_inputs", LoConModule, weight_decompose=True, wd_on_out=False)
    lycoris_file("oft", DiagOFTModule, alpha=0)
    lycoris_file("oft_rescaled", DiagOFTModule, alpha=0.01, rescaled=True)
    lycoris_file("boft", ButterflyOFTModule, alpha=0)
    lycoris_file("glora", GLoRAModule)
    # A definition rather than a calculation; LyCORIS' module takes the base's own weight apart.
    tensors = {}
    for path, base in bases.items():
        spelling = "lora_unet_" + path.replace(".", "_")
        for part, ending in (("weight", "diff"), ("bias", "diff_b")):
            value = getattr(base, part)
            if value is not None:
                tensors[f"{spelling}.{ending}"] = torch.randn_like(value)
                suffix = "" if part == "weight" else ".bias"
                numbers[f"full/unet.{path}{suffix}"] = tensors[f"{spelling}.{ending}"].clone()
    save_file(tensors, folder / "full.safetensors")
    lycoris_file("ia3", IA3Module)
    lycoris_file("ia3_inputs", IA3Module, train_on_input=True)
    lycoris_file("norm", NormModule, only=lambda base: isinstance(base, nn.GroupNorm))

    def decomposed(module, base):
        """As in training, too: the direction is that of the weight with the change added once."""
        return module.apply_weight_decompose(plain(module, base)[0]), None

    def peft_file(name, make, only=lambda base: not isinstance(base, nn.GroupNorm), merged=False):
        paths = [path for path, base in bases.items() if only(base)]
        root = tree(UNet2DConditionModel(), {path: copy.deepcopy(bases[path]) for path in paths})
        model = get_peft_model(root, make(paths))
        marks = ("lora_", "oft_", "hra_", "ia3_")
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "magnitude" in key or "ia3_" in key:
                    parameter.mul_(1 + torch.rand_like(parameter) / 3)
                elif any(mark in key for mark in marks):
                    parameter.copy_(torch.randn_like(parameter) / 8)
        model.eval()
        target = folder / name
        model.save_pretrained(target)
        (target / "README.md").unlink(missing_ok=True)
        written = json.loads((target / "adapter_config.json").read_text())
        for key in ("target_modules", "feedforward_modules"):
            if isinstance(written.get(key), list):
                written[key].sort()
        (target / "adapter_config.json").write_text(json.dumps(written, indent=1) + "\n")
        if merged:
            model.merge_adapter()
        for path in paths:
            layer = model.base_model.model.get_submodule(path)
            if merged:
                note(name, path, bases[path], layer.base_layer.weight)
            else:
                note(name, path, bases[path], *effective_of(layer, bases[path]))

    def effective_of(layer, base):
        if isinstance(base, nn.Conv2d):
            layer.base_layer.padding = (0, 0)
            return effective(layer, layer.base_layer)
        return effective(layer, base)

    linear = lambda base: isinstance(base, nn.Linear)
    peft_file("dora_peft", lambda paths: LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=paths),
              only=linear)
    peft_file("oft_peft", lambda paths: OFTConfig(oft_block_size=4, r=0, use_cayley_neumann=True,
                                                  target_modules=paths), only=linear)
    peft_file("hra_peft", lambda paths: HRAConfig(r=4, target_modules=paths, init_weights=False), only=linear)
    peft_file("ia3_peft", lambda paths: IA3Config(target_modules=paths, feedforward_modules=[
        f"{BLOCK}.attn1.to_out.0"]), only=linear)
    # Behind all others, so that theirs stay the same numbers.
    peft_file("adalora_peft", lambda paths: AdaLoraConfig(
        init_r=4, target_r=4, lora_alpha=6, total_step=10, target_modules=paths), only=linear)
    lycoris_file("dora_loha", LohaModule, weight_decompose=True, wd_on_out=True,
                 weight_of=decomposed)
    lycoris_file("dora_lokr", LokrModule, weight_decompose=True, wd_on_out=True, dim=2, factor=2,
                 weight_of=decomposed)

    def oft(**options):
        return lambda paths: OFTConfig(oft_block_size=4, r=0, target_modules=paths, **options)

    # Merged, because the layer of a 3 x 3 convolution adds up what its windows see twice: no weight does that.
    conv = lambda base: isinstance(base, nn.Conv2d)
    peft_file("oft_peft_convs", oft(), only=conv, merged=True)
    peft_file("oft_peft_shared", oft(block_share=True), merged=True)
    peft_file("oft_peft_exact", oft(use_cayley_neumann=False), merged=True)
    peft_file("oft_peft_bounded", oft(coft=True, eps=0.9, num_cayley_neumann_terms=7), merged=True)
    glora_old(folder, bases, numbers)
    tlora(folder, bases, numbers)
    oft_onetrainer(folder, bases, numbers)
    save_file({k: v.contiguous() for k, v in numbers.items()}, HERE / "algorithms.safetensors")


def glora_old(folder, bases, numbers, rank=4, alpha=2.5):
    """W a2 a1 + b2 b1, where a2 a1 mixes the inputs of each tap."""
    tensors = {}
    for path, base in bases.items():
        if isinstance(base, nn.GroupNorm):
            continue
        weight = base.weight.detach().double().numpy()
        outputs, inputs, *kernel = weight.shape
        ones = [1] * len(kernel)
        shapes = {"a1": [rank, inputs, *ones], "a2": [inputs, rank, *ones],
                  "b1": [rank, inputs, *kernel], "b2": [outputs, rank, *ones]}
        parts = {part: torch.randn(shape) / 3 for part, shape in shapes.items()}
        spelling = "lora_unet_" + path.replace(".", "_")
        tensors |= {f"{spelling}.{part}.weight": value for part, value in parts.items()}
        tensors[f"{spelling}.alpha"] = torch.tensor(alpha)
        a1, a2, b1, b2 = (parts[part].double().numpy().reshape(shapes[part][0], -1) for part in shapes)
        of_base = np.einsum("oit,ir,rj->ojt", weight.reshape(outputs, inputs, -1), a2, a1)
        change = alpha / rank * (of_base.reshape(weight.shape) + (b2 @ b1).reshape(weight.shape))
        numbers[f"glora_old/unet.{path}"] = torch.from_numpy(change).float()
    save_file(tensors, folder / "glora_old.safetensors", {"ss_network_module": "lycoris.kohya"})


def tlora(folder, bases, numbers, rank=4):
    """P (λ Q x) - P0 (λ0 Q0 x), which begins as nothing: factors of a random matrix's smallest values."""
    tensors = {}
    for path, base in bases.items():
        if not isinstance(base, nn.Linear):
            continue
        outputs, inputs = base.weight.shape
        p, values, q = torch.linalg.svd(torch.randn(outputs, inputs) / rank, full_matrices=False)
        first = {"p": p[:, -rank:], "lambda": values[None, -rank:], "q": q[-rank:]}
        now = {part: value + torch.randn_like(value) / 3 for part, value in first.items()}

        def call(x, state):
            p, factors, q = (state[part].double() for part in ("p", "lambda", "q"))
            return nn.functional.linear(nn.functional.linear(x, q) * factors, p)

        units = torch.eye(inputs, dtype=torch.float64)
        numbers[f"tlora/unet.{path}"] = (call(units, now) - call(units, first)).T.float()
        block, layer = path.removesuffix(".0").rsplit(".", 1)
        spelling = f"{block}.processor.{layer}_lora"
        for state, names in ((now, "{}_layer"), (first, "base_{}")):
            for part, value in state.items():
                ending = "" if part == "lambda" else ".weight"
                tensors[f"{spelling}.{names.format(part)}{ending}"] = value.contiguous()
    save_file(tensors, folder / "tlora.safetensors", {"format": "pt"})


def oft_onetrainer(folder, bases, numbers, side=4):
    """R = I + 2 Q + 2 Q² + 2 Q³ + Q⁴ in blocks of inputs: x R for linear layers, W R for convolutions."""
    tensors = {}
    for path, base in bases.items():
        if isinstance(base, nn.GroupNorm):
            continue
        weight = base.weight.detach().double()
        rows = weight.reshape(weight.shape[0], -1)
        blocks = rows.shape[1] // side
        values = torch.randn(blocks, side * (side - 1) // 2) / 8
        q = torch.zeros(blocks, side, side, dtype=torch.float64)
        above = torch.triu_indices(side, side, 1)
        q[:, above[0], above[1]] = values.double()
        q = q - q.transpose(1, 2)
        power = torch.linalg.matrix_power
        turn = torch.block_diag(*(torch.eye(side) + 2 * q + 2 * power(q, 2) + 2 * power(q, 3) + power(q, 4)))
        if isinstance(base, nn.Linear):
            units = torch.eye(rows.shape[1], dtype=torch.float64)
            turned = nn.functional.linear(units @ turn, rows).T
        else:
            turned = rows @ turn
        numbers[f"oft_onetrainer/unet.{path}"] = (turned - rows).reshape(weight.shape).float()
        tensors["lora_unet_" + path.replace(".", "_") + ".oft_R.weight"] = values
    save_file(tensors, folder / "oft_onetrainer.safetensors", {"ot_branch": "master", "ot_revision": "1"})


if __name__ == "__main__":
    main()
    algorithms()
