//! `inspect` says something true about every file, whatever its name.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::Device;
use engine::{
    Error,
    checkpoint::native_size,
    inspect::{Kind, ModelFile, inspect},
    testing::{write_folder, write_single_file},
};
use serde_json::{Map, Value, json};

/// Third-party files, which are not part of the project: in the folder `shared` next to it, or not
/// at all.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(name);
    path.exists().then_some(path)
}

/// A safetensors file of zeros. `tensors`: name, type, shape.
fn write(path: &Path, tensors: &[(String, &str, Vec<usize>)], metadata: Option<&Value>) {
    let mut header = Map::new();
    if let Some(metadata) = metadata {
        header.insert("__metadata__".into(), metadata.clone());
    }
    let mut at = 0;
    for (name, dtype, shape) in tensors {
        let size = match *dtype {
            "I64" => 8,
            "F32" => 4,
            _ => 2,
        };
        let end = at + shape.iter().product::<usize>() * size;
        let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] });
        header.insert(name.clone(), info);
        at = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    fs::write(path, &bytes).unwrap();
    // Zeros that take no space where the file system can leave them out.
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len((bytes.len() + at) as u64).unwrap();
}

/// Name and shape of a tensor.
type Named<'a> = (&'a str, &'a [usize]);

fn tensors(list: &[Named<'_>]) -> Vec<(String, &'static str, Vec<usize>)> {
    list.iter().map(|(name, shape)| ((*name).to_owned(), "F16", shape.to_vec())).collect()
}

#[track_caller]
fn assert_is(answer: &ModelFile, kind: Kind, what: &str) {
    assert_eq!(answer.kind, kind, "{answer}");
    assert!(answer.what.contains(what), "expected `{what}` in: {answer}");
}

fn keymap(name: &str) -> Vec<(String, Vec<usize>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/keymaps");
    fs::read_to_string(folder.join(name))
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| {
            let columns: Vec<_> = line.split('\t').collect();
            let shape = columns[2].split(',').map(|number| number.parse().unwrap()).collect();
            (columns[0].to_owned(), shape)
        })
        .collect()
}

/// A whole checkpoint in the original layout.
fn checkpoint(unet: &str, extra: &[(&str, &[usize])]) -> Vec<(String, &'static str, Vec<usize>)> {
    let unet = keymap(unet)
        .into_iter()
        .map(|(name, shape)| (format!("model.diffusion_model.{name}"), "F16", shape));
    let vae = keymap("vae_kl_f8.tsv")
        .into_iter()
        .map(|(name, shape)| (format!("first_stage_model.{name}"), "F16", shape));
    unet.chain(vae).chain(tensors(extra)).collect()
}

#[test]
fn checkpoints_are_told_by_their_structure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let clip: &[(&str, &[usize])] = &[(
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        &[49408, 768],
    )];
    write(&path, &checkpoint("unet_sd1.tsv", clip), None);
    let answer = inspect(&path).unwrap();
    assert_is(&answer, Kind::BaseModel, "an SD 1.x base model");
    assert!(answer.usable);
    assert_eq!(answer.naming, Some("original (LDM)"));
    assert_eq!(answer.components.len(), 3);
    assert_eq!(answer.components[0].tensors, 686);
    assert_eq!(answer.components[0].parameters, 859_520_964);

    // Without a text encoder and a VAE.
    write(&path, &checkpoint("unet_sd2.tsv", &[]), None);
    let answer = inspect(&path).unwrap();
    assert_is(&answer, Kind::BaseModel, "an SD 2.x base model");

    for (unet, what) in [
        ("unet_sdxl.tsv", "an SDXL base model"),
        ("unet_sdxl_refiner.tsv", "an SDXL refiner base model"),
    ] {
        write(&path, &checkpoint(unet, &[]), None);
        let answer = inspect(&path).unwrap();
        assert_is(&answer, Kind::BaseModel, what);
        // They have no text encoder.
        assert!(!answer.usable);
    }
}

/// Models for inpainting are base models of their family, and say so in either layout.
#[test]
fn inpainting_models_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (file, model) = (folder.path().join("a.safetensors"), folder.path().join("model"));
    write_single_file("inpaint", &file);
    write_folder("inpaint", &model);
    for path in [file, model] {
        let answer = inspect(&path).unwrap();
        assert_is(&answer, Kind::BaseModel, "an SD 1.x base model");
        assert!(answer.usable, "{answer}");
        assert!(answer.notes.iter().any(|note| note.contains("inpainting")), "{answer}");
    }
}

/// Both text encoders are counted, though their tensors have the same names in a folder.
#[test]
fn two_text_encoders_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (file, sdxl) = (folder.path().join("a.safetensors"), folder.path().join("sdxl"));
    write_single_file("sdxl", &file);
    write_folder("sdxl", &sdxl);
    let counts = |path: &Path| {
        let answer = inspect(path).unwrap();
        assert_is(&answer, Kind::BaseModel, "an SDXL base model");
        assert!(answer.usable, "{answer}");
        answer.components.iter().map(|c| (c.name, c.tensors, c.parameters)).collect::<Vec<_>>()
    };
    let components = counts(&file);
    assert_eq!(components, counts(&sdxl));
    let names: Vec<_> = components.iter().map(|component| component.0).collect();
    assert_eq!(names, ["UNet", "text encoder", "second text encoder", "VAE"]);
}

/// SD 2.x predicts noise or velocities, and most files have only their numbers to say which.
#[test]
fn what_sd2_predicts_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    write_single_file("sd21", &path);
    let predicts = |path: &Path| {
        let answer = inspect(path).unwrap();
        assert_is(&answer, Kind::BaseModel, "an SD 2.x base model");
        assert!(answer.usable);
        (answer.prediction.unwrap(), native_size(path).unwrap())
    };
    assert_eq!(predicts(&path), ("v_prediction".to_owned(), 768), "its marker");

    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    tensors.remove("v_pred").unwrap();
    engine::testing::write(&tensors, &path);
    assert_eq!(predicts(&path), ("epsilon".to_owned(), 512), "a bias that varies little");

    let trace = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    let bias = (&tensors[trace] * 2.0).unwrap();
    tensors.insert(trace.to_owned(), bias);
    engine::testing::write(&tensors, &path);
    assert_eq!(predicts(&path), ("v_prediction".to_owned(), 768), "a bias that varies much");
}

#[test]
fn parts_of_models_and_foreign_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let rows: &[(&[Named<'_>], Kind, &str)] = &[
        (
            &[
                ("decoder.conv_in.weight", &[64, 4, 3, 3]),
                ("decoder.mid.block_1.norm1.bias", &[64]),
            ],
            Kind::Component,
            "a VAE with 4 latent channels",
        ),
        (
            &[("decoder.conv_in.weight", &[8, 16, 3, 3]), ("decoder.mid.block_1.norm1.bias", &[8])],
            Kind::Component,
            "a VAE with 16 latent channels",
        ),
        (
            &[("text_model.embeddings.token_embedding.weight", &[16, 1280])],
            Kind::Component,
            "text encoder of width 1280",
        ),
        (&[("emb_params", &[4, 768])], Kind::Embedding, "embedding"),
        (&[("clip_l", &[2, 768]), ("clip_g", &[2, 1280])], Kind::Embedding, "embedding"),
        (
            &[("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", &[8])],
            Kind::OtherModel,
            "a FLUX model",
        ),
        (&[("joint_blocks.0.context_block.attn.qkv.weight", &[8])], Kind::OtherModel, "SD 3"),
        (
            &[("controlnet_cond_embedding.conv_in.weight", &[8]), ("down_blocks.0.x", &[8])],
            Kind::OtherModel,
            "a ControlNet",
        ),
        (
            &[
                ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", &[2, 8]),
                ("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", &[8, 2]),
            ],
            Kind::Adapter,
            "a LoRA adapter for FLUX",
        ),
        (&[("something.else", &[8])], Kind::Other, "unknown kind"),
    ];
    for (list, kind, what) in rows {
        write(&path, &tensors(list), None);
        assert_is(&inspect(&path).unwrap(), *kind, what);
    }
}

#[test]
fn adapters_are_described() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let attention = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k";
    let list = tensors(&[
        (&format!("{attention}.lora_down.weight"), &[4, 768]),
        (&format!("{attention}.lora_up.weight"), &[640, 4]),
        ("lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight", &[8, 320, 3, 3]),
        ("lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight", &[320, 8, 1, 1]),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lokr_w1", &[2, 2]),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lokr_w2", &[2, 2]),
    ]);
    let metadata = json!({
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_tag_frequency": "{\"a\": {\"often\": 3, \"seldom\": 1}}",
    });
    write(&path, &list, Some(&metadata));
    let answer = inspect(&path).unwrap();
    assert_is(&answer, Kind::Adapter, "a LoCon and LoKr adapter for SD 1.x");
    let family = answer.family.as_ref().unwrap();
    assert_eq!(family.name, Some("SD 1.x"));
    assert!(family.contradiction.as_ref().is_some_and(|text| text.contains("SDXL")));
    let adapter = answer.adapter.as_ref().unwrap();
    assert_eq!(adapter.rank, Some((4, 8)));
    assert_eq!(adapter.trigger_words, ["often"]);
    assert_eq!(adapter.modules.get("UNet"), Some(&2));
    assert_eq!(adapter.modules.get("text encoder"), Some(&1));
    assert_eq!(answer.naming, Some("kohya"));
    assert!(answer.usable && !answer.to_string().contains("not supported"), "{answer}");
}

#[test]
fn other_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let rows: &[(&[u8], Kind, &str)] = &[
        (b"", Kind::Other, "an empty file"),
        (b"<!DOCTYPE html><html></html>", Kind::Other, "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", Kind::Other, "a git-LFS pointer"),
        (b"just a text", Kind::Other, "a text file"),
        (b"{\"_class_name\": \"UNet2DConditionModel\"}", Kind::Configuration, "UNet2DCondition"),
        (b"{\"peft_type\": \"LORA\", \"r\": 4}", Kind::Configuration, "PEFT adapter (LoRA"),
        (b"{\"a\": {\"shape\": [1], \"dtype\": \"F32\"}}", Kind::Configuration, "a list of 1 ten"),
        (b"{not json", Kind::Other, "a text that starts like JSON"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x02\0\0\0\x03\0", Kind::Picture, "512 × 768"),
        (b"GGUF\x03\0\0\0\0", Kind::OtherModel, "a GGUF file"),
        (b"\x80\x02]q\x00.", Kind::Other, "a Python pickle that PyTorch did not write"),
        (b"\x80\x02]q\x00", Kind::Pickle, "a Python pickle, as older versions of PyTorch write"),
        (
            b"PK\x03\x04 nothing",
            Kind::Pickle,
            "a zip archive, as PyTorch writes them, that is damag",
        ),
        (&zip("a/data.txt", b""), Kind::Other, "a zip archive without a `data.pkl`"),
        (&[0xfe; 100], Kind::Other, "an unknown format"),
    ];
    for (bytes, kind, what) in rows {
        fs::write(&path, bytes).unwrap();
        assert_is(&inspect(&path).unwrap(), *kind, what);
    }
}

/// What is in a file -> what is said of it, and what it is for.
const OTHERS: &[(&[&str], &str, &str)] = &[
    (&["control_model.input_hint_block.0.weight"], "a ControlNet", "guides"),
    (&["input_hint_block.0.weight", "zero_convs.0.0.weight"], "a ControlNet", "guides"),
    (&["controlnet_cond_embedding.conv_in.weight", "conv_in.weight"], "a ControlNet", "guides"),
    (
        &["controlnet_blocks.0.weight", "single_transformer_blocks.0.norm.linear.weight"],
        "a ControlNet",
        "guides",
    ),
    (
        &["conv_in.weight", "body.0.block1.weight", "body.2.in_conv.weight"],
        "a T2I-Adapter",
        "guides",
    ),
    (&["adapter.conv_in.weight", "adapter.body.0.resnets.0.block1.weight"], "a T2I-Adapter", ""),
    (&["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "an IP-Adapter", "a picture"),
    (
        &["image_proj.proj.0.weight", "ip_adapter.0.to_q_lora.down.weight"],
        "an IP-Adapter",
        "a picture",
    ),
    (
        &["conv_first.weight", "body.0.rdb1.conv1.weight", "conv_up1.weight"],
        "an upscaler (Real-ESRGAN)",
        "enlarges",
    ),
    (
        &["params_ema.conv_first.weight", "params_ema.body.0.rdb1.conv1.weight", "params.x"],
        "an upscaler (Real-ESRGAN)",
        "",
    ),
    (&["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"], "an upscaler (ESRGAN)", ""),
    (&["conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight"], "an upscaler (ESRGAN)", ""),
    (
        &["body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight", "body.2.bias"],
        "an upscaler (compact Real-ESRGAN)",
        "",
    ),
    (
        &[
            "conv_first.weight",
            "patch_embed.norm.weight",
            "layers.0.residual_group.blocks.0.attn.qkv.weight",
        ],
        "an upscaler (SwinIR)",
        "enlarges",
    ),
    (
        &[
            "conv_first.weight",
            "layers.0.residual_group.blocks.0.conv_block.cab.0.weight",
            "layers.0.residual_group.overlap_attn.qkv.weight",
        ],
        "an upscaler (HAT)",
        "",
    ),
    (
        &["before_RG.1.weight", "layers.0.blocks.0.attn.attns.0.pos.pos_proj.weight"],
        "an upscaler (DAT)",
        "enlarges",
    ),
    (&["encoder.layers.0.weight", "encoder.layers.1.conv.0.weight"], "a TAESD", "small VAE"),
    (&["1.weight", "3.conv.0.weight", "3.conv.2.bias", "6.weight"], "a TAESD", "small VAE"),
    (&["model.diffusion_model.double_blocks.0.img_mod.lin.weight"], "a FLUX model", ""),
    (&["single_transformer_blocks.0.proj_mlp.weight"], "a FLUX model", ""),
    (&["model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight"], "an SD 3 model", ""),
    (
        &["pos_embed.proj.weight", "transformer_blocks.0.attn.add_q_proj.weight"],
        "a transformer model (SD 3",
        "",
    ),
    (
        &["blocks.0.cross_attn.k.weight", "patch_embedding.weight", "head.modulation"],
        "a Wan model",
        "videos",
    ),
    (
        &["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"],
        "a language model",
        "writes texts",
    ),
    (&["tok_embeddings.weight", "layers.0.attention.wq.weight"], "a language model", ""),
    (&["transformer.h.0.attn.c_attn.weight", "transformer.wte.weight"], "a language model", ""),
    (
        &["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"],
        "a T5 text encoder",
        "prompts",
    ),
    (
        &["vision_model.embeddings.class_embedding", "visual_projection.weight"],
        "a CLIP vision model",
        "reads pictures",
    ),
    (&["visual.conv1.weight", "visual.proj"], "a CLIP vision model", ""),
    (
        &["vision_model.post_layernorm.bias", "text_model.embeddings.token_embedding.weight"],
        "a CLIP model, for texts and pictures",
        "compares",
    ),
];

/// In safetensors files and in those of PyTorch.
#[test]
fn what_other_models_are_for_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (safe, torch) = (folder.path().join("a.safetensors"), folder.path().join("a.pth"));
    let device = Device::Cpu;
    for (names, what, purpose) in OTHERS {
        let shapes: Vec<Named<'_>> = names.iter().map(|name| (*name, &[2, 2][..])).collect();
        write(&safe, &tensors(&shapes), None);
        let zeros = |name: &&str| {
            let zeros = candle_core::Tensor::zeros((2, 2), candle_core::DType::F32, &device);
            ((*name).to_owned(), zeros.unwrap())
        };
        engine::testing::torch::write_torch(&names.iter().map(zeros).collect(), &torch);
        for path in [&safe, &torch] {
            let answer = inspect(path).unwrap();
            assert_is(&answer, Kind::OtherModel, what);
            assert!(!answer.usable);
            assert!(answer.notes[0].contains(purpose), "{answer}");
            assert_eq!(answer.is_pickle, path == &torch);
        }
    }
    // CLIP's text half alone is a part of models that are loaded.
    let text = tensors(&[("text_model.embeddings.token_embedding.weight", &[16, 768])]);
    write(&safe, &text, None);
    assert_is(&inspect(&safe).unwrap(), Kind::Component, "a CLIP text encoder of width 768");
}

#[test]
fn gguf_files_say_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let start = [&b"GGUF\x03\0\0\0"[..], &[0; 16]].concat();
    let number = [text("general.file_type"), vec![4, 0, 0, 0, 7, 0, 0, 0]].concat();
    let name = [text("general.name"), vec![8, 0, 0, 0], text("Some model")].concat();
    let list = [text("tokens"), vec![9, 0, 0, 0]].concat();
    let of = |name: &str| [text("general.architecture"), vec![8, 0, 0, 0], text(name)].concat();
    for (entries, what) in [
        (vec![of("llama")], "a language model (llama) in a GGUF file"),
        (vec![number.clone(), name.clone(), of("qwen3moe")], "a language model (qwen3moe)"),
        (vec![of("flux")], "a FLUX model in a GGUF file"),
        (vec![number.clone(), of("wan")], "a Wan model in a GGUF file"),
        (vec![of("sd3")], "an SD 3 model in a GGUF file"),
        (vec![of("t5encoder")], "a T5 text encoder in a GGUF file"),
        // None is named where it would be looked for.
        (vec![list, of("llama")], "a GGUF file"),
        (vec![name.clone()], "a GGUF file"),
        (vec![of("\u{1b}[31m")], "a GGUF file"),
        (vec![u64::MAX.to_le_bytes().to_vec()], "a GGUF file"),
    ] {
        let whole = [start.clone(), entries.concat()].concat();
        fs::write(&path, &whole).unwrap();
        let answer = inspect(&path).unwrap();
        assert_is(&answer, Kind::OtherModel, what);
        assert!(!answer.what.contains('('.to_string().as_str()) || what.contains('('), "{answer}");
        for end in 4..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            assert_is(&inspect(&path).unwrap(), Kind::OtherModel, "GGUF");
        }
    }
}

/// A zip archive with one member that is stored as it is.
fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    let word = |number: usize| (number as u32).to_le_bytes();
    let half = |number: usize| (number as u16).to_le_bytes();
    let sizes = [word(content.len()), word(content.len())].concat();
    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend([0; 14]);
    zip.extend([&sizes[..], &half(name.len()), &half(0), name.as_bytes(), content].concat());
    let directory = zip.len();
    zip.extend(b"PK\x01\x02");
    zip.extend([0; 16]);
    zip.extend([&sizes[..], &half(name.len())].concat());
    zip.extend([0; 16]);
    zip.extend(name.as_bytes());
    let size = zip.len() - directory;
    zip.extend(b"PK\x05\x06");
    zip.extend([0; 8]);
    zip.extend([&word(size)[..], &word(directory), &half(0)].concat());
    zip
}

#[test]
fn pickles_are_looked_at_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    // `{"string_to_param": os.system("…")}` in protocol 4, and what it would run.
    let mut pickle = b"\x80\x04}\x8c\x0fstring_to_param\x8c\x02os\x8c\x06system\x93".to_vec();
    let target = folder.path().join("made");
    let command = format!("touch {}", target.display());
    pickle.extend([&b"X"[..], &(command.len() as u32).to_le_bytes(), command.as_bytes()].concat());
    pickle.extend(b"\x85Rs.");
    for (bytes, container) in [(pickle.clone(), "Python"), (zip("a/data.pkl", &pickle), "zip")] {
        fs::write(&path, &bytes).unwrap();
        let answer = inspect(&path).unwrap();
        assert!(answer.what.contains(container), "{answer}");
        assert!(!target.exists());
    }
    // With PyTorch's own functions beside it, the strange one is pointed out.
    let torch = [&b"ctorch\nFloatStorage\n"[..], &pickle].concat();
    fs::write(&path, zip("a/data.pkl", &torch)).unwrap();
    let answer = inspect(&path).unwrap();
    assert_is(&answer, Kind::Pickle, "a zip archive, as PyTorch writes them, that is refused");
    assert!(answer.to_string().contains("asks for `os.system`"), "{answer}");
    assert!(!target.exists());

    // Lengths that reach beyond the end, lists of members that are none.
    let whole = zip("a/data.pkl", &torch);
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        inspect(&path).unwrap();
    }
}

#[test]
fn pytorch_files_are_told_as_others_are() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pickles");
    for (name, kind, what) in [
        ("a1111.pt", Kind::Embedding, "a textual-inversion embedding"),
        ("learned_embeds.bin", Kind::Embedding, "a textual-inversion embedding"),
        ("list.pt", Kind::Embedding, "a textual-inversion embedding"),
        ("emb2.pt", Kind::Embedding, "a textual-inversion embedding"),
        ("bare.pt", Kind::Other, "a single tensor [1, 7, 8] without a name"),
        ("unnamed.pt", Kind::Adapter, "a LoRA adapter"),
        ("zip.pt", Kind::Other, "a PyTorch file of an unknown kind"),
    ] {
        assert_is(&inspect(&fixtures.join(name)).unwrap(), kind, what);
    }
    let mut answer = inspect(&fixtures.join("a1111.pt")).unwrap();
    assert_eq!(answer.family.as_ref().unwrap().name, Some("SD 1.x"));
    assert_eq!(answer.metadata["name"], "sketch");
    answer.hash().unwrap();
    assert!(answer.hashes.is_some());
    // What cannot be opened has no hashes, and that is no error.
    let mut refused = inspect(&fixtures.join("hostile_system.pt")).unwrap();
    refused.hash().unwrap();
    assert!(refused.hashes.is_none());
}

#[test]
fn a_damaged_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    write(&path, &tensors(&[("a", &[4])]), None);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(inspect(&path), Err(Error::Damaged { .. })));
    assert!(matches!(inspect(&folder.path().join("no such file")), Err(Error::Io(_))));
}

#[test]
fn hashes_are_taken_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let metadata = json!({ "sshs_model_hash": "e3b0c44298fc1c149afbf4c8996fb924" });
    write(&path, &tensors(&[("emb_params", &[1, 2])]), Some(&metadata));
    let mut answer = inspect(&path).unwrap();
    assert!(answer.hashes.is_none());
    answer.hash().unwrap();
    let hashes = answer.hashes.as_ref().unwrap();
    // SHA-256 of four zero bytes.
    assert_eq!(hashes.auto_v3, "df3f619804a9");
    assert!(hashes.sha256.starts_with(&hashes.auto_v2));
    assert_eq!(hashes.stored_matches, Some(false));
}

#[test]
fn the_starter_is_known() {
    let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/starter");
    let answer = inspect(&starter.join("model")).unwrap();
    assert_is(&answer, Kind::BaseModel, "an SD 1.x base model in a diffusers folder");
    assert!(answer.usable);
    assert_eq!(answer.prediction.as_deref(), Some("v_prediction"));
    for (name, what) in [
        ("ink", "a LoCon adapter for SD 1.x"),
        ("pixel-diffusers-naming", "a LoCon adapter for SD 1.x"),
        ("watercolor", "a LoHa adapter for SD 1.x"),
    ] {
        let answer = inspect(&starter.join(format!("adapters/{name}.safetensors"))).unwrap();
        assert_is(&answer, Kind::Adapter, what);
        assert!(answer.usable);
        assert_eq!(answer.family.as_ref().unwrap().context, Some(256));
    }
}

/// Path below the folder of third-party files, kind, part of what is said.
const FILES: &[(&str, Kind, &str)] = &[
    ("lora/simo_sd15_analog_svd_rank4.safetensors", Kind::Adapter, "a LoRA adapter for SD 1.x"),
    ("lora/simo_sd15_lora_disney.safetensors", Kind::Adapter, "a LoRA adapter for SD 1.x"),
    ("lora/smart_falcon_16_lokr.safetensors", Kind::Adapter, "a LoKr adapter for SD 1.x"),
    ("lora/diffusers_current_sd15_pokemon.safetensors", Kind::Adapter, "a LoRA adapter for SD 1.x"),
    ("lora/simo_sd2_lora_kiriko.text_encoder.pt", Kind::Adapter, "a LoRA adapter for SD 2.x"),
    ("embeddings/a1111_sd21_charturner.pt", Kind::Embedding, "a textual-inversion embedding"),
    ("embeddings/diffusers_birb_learned_embeds.bin", Kind::Embedding, "embedding"),
    ("embeddings/diffusers_frida_10vec_learned_embeds.bin", Kind::Embedding, "embedding"),
    ("embeddings/simo_sd15_lora_kiriko2.ti.pt", Kind::Embedding, "embedding"),
    ("embeddings/EasyNegative.safetensors", Kind::Embedding, "a textual-inversion embedding"),
    ("embeddings/invoke_test_embedding.safetensors", Kind::Embedding, "embedding"),
    ("embeddings/reject_prompt_embeds_1x77x768_cat.pt", Kind::Other, "a single tensor"),
    ("tiny-sd", Kind::BaseModel, "SD 1.x model in a diffusers folder"),
    ("tiny-sd/text_encoder/pytorch_model.bin", Kind::Component, "a CLIP text encoder"),
    ("tiny-sd/vae/diffusion_pytorch_model.bin", Kind::Component, "a VAE with 4 latent channels"),
    ("tiny-sd/text_encoder", Kind::Component, "a CLIP text encoder"),
    ("tokenizer", Kind::Tokenizer, "a tokenizer"),
    ("tokenizer/merges.txt", Kind::Tokenizer, "merges"),
    ("diffusers-config/sd15-dreamshaper-8", Kind::BaseModel, "an SD 1.x model"),
    ("diffusers-config/sd15-dreamshaper-8-inpainting", Kind::BaseModel, "an SD 1.x model"),
    ("diffusers-config/sdxl-juggernaut-v9", Kind::BaseModel, "an SDXL model"),
    ("diffusers-config/sd21-768-v", Kind::BaseModel, "an SD 2.x model"),
    ("diffusers-config/vae-sdxl", Kind::Configuration, "AutoencoderKL"),
    ("peft/regression/lora_mlp", Kind::Adapter, "a LoRA adapter"),
    ("peft/regression/lora_mlp/adapter_model.bin", Kind::Adapter, "a LoRA adapter"),
    ("peft/regression/ia3_mlp/adapter_model.bin", Kind::Adapter, "(IA)³ adapter"),
    ("peft/regression/adalora_mlp/adapter_model.bin", Kind::Adapter, "adapter"),
    ("peft/anime-style/sd15/text_encoder", Kind::Adapter, "a LoRA adapter for SD 1.x"),
    ("peft/anime-style/sd15", Kind::Configuration, "UNet2DConditionModel"),
    ("peft/anime-style/sd15/unet", Kind::Configuration, "UNet2DConditionModel"),
    ("images/a1111_v1.4.0_lora_hashes_axe14.png", Kind::Picture, "a PNG picture"),
    ("images/sdnext_usercomment_utf16be.jpg", Kind::Picture, "a JPEG picture"),
    ("SOURCES.md", Kind::Other, "a text file"),
];

#[test]
fn third_party_files_are_known() {
    let Some(files) = shared("files") else { return };
    for (name, kind, what) in FILES {
        println!("{name}");
        assert_is(&inspect(&files.join(name)).unwrap(), *kind, what);
    }
    let mut answer = inspect(&files.join("lora/smart_falcon_16_lokr.safetensors")).unwrap();
    answer.hash().unwrap();
    assert_eq!(answer.hashes.unwrap().stored_matches, Some(true));
    // And everything else gets an answer.
    let mut folders = vec![files];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let answer = inspect(&path).unwrap();
            println!("{answer}");
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
}

/// Listing of a real file's names and shapes, kind, part of what is said, number of modules.
const LISTINGS: &[(&str, Kind, &str, usize)] = &[
    ("flux_peft_adapter_reject", Kind::Adapter, "a LoRA adapter for FLUX", 381),
    ("sd15_controlnet_canny_reject", Kind::OtherModel, "a ControlNet", 0),
    ("sd15_dreamshaper8_vae", Kind::Component, "a VAE with 4 latent channels", 0),
    ("sd15_kohya_shinkai_makoto_offset", Kind::Adapter, "a LoRA adapter for SD 1.x", 264),
    ("sdxl_juggernaut_v9_text_encoder", Kind::Component, "text encoder of width 768", 0),
    ("sdxl_juggernaut_v9_text_encoder_2", Kind::Component, "text encoder of width 1280", 0),
    ("sdxl_juggernaut_v9_unet", Kind::Component, "the UNet of an SDXL model", 0),
    ("sdxl_juggernaut_v9_vae", Kind::Component, "a VAE with 4 latent channels", 0),
    ("sdxl_kohya_ldm_naming_alien_style", Kind::Adapter, "a LoRA adapter for SDXL", 986),
];

#[test]
fn third_party_listings_are_known() {
    let Some(listings) = shared("files/headers-only") else { return };
    let folder = tempfile::tempdir().unwrap();
    for (name, kind, what, modules) in LISTINGS {
        let text = fs::read_to_string(listings.join(format!("{name}.json"))).unwrap();
        let listing: Map<String, Value> = serde_json::from_str(&text).unwrap();
        let list: Vec<(String, &str, Vec<usize>)> = listing
            .iter()
            .filter(|(_, value)| value.get("shape").is_some())
            .map(|(name, value)| {
                let shape = serde_json::from_value(value["shape"].clone()).unwrap();
                let dtype = if value["dtype"] == "torch.int64" { "I64" } else { "F16" };
                (name.clone(), dtype, shape)
            })
            .collect();
        let path = folder.path().join("a.safetensors");
        write(&path, &list, listing.get("metadata_key_for_stripped_models"));
        let answer = inspect(&path).unwrap();
        println!("{answer}");
        assert_is(&answer, *kind, what);
        let found = answer.adapter.as_ref().map_or(0, |adapter| adapter.modules.values().sum());
        assert_eq!(found, *modules, "{name}");
    }
}
