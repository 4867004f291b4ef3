//! What must hold whatever the numbers are: the laws of stacks, of repetition, and of stopping.
//!
//! Bits are compared, never closeness: a law that holds nearly does not hold.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor, safetensors};
use engine::{
    AdapterUse, DeviceId, Engine, Error, Output, Phase, Precision, Progress, Request,
    adapter::curve::{Curve, Fade, Keyframe},
    sample::{SAMPLERS, denoiser::Prediction, schedule::SCHEDULES},
    testing::{
        Dice, adapter, apart, generate, repository, request, tensors, write, write_adapter,
        write_folder, write_single_file,
    },
};
use tempfile::TempDir;

/// The tiny model with three adapters for it.
struct Studio {
    folder: TempDir,
    engine: Engine,
}

impl Studio {
    fn new() -> Studio {
        let folder = tempfile::tempdir().unwrap();
        write_folder("tiny", &folder.path().join("model"));
        for name in ["a", "b", "c"] {
            write_adapter("tiny", name, &folder.path().join(format!("{name}.safetensors")));
        }
        Studio { folder, engine: open(None) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A stack, by the adapters' letters.
    fn stack(&self, weights: &[(&str, f64)]) -> Request {
        let adapters = weights
            .iter()
            .map(|(name, weight)| adapter(&self.file(&format!("{name}.safetensors")), *weight))
            .collect();
        Request { adapters, steps: 2, ..request(&self.file("model")) }
    }

    fn bits(&mut self, request: &Request) -> Bits {
        bits(&generate(&mut self.engine, request).unwrap())
    }
}

fn open(threads: Option<usize>) -> Engine {
    Engine::open(DeviceId::Cpu, threads).unwrap()
}

/// Everything of an output that depends on numbers, to the last bit.
type Bits = (Vec<u32>, Vec<u32>, Vec<u8>);

fn bits(output: &Output) -> Bits {
    let of = |tensor: &Tensor| -> Vec<u32> {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    (of(&output.latents), of(&output.conditioning.cond), output.image.pixels.clone())
}

// --- stacks ----------------------------------------------------------------------------------

#[test]
fn weight_0_changes_no_bit() {
    let mut studio = Studio::new();
    let plain = studio.bits(&studio.stack(&[]));
    let stacked = studio.bits(&studio.stack(&[("a", 0.8)]));
    assert!(plain != stacked, "the adapter does something at all");
    assert!(plain.1 != stacked.1, "and to the text encoder too");

    assert!(plain == studio.bits(&studio.stack(&[("a", 0.0)])), "weight 0");
    assert!(plain == studio.bits(&studio.stack(&[("a", -0.0), ("b", 0.0)])), "weight -0");
    assert!(stacked == studio.bits(&studio.stack(&[("b", 0.0), ("a", 0.8)])), "0 beside another");
}

#[test]
fn each_network_has_its_own_weight() {
    let mut studio = Studio::new();
    let plain = studio.bits(&studio.stack(&[]));
    let path = studio.file("a.safetensors");
    let with = |unet_weight, text_encoder_weight| Request {
        adapters: vec![AdapterUse {
            unet_weight,
            text_encoder_weight,
            ..AdapterUse::new(path.clone(), 0.0)
        }],
        ..studio.stack(&[])
    };
    let (unet, text_encoder) = (with(1.0, 0.0), with(0.0, 1.0));
    let unet = studio.bits(&unet);
    assert!(unet.1 == plain.1 && unet.0 != plain.0, "the UNet alone leaves the prompt");
    let text_encoder = studio.bits(&text_encoder);
    assert!(text_encoder.1 != plain.1 && text_encoder.0 != unet.0);
}

/// However a stack came about, its picture is that of an engine which knows nothing else.
#[test]
fn a_hundred_changes_leave_no_trace() {
    let mut studio = Studio::new();
    let one_step = |studio: &Studio, stack: &[_]| Request { steps: 1, ..studio.stack(stack) };
    let plain = studio.bits(&one_step(&studio, &[]));
    let mut dice = Dice(7);
    let mut stack = Vec::new();
    for round in 0..100 {
        dice.change(&mut stack);
        let request = one_step(&studio, &stack);
        let now = studio.bits(&request);
        if round % 10 == 9 {
            let fresh = bits(&generate(&mut open(None), &request).unwrap());
            assert!(now == fresh, "round {round}: {stack:?} differs from a fresh engine");
        }
    }
    assert!(plain == studio.bits(&one_step(&studio, &[])), "the empty stack after all");
}

#[test]
fn order_changes_no_bit() {
    let mut studio = Studio::new();
    let stack = [("a", 0.7), ("b", -0.3), ("c", 1.2)];
    let first = studio.bits(&studio.stack(&stack));
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let moved = order.map(|i| stack[i]);
        assert!(first == studio.bits(&studio.stack(&moved)), "{moved:?}");
        let fresh = bits(&generate(&mut open(None), &studio.stack(&moved)).unwrap());
        assert!(first == fresh, "{moved:?} in a fresh engine");
    }
}

/// Another weight of any adapter of a stack is noticed, wherever it stands.
#[test]
fn each_slider_of_a_stack_is_heard() {
    let mut studio = Studio::new();
    let mut stack = [("a", 0.7), ("b", -0.3), ("c", 1.2)];
    let mut before = studio.bits(&studio.stack(&stack));
    for at in 0..stack.len() {
        stack[at].1 += 0.125;
        let now = studio.bits(&studio.stack(&stack));
        assert!(now != before, "{stack:?}");
        assert!(now == bits(&generate(&mut open(None), &studio.stack(&stack)).unwrap()));
        before = now;
    }
}

/// The same file twice counts with the sum of its weights.
#[test]
fn an_adapter_and_its_negative_cancel() {
    let mut studio = Studio::new();
    let plain = studio.bits(&studio.stack(&[]));
    assert!(plain == studio.bits(&studio.stack(&[("a", 0.75), ("a", -0.75)])));
    let one = studio.bits(&studio.stack(&[("a", 0.75)]));
    assert!(one == studio.bits(&studio.stack(&[("a", 0.5), ("a", 0.25)])));
}

/// A curve that is 1 throughout is none, one that is 0 throughout is no adapter, and what was painted for
/// one step is gone with the picture.
#[test]
fn a_curve_leaves_no_trace() {
    let mut studio = Studio::new();
    let over = |studio: &Studio, curve: Curve| {
        let mut request = Request { steps: 4, ..studio.stack(&[("a", 0.8), ("b", 0.3)]) };
        request.adapters[0].over_steps = curve;
        request.adapters[0].text_encoder_weight = 0.0;
        request
    };
    let frame = |at, factor| Keyframe { at, factor, fade: Fade::Hold };
    let plain = over(&studio, Curve::default());
    let expected = studio.bits(&plain);
    assert!(expected == studio.bits(&over(&studio, Curve::new(vec![frame(0.5, 1.0)]))));
    let without = Request { steps: 4, ..studio.stack(&[("b", 0.3)]) };
    assert!(
        studio.bits(&without) == studio.bits(&over(&studio, Curve::new(vec![frame(0.0, 0.0)])))
    );
    let late = over(&studio, Curve::between(Some(3), None, 4));
    let painted = studio.bits(&late);
    assert!(painted != expected);
    assert!(expected == studio.bits(&plain), "the weights of the last step are gone");
    assert!(painted == studio.bits(&late), "and come back");
    assert!(painted == bits(&generate(&mut open(None), &late).unwrap()), "in a fresh engine");

    // One that is stopped in the midst leaves an engine that goes on.
    let mut watch = |progress: Progress<'_>| match (progress.phase, progress.done) {
        (Phase::Sample, 3) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    assert!(matches!(studio.engine.generate(&late, &mut watch), Err(Error::Cancelled)));
    assert!(expected == studio.bits(&plain));
}

/// An unchanged stack makes nothing again, and a slider only what its adapter acts on.
#[test]
fn a_slider_costs_the_modules_of_its_adapter() {
    let mut studio = Studio::new();
    let mut factors = safetensors::load(studio.file("b.safetensors"), &Device::Cpu).unwrap();
    factors.retain(|name, _| name.starts_with("lora_unet_"));
    write(&factors, &studio.file("unet.safetensors"));

    // Everything but the encoder of the VAE, which only img2img needs.
    let all = tensors("tiny").into_keys().filter(|name| name.ends_with(".weight"));
    let all =
        all.filter(|name| !name.starts_with("vae.encoder.") && *name != "vae.quant_conv.weight");
    // Four attentions of eight matrices in the UNet, three layers of four in the text encoder.
    let (unet, text_encoder) = (4 * 8, 3 * 4);
    let rest = all.count() - unet - text_encoder;
    for (stack, loaded, patched) in [
        ([("a", 0.5), ("unet", 0.5)], Some(rest), unet + text_encoder),
        ([("a", 0.5), ("unet", 0.5)], None, 0),
        ([("a", 0.6), ("unet", 0.5)], None, unet + text_encoder),
        ([("a", 0.6), ("unet", 0.4)], None, unet),
        ([("unet", 0.4), ("a", 0.6)], None, 0),
        ([("unet", 0.4), ("a", 0.0)], None, unet + text_encoder),
    ] {
        let request = Request { steps: 1, ..studio.stack(&stack) };
        let mut seen = Vec::new();
        let mut watch = |progress: Progress<'_>| {
            if matches!(progress.phase, Phase::Load | Phase::Patch) {
                seen.push((progress.phase, progress.done, progress.total));
            }
            ControlFlow::Continue(())
        };
        studio.engine.generate(&request, &mut watch).unwrap();
        let last = |wanted| seen.iter().rfind(|(phase, ..)| *phase == wanted).copied();
        let load = loaded.map(|made| (Phase::Load, made, made));
        assert_eq!(last(Phase::Load), load, "{stack:?}");
        assert_eq!(last(Phase::Patch), Some((Phase::Patch, patched, patched)), "{stack:?}");
    }
}

/// Base models stay loaded while they fit into the budget; the one that was not used for the longest time
/// goes first, and no pixel depends on it.
#[test]
fn base_models_stay_loaded_within_a_budget() {
    let mut studio = Studio::new();
    for name in ["second", "third"] {
        write_folder("tiny", &studio.file(name));
    }
    let loads = |engine: &mut Engine, model: &str| -> bool {
        let request = Request { steps: 1, ..request(&studio.folder.path().join(model)) };
        let mut loaded = false;
        let mut watch = |progress: Progress<'_>| {
            loaded |= progress.phase == Phase::Load;
            ControlFlow::Continue(())
        };
        engine.generate(&request, &mut watch).unwrap();
        loaded
    };
    let engine = &mut studio.engine;
    assert!(loads(engine, "model") && loads(engine, "second"));
    assert!(!loads(engine, "model") && !loads(engine, "second"), "both fit");

    // Of f32 weights, without those of the text encoder, which rests when the prompt is encoded.
    let elements = |name: &str| -> usize {
        let of = tensors("tiny").into_iter().filter(|(tensor, _)| tensor.starts_with(name));
        of.map(|(_, tensor)| tensor.elem_count()).sum()
    };
    let resting = 4 * (elements("unet.") + elements("vae.decoder."));
    let coming = 4 * (elements("unet.") + elements("text_encoder.") + elements("vae."));
    engine.set_budget(Some((resting + coming) as u64));
    assert!(loads(engine, "third"));
    assert!(!loads(engine, "second"), "it was used after the first");
    assert!(loads(engine, "model"), "it had to go");
    engine.set_budget(Some(0));
    assert!(loads(engine, "model") && loads(engine, "second") && !loads(engine, "second"));
}

/// TAESD as a VAE, in diffusers' names and in its author's numbers; and as a look at the latents, of which no
/// pixel depends.
#[test]
fn taesd_decodes_and_previews() {
    let mut studio = Studio::new();
    let diffusers = studio.file("taesd.safetensors");
    let (decoder, encoder) =
        (studio.file("taesd_decoder.safetensors"), studio.file("e.safetensors"));
    let mut all = HashMap::new();
    let (mut decodes, mut encodes) = (HashMap::new(), HashMap::new());
    for (name, tensor) in tensors("taesd") {
        let name = name.strip_prefix("vae.").unwrap();
        all.insert(name.to_owned(), tensor.clone());
        let (half, rest) = name.split_once(".layers.").unwrap();
        let (number, rest) = rest.split_once('.').unwrap();
        let number: usize = number.parse().unwrap();
        match half {
            "decoder" => decodes.insert(format!("{}.{rest}", number + 1), tensor),
            _ => encodes.insert(format!("{number}.{rest}"), tensor),
        };
    }
    write(&all, &diffusers);
    write(&decodes, &decoder);
    write(&encodes, &encoder);
    let plain = studio.stack(&[]);
    let with = |vae: &Path| Request { vae: Some(vae.to_owned()), ..plain.clone() };
    let tiny = studio.bits(&with(&diffusers));
    assert!(tiny == studio.bits(&with(&decoder)), "in its author's numbers");
    let own = studio.bits(&plain);
    assert!(tiny.0 == own.0 && tiny.2 != own.2, "the same latents, another picture");
    let error = generate(&mut studio.engine, &with(&encoder)).unwrap_err().to_string();
    assert!(error.contains("without a VAE's decoder"), "{error}");

    let request = Request { preview_decoders: vec![diffusers], ..plain };
    let mut sizes = Vec::new();
    let mut watch = |progress: Progress<'_>| {
        let preview = progress.denoised.map(|estimate| estimate.preview().unwrap());
        sizes.extend(preview.map(|image| (image.width, image.height)));
        ControlFlow::Continue(())
    };
    let output = studio.engine.generate(&request, &mut watch).unwrap();
    assert!(bits(&output) == own);
    assert_eq!(sizes, [(48, 64); 2]);
}

/// Weights that were divided to fit into 8 bits, as ComfyUI writes them, are multiplied back.
#[test]
fn scaled_weights_are_multiplied_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_single_file("sd15", &path);
    let request = Request { steps: 2, ..request(&path) };
    let expected = bits(&generate(&mut open(None), &request).unwrap());
    let mut all = safetensors::load(&path, &Device::Cpu).unwrap();
    let name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q";
    let weight = &all[&format!("{name}.weight")];
    // A power of two costs no bit.
    let scaled = (weight * 0.125).unwrap();
    all.insert(format!("{name}.weight"), scaled);
    write(&all, &path);
    assert!(expected != bits(&generate(&mut open(None), &request).unwrap()));
    all.insert(format!("{name}.scale_weight"), Tensor::new(8f32, &Device::Cpu).unwrap());
    write(&all, &path);
    assert!(expected == bits(&generate(&mut open(None), &request).unwrap()));
}

/// A UNet alone, with or without the names' prefix, makes with another's text encoders and VAE the picture
/// that the whole makes; one of another family lends nothing.
#[test]
fn a_unet_borrows_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    for model in ["sdxl", "sd15"] {
        write_folder(model, &folder.path().join(model));
    }
    let (whole, unet) = (folder.path().join("sdxl"), folder.path().join("unet.safetensors"));
    fs_err::copy(whole.join("unet/diffusion_pytorch_model.safetensors"), &unet).unwrap();
    let plain = Request { steps: 2, ..request(&whole) };
    let expected = bits(&generate(&mut open(None), &plain).unwrap());
    let borrowed = |lender: &str| Request {
        checkpoint: unet.clone(),
        lender: Some(folder.path().join(lender)),
        ..plain.clone()
    };
    assert!(expected == bits(&generate(&mut open(None), &borrowed("sdxl")).unwrap()));
    let error = generate(&mut open(None), &borrowed("sd15")).unwrap_err().to_string();
    assert!(error.contains("SD 1.x model. Choose one of SDXL"), "{error}");
    let alone = Request { lender: None, ..borrowed("sdxl") };
    let error = generate(&mut open(None), &alone).unwrap_err().to_string();
    assert!(error.contains("no text encoder and no second text encoder and no VAE"), "{error}");
}

/// An embedding inside an adapter is known as long as the adapter is in use.
#[test]
fn an_adapter_brings_its_words() {
    let mut studio = Studio::new();
    let mut factors = safetensors::load(studio.file("a.safetensors"), &Device::Cpu).unwrap();
    let width = tensors("tiny")["text_encoder.text_model.embeddings.token_embedding.weight"]
        .dim(1)
        .unwrap();
    let vector = Tensor::full(0.5f32, (1, width), &Device::Cpu).unwrap();
    factors.insert("bundle_emb.zauberwort.clip_l".to_owned(), vector);
    write(&factors, &studio.file("with.safetensors"));
    let with = |studio: &Studio, name: &str, weight: f64| Request {
        prompt: "a zauberwort".to_owned(),
        ..studio.stack(&[(name, weight)])
    };
    let alone = studio.bits(&with(&studio, "a", 0.5));
    let brought = studio.bits(&with(&studio, "with", 0.5));
    assert!(alone.1 != brought.1, "the word means something now");
    assert!(studio.bits(&with(&studio, "a", 0.0)) == studio.bits(&with(&studio, "with", 0.0)));
}

/// An embedding whose vectors are those of a word says what the word says, in each text encoder; one for
/// other text encoders is left out, with a warning.
#[test]
fn an_embedding_stands_for_its_vectors() {
    let folder = tempfile::tempdir().unwrap();
    // "fox" in CLIP's vocabulary.
    let row = |model: &str, part: &str| -> Tensor {
        let table = format!("{part}.text_model.embeddings.token_embedding.weight");
        tensors(model)[&table].get(3240).unwrap().unsqueeze(0).unwrap()
    };
    let file = |name: &str, vectors: HashMap<String, Tensor>| -> PathBuf {
        let path = folder.path().join(name).join("zauberwort.safetensors");
        std::fs::create_dir(folder.path().join(name)).unwrap();
        write(&vectors, &path);
        path
    };
    let of_sd15 = file("a", [("emb_params".to_owned(), row("sd15", "text_encoder"))].into());
    let of_sdxl = file(
        "b",
        [("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")]
            .map(|(name, part)| (name.to_owned(), row("sdxl", part)))
            .into(),
    );
    for (model, embedding, other) in [("sd15", &of_sd15, &of_sdxl), ("sdxl", &of_sdxl, &of_sd15)] {
        let checkpoint = folder.path().join(model);
        write_folder(model, &checkpoint);
        let mut engine = open(None);
        let mut made = |prompt: &str, embedding: &Path| {
            let embeddings = vec![embedding.to_owned()];
            let prompt = prompt.to_owned();
            let request = Request { prompt, embeddings, steps: 1, ..request(&checkpoint) };
            generate(&mut engine, &request).unwrap()
        };
        let plain = made("a (fox:1.2), a house", other);
        assert!(plain.warnings[0].contains("`zauberwort` was left out"), "{:?}", plain.warnings);
        let called = made("a (Zauberwort:1.2), a house", embedding);
        assert_eq!(called.warnings, [""; 0]);
        assert!(bits(&plain) == bits(&called), "{model}");
        assert!(bits(&plain) != bits(&made("a (Zauberwort:1.2), a house", other)), "{model}");
    }
}

/// One adapter in two spellings.
#[test]
fn spelling_changes_no_bit() {
    let mut engine = open(None);
    let mut with = |name: &str| {
        let path = repository("assets/starter/adapters").join(name);
        let request = Request {
            adapters: vec![adapter(&path, 0.7)],
            steps: 1,
            ..request(&repository("assets/starter/model"))
        };
        bits(&generate(&mut engine, &request).unwrap())
    };
    assert!(with("pixel.safetensors") == with("pixel-diffusers-naming.safetensors"));
}

// --- repetition ------------------------------------------------------------------------------

#[test]
fn the_same_request_gives_the_same_bytes() {
    let mut studio = Studio::new();
    for sampler in SAMPLERS {
        let request = Request { sampler, steps: 3, ..studio.stack(&[("a", 0.5)]) };
        let first = studio.bits(&request);
        assert!(first == studio.bits(&request), "{}: again", sampler.id);
        let other_seed = Request { seed: 4, ..request.clone() };
        assert!(first != studio.bits(&other_seed), "{}: another seed", sampler.id);
    }
}

#[test]
fn threads_change_no_bit() {
    let studio = Studio::new();
    write_folder("sd15", &studio.file("sd15"));
    for model in ["model", "sd15"] {
        // Large enough for the work to be divided.
        let request = Request {
            checkpoint: studio.file(model),
            width: 128,
            height: 192,
            steps: 1,
            ..studio.stack(&[])
        };
        let one = bits(&generate(&mut open(Some(1)), &request).unwrap());
        for threads in [2, 3] {
            let more = bits(&generate(&mut open(Some(threads)), &request).unwrap());
            assert!(one == more, "{model} with {threads} threads");
        }
    }
}

#[test]
fn layout_changes_no_bit() {
    for model in ["sd15", "sd21", "sdxl", "refiner"] {
        layout_changes_no_bit_of(model);
    }
}

fn layout_changes_no_bit_of(model: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (diffusers, original) = (folder.path().join(model), folder.path().join("a.safetensors"));
    write_folder(model, &diffusers);
    write_single_file(model, &original);
    let request = Request { steps: 2, ..request(&diffusers) };
    let first = bits(&generate(&mut open(None), &request).unwrap());
    let single = Request { checkpoint: original.clone(), ..request.clone() };
    assert!(first == bits(&generate(&mut open(None), &single).unwrap()), "a single file");

    // Weights in several files.
    split(&diffusers.join("unet"), "diffusion_pytorch_model");
    let encoder = if model == "refiner" { "text_encoder_2" } else { "text_encoder" };
    split(&diffusers.join(encoder), "model");
    assert!(first == bits(&generate(&mut open(None), &request).unwrap()), "in several files");

    // Either layout's VAE does for the other, and for a model with a VAE of its own.
    for vae in [diffusers.join("vae"), original] {
        let request = Request { vae: Some(vae.clone()), ..request.clone() };
        assert!(first == bits(&generate(&mut open(None), &request).unwrap()), "{vae:?} as VAE");
    }
}

#[test]
fn what_is_predicted_can_be_said() {
    let folder = tempfile::tempdir().unwrap();
    write_folder("sd21", folder.path());
    let request = Request { steps: 2, ..request(folder.path()) };
    let made = |prediction| {
        let request = Request { prediction, ..request.clone() };
        bits(&generate(&mut open(None), &request).unwrap())
    };
    assert!(made(None) == made(Some(Prediction::V)), "its configuration says so");
    assert!(made(None) != made(Some(Prediction::Epsilon)), "somebody knows better");
}

/// Splits the weights of a component into three files with an index.
fn split(folder: &Path, stem: &str) {
    let whole = folder.join(format!("{stem}.safetensors"));
    let tensors = safetensors::load(&whole, &Device::Cpu).unwrap();
    fs_err::remove_file(whole).unwrap();
    let mut parts = vec![HashMap::new(); 3];
    let mut map = serde_json::Map::new();
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), format!("{stem}-0000{}-of-00003.safetensors", i % 3 + 1).into());
        parts[i % 3].insert(name, tensor);
    }
    for (i, part) in parts.iter().enumerate() {
        write(part, &folder.join(format!("{stem}-0000{}-of-00003.safetensors", i + 1)));
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs_err::write(folder.join(format!("{stem}.safetensors.index.json")), index).unwrap();
}

#[test]
fn a_few_steps_of_anything_are_finite() {
    let mut studio = Studio::new();
    for &sampler in SAMPLERS {
        for &schedule in SCHEDULES {
            for steps in [1, 2, 3] {
                let request = Request { sampler, schedule, steps, ..studio.stack(&[]) };
                let made = generate(&mut studio.engine, &request);
                let name = format!("{} {} {steps}", sampler.id, schedule.id);
                let (latents, ..) = bits(&made.unwrap_or_else(|error| panic!("{name}: {error}")));
                assert!(latents.iter().all(|&x| f32::from_bits(x).is_finite()), "{name}");
            }
        }
    }
}

/// Half precision is for memory; the picture stays the same picture.
#[test]
fn half_precision_stays_near_f32() {
    let mut studio = Studio::new();
    let full = Request { steps: 8, ..studio.stack(&[("a", 0.5)]) };
    let reference = generate(&mut studio.engine, &full).unwrap();
    let bits_before = bits(&reference);
    for (precision, limit) in [(Precision::F16, 1e-2), (Precision::Bf16, 1e-1)] {
        let request = Request { precision, ..full.clone() };
        let output = generate(&mut studio.engine, &request).unwrap();
        let apart = apart(&output.latents, &reference.latents);
        assert!(0.0 < apart && apart < limit, "{precision:?}: {apart:e} from f32");
        assert!(output.warnings.is_empty(), "{:?}", output.warnings);
        assert!(bits(&output) == studio.bits(&request), "{precision:?}: again");
        assert!(bits_before == studio.bits(&full), "f32 after {precision:?}");
    }
}

// --- stopping --------------------------------------------------------------------------------

/// Nothing is computed after the watch has said no, wherever that was, and the engine goes on.
#[test]
fn cancelling_takes_effect_at_the_next_look() {
    let mut studio = Studio::new();
    let request = Request { steps: 4, ..studio.stack(&[("a", 0.5)]) };
    let undisturbed = studio.bits(&request);

    let mut seen = 0;
    loop {
        // A fresh engine, so that loading can be stopped too.
        let mut engine = open(None);
        let (stop_at, mut looks) = (seen, 0);
        let mut watch = |_: Progress<'_>| {
            looks += 1;
            if looks > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match engine.generate(&request, &mut watch) {
            Err(Error::Cancelled) => assert_eq!(looks, stop_at + 1, "not asked again"),
            Ok(_) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(undisturbed == bits(&generate(&mut engine, &request).unwrap()), "look {seen}");
        seen += 1;
    }
    assert!(seen > 8, "there were looks at loading, encoding, each step and decoding: {seen}");
}

/// What is done grows from nothing to what was announced; a progress bar never runs back.
#[test]
fn progress_goes_forward() {
    let mut studio = Studio::new();
    let request = studio.stack(&[("a", 0.5)]);
    let mut seen: Vec<(Phase, usize, usize)> = Vec::new();
    let mut watch = |progress: Progress<'_>| {
        seen.push((progress.phase, progress.done, progress.total));
        ControlFlow::Continue(())
    };
    studio.engine.generate(&request, &mut watch).unwrap();
    // The first says that the headers are read, and nothing of how much there is.
    for pair in seen[1..].windows(2) {
        let ((phase, done, total), (next_phase, next_done, next_total)) = (pair[0], pair[1]);
        if phase == next_phase {
            assert!(done < next_done && total == next_total, "{pair:?}");
        } else {
            assert_eq!(next_done, 0, "{pair:?}");
        }
    }
    for phase in [Phase::Load, Phase::Sample] {
        let last = seen.iter().rfind(|(other, ..)| *other == phase).unwrap();
        assert_eq!(last.1, last.2, "{phase:?} ends with everything done");
    }
}

/// Each UNet call is followed by a look, so that cancelling takes one call at most.
#[test]
fn every_unet_call_is_announced() {
    let mut studio = Studio::new();
    for (sampler, calls) in [("euler", 5), ("heun", 9), ("dpmpp_sde", 9), ("unipc", 5)] {
        let request =
            Request { steps: 5, sampler: engine::testing::sampler(sampler), ..studio.stack(&[]) };
        let mut done = Vec::new();
        let mut watch = |progress: Progress<'_>| {
            if let (Phase::Sample, Some(_)) = (progress.phase, progress.denoised) {
                assert_eq!(progress.total, calls, "{sampler}");
                done.push(progress.done);
            }
            ControlFlow::Continue(())
        };
        studio.engine.generate(&request, &mut watch).unwrap();
        assert_eq!(done, (1..=calls).collect::<Vec<_>>(), "{sampler}");
    }
}

#[test]
fn an_adapter_with_nan_is_named() {
    let mut studio = Studio::new();
    let good = studio.file("a.safetensors");
    let mut tensors: HashMap<String, Tensor> = safetensors::load(&good, &Device::Cpu).unwrap();
    let name =
        tensors.keys().filter(|name| name.ends_with("lora_up.weight")).min().unwrap().clone();
    let shape = tensors[&name].dims().to_vec();
    let mut values = vec![0.5f32; shape.iter().product()];
    values[3] = f32::NAN;
    tensors.insert(name.clone(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    write(&tensors, &studio.file("broken.safetensors"));

    let plain = studio.bits(&studio.stack(&[("a", 0.5)]));
    let broken = studio.stack(&[("a", 0.5), ("broken", 0.5)]);
    let error = generate(&mut studio.engine, &broken).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("broken.safetensors"), "{message}");
    assert!(plain == studio.bits(&studio.stack(&[("a", 0.5)])), "the engine goes on");
}
