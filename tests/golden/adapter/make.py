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

`modules.json` lists the canonical names and the shapes of the base weights.

Run: python make.py   (seconds). Written with torch 2.x (CPU), peft 0.21.2, lycoris-lora 4.1.3,
safetensors 0.8.
"""

import json
import shutil
from pathlib import Path

import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from peft import LoHaConfig, LoraConfig, get_peft_model
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


class CLIPTextModel(nn.Module):
    pass


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


main()
