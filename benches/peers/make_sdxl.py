"""Random-weight SDXL at its true shapes, in f16: a folder, and the same as a single file.

Some 14 GB on disk; needs 12 GB of memory. The single file has the original names, by the maps of
tests/fixtures/keymaps.
"""
import argparse, json, os, shutil, torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

HERE = os.path.dirname(os.path.abspath(__file__))
ap = argparse.ArgumentParser(); ap.add_argument("out"); a = ap.parse_args(); torch.manual_seed(0)
torch.set_default_dtype(torch.float16)
d = f"{a.out}/sdxl-f16"; os.makedirs(d, exist_ok=True)
clip = dict(vocab_size=49408, max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407)
make = {
    "unet": lambda: UNet2DConditionModel(sample_size=128, in_channels=4, out_channels=4, layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(320, 640, 1280),
        cross_attention_dim=2048, attention_head_dim=(5, 10, 20), transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816),
    "vae": lambda: AutoencoderKL(in_channels=3, out_channels=3, layers_per_block=2, latent_channels=4, sample_size=1024,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), scaling_factor=0.13025, force_upcast=True),
    "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, hidden_act="quick_gelu", projection_dim=768, pad_token_id=49407, **clip)),
    "text_encoder_2": lambda: CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=1280, intermediate_size=5120,
        num_hidden_layers=32, num_attention_heads=20, hidden_act="gelu", projection_dim=1280, pad_token_id=0, **clip)),
}
for name, model in make.items():
    model().save_pretrained(f"{d}/{name}", max_shard_size="100GB")
for name in ("tokenizer", "tokenizer_2"):
    shutil.copytree(f"{a.out}/sd15-f16/tokenizer", f"{d}/{name}", dirs_exist_ok=True)
path = f"{d}/tokenizer_2/special_tokens_map.json"
special = json.load(open(path)); special["pad_token"] = "!"; json.dump(special, open(path, "w"))
path = f"{d}/tokenizer_2/tokenizer_config.json"
config = json.load(open(path)); config["pad_token"] = "!"; json.dump(config, open(path, "w"))
os.makedirs(f"{d}/scheduler", exist_ok=True)
shutil.copy(f"{a.out}/sd15-f16/scheduler/scheduler_config.json", f"{d}/scheduler")
json.dump({"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True,
    "feature_extractor": [None, None], "image_encoder": [None, None], "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]},
    open(f"{d}/model_index.json", "w"), indent=1)

single = {}
def rows(name):
    lines = open(f"{HERE}/../../tests/fixtures/keymaps/{name}.tsv").read().splitlines()[1:]
    return [line.split("\t")[:2] for line in lines]
def part(name):
    file = "model" if name.startswith("text") else "diffusion_pytorch_model"
    return load_file(f"{d}/{name}/{file}.safetensors")
for name, prefix, tensors in (("unet_sdxl", "model.diffusion_model", part("unet")), ("vae_kl_f8", "first_stage_model", part("vae"))):
    for original, diffusers in rows(name):
        tensor = tensors[diffusers]
        if ".mid.attn_1." in original and tensor.dim() == 2: tensor = tensor[:, :, None, None]
        single[f"{prefix}.{original}"] = tensor
prefixed = lambda tensors: {k if k.startswith(("text_model.", "text_projection")) else f"text_model.{k}": v for k, v in tensors.items()}
for name, tensor in prefixed(part("text_encoder")).items():
    single[f"conditioner.embedders.0.transformer.{name}"] = tensor
tensors = prefixed(part("text_encoder_2"))
for original, hf in rows("openclip_bigg_sdxl"):
    to = f"conditioner.embedders.1.model.{original}"
    if original == "text_projection": single[to] = tensors["text_projection.weight"].t().contiguous()
    elif "{q,k,v}" in hf: single[to] = torch.cat([tensors[hf.replace("{q,k,v}", p)] for p in "qkv"])
    elif hf in tensors: single[to] = tensors[hf]
save_file(single, f"{a.out}/sdxl-f16.safetensors")
print(f"wrote {d} and {d}.safetensors")
