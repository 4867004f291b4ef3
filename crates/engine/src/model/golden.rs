//! The networks against transformers and diffusers, on models whose weights are a formula.
//!
//! The numbers are in `tests/golden/networks/<model>.safetensors`; `make.py` beside them says how
//! they were made.

use std::collections::HashMap;

use candle_core::Tensor;
use kernels::conv::Size;

use crate::{
    Precision,
    architecture::{Heads, States},
    model::{
        clip::{Clip, ClipConfig},
        layers::Layers,
        unet::{UNet, UNetConfig, sinusoid},
        vae::{Decoder, Encoder},
    },
    ops::{Activation, Change, Device, Map, Remains, Role, Stay, Storage, Tokens, Weights},
    testing::{apart, given, golden, tensors},
};

/// A model, and what the references make of it.
struct Case {
    name: &'static str,
    heads: Heads,
    groups: usize,
    vae_groups: usize,
    clip: ClipConfig,
}

const TINY: Case = Case {
    name: "tiny",
    heads: Heads::Count(4),
    groups: 8,
    vae_groups: 4,
    clip: ClipConfig {
        heads: 4,
        activation: Activation::Gelu,
        eps: 1e-5,
        unused_layers: 0,
        states: States::Normalized,
    },
};
const SD15: Case = Case {
    name: "sd15",
    heads: Heads::Count(8),
    groups: 32,
    vae_groups: 32,
    clip: ClipConfig {
        heads: 2,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        unused_layers: 0,
        states: States::Normalized,
    },
};
const SD21: Case = Case {
    name: "sd21",
    heads: Heads::Width(64),
    clip: ClipConfig { activation: Activation::Gelu, ..SD15.clip },
    ..SD15
};

const SDXL: Case = Case {
    name: "sdxl",
    heads: Heads::Width(64),
    clip: ClipConfig {
        heads: 1,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        unused_layers: 0,
        states: States::Penultimate,
    },
    ..SD15
};
const REFINER: Case = Case { name: "refiner", ..SDXL };

/// How far from the reference a network may be, as a part of its answer. The references' own
/// rounding is about a tenth of this.
const TOLERANCE: f64 = 1e-5;

const HOST: Storage = Storage { device: Device::Host, precision: Precision::F32 };

/// The processor, and a card whose kernels the processor runs one thread after the other: for models that
/// are small enough for that.
fn devices() -> [Storage; 2] {
    [HOST, Storage { device: Device::Card(cuda::Card::emulated()), ..HOST }]
}

/// No adapters.
const NONE: Change<'_> = Change { factors: &[], rest: None, key: &[], beside: false };

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The layers of one network.
fn layers(case: &Case, part: &str, storage: &Storage) -> Layers {
    let mut tensors = tensors(case.name);
    tensors.retain(|name, _| name.starts_with(&format!("{part}.")));
    let mut layers = Layers::default();
    for (name, weight) in &tensors {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let bias = tensors.get(&format!("{module}.bias")).map(flat);
        let values = flat(weight);
        let width: usize = weight.dims()[1..].iter().product();
        let rows = |first: usize, to: &mut [f32]| {
            to.copy_from_slice(&values[first * width..][..to.len()]);
            Ok(())
        };
        let form = (Role::of(module), Stay::Always, storage);
        let weights =
            Weights::new(weight.dims(), bias.as_deref(), form, &NONE, Remains::default(), rows);
        let weights = weights.unwrap();
        layers.modules.insert(module.to_owned(), weights);
    }
    layers
}

/// An input `(B, C, H, W)` as a map.
fn map(planes: &Tensor, storage: &Storage) -> Map {
    let (batch, channels, height, width) = planes.dims4().unwrap();
    Map::from_planes(&flat(planes), Size { batch, height, width, channels }, storage).unwrap()
}

fn check(what: &str, ours: Vec<f32>, reference: &Tensor) {
    let ours = Tensor::from_vec(ours, reference.dims(), reference.device()).unwrap();
    let apart = apart(&ours, reference);
    assert!(apart < TOLERANCE, "{what}: {apart:e} from the reference");
}

fn text_encoder(case: &Case, golden: &HashMap<String, Tensor>, storage: &Storage) {
    let layers = layers(case, "text_encoder", storage);
    let clip = Clip::new(&layers.scope("text_encoder"), case.clip).unwrap();
    for (clip_skip, name) in [(1, "text.last"), (2, "text.skip2")] {
        let encoded = clip.encode(&ids(golden), 21, &[], clip_skip, storage).unwrap();
        check(
            &format!("{} {name}", case.name),
            encoded.states.values().unwrap().into_owned(),
            &golden[name],
        );
        assert_eq!(encoded.pooled, None);
    }
}

fn ids(golden: &HashMap<String, Tensor>) -> Vec<u32> {
    let ids: Vec<i64> = golden["text.ids"].to_vec1().unwrap();
    ids.into_iter().map(|id| u32::try_from(id).unwrap()).collect()
}

/// SDXL's two, or the refiner's one.
fn pooled_text_encoders(case: &Case, golden: &HashMap<String, Tensor>, storage: &Storage) {
    let second = ClipConfig { heads: 2, activation: Activation::Gelu, ..case.clip };
    for (part, name, config) in
        [("text_encoder", "text.states", case.clip), ("text_encoder_2", "text2.states", second)]
    {
        let Some(states) = golden.get(name) else { continue };
        let layers = layers(case, part, storage);
        let clip = Clip::new(&layers.scope(part), config).unwrap();
        // Skip 1 is the last but one here too.
        for clip_skip in [1, 2] {
            let encoded = clip.encode(&ids(golden), 21, &[], clip_skip, storage).unwrap();
            let what = format!("{} {name}", case.name);
            check(&what, encoded.states.values().unwrap().into_owned(), states);
            assert_eq!(encoded.pooled.is_some(), part == "text_encoder_2");
            if let Some(pooled) = encoded.pooled {
                check(&format!("{what} pooled"), pooled, &golden["text2.pooled"]);
            }
        }
    }
}

/// With odd sides on the way down, and with one and two chunks of prompt.
fn unet(case: &Case, golden: &HashMap<String, Tensor>, storage: &Storage) {
    let layers = layers(case, "unet", storage);
    let context = case.context();
    let config = UNetConfig { heads: case.heads, groups: case.groups, eps: 1e-5, size_width: 256 };
    let unet = UNet::new(&layers.scope("unet"), context, config).unwrap();
    let x = given("latents", &[2, 4, 12, 10]);
    let pooled = flat(&given("pooled", &[2, 128]));
    let beside: Vec<_> = pooled.chunks(128).map(<[f32]>::to_vec).zip(case.sizes()).collect();
    for (t, length) in [(999.0, 77), (541.375, 154), (0.5, 77)] {
        let prompts = flat(&given(&format!("context {length}"), &[2, length, context]));
        let prompts = Tokens::new(&prompts, 2, context, storage).unwrap();
        let prompts = unet.read(&prompts, &beside).unwrap();
        let waves = unet.waves(t, 2);
        let waves = Tokens::new(&waves, 2, waves.len() / 2, storage).unwrap();
        let out = unet.forward(map(&x, storage), &waves, &prompts).unwrap();
        let name = format!("unet.{t:?}.{length}");
        check(&format!("{} {name}", case.name), out.planes().unwrap(), &golden[&name]);

        let name = format!("sinusoid.{t:?}");
        let width = golden[&name].dims()[1];
        check(&format!("{} {name}", case.name), sinusoid(t, width), &golden[&name]);
    }
}

fn vae(case: &Case, golden: &HashMap<String, Tensor>, storage: &Storage) {
    let layers = layers(case, "vae", storage);
    let picture = (given("picture", &[1, 3, 48, 32]) / 3f64.sqrt()).unwrap();
    let encoder = Encoder::new(&layers.scope("vae"), case.vae_groups).unwrap();
    let moments = encoder.forward(map(&picture, storage)).unwrap().planes().unwrap();
    check(&format!("{} moments", case.name), moments, &golden["vae.moments"]);

    let decoder = Decoder::new(&layers.scope("vae"), case.vae_groups).unwrap();
    let decoded = decoder.forward(map(&given("vae latents", &[1, 4, 3, 5]), storage)).unwrap();
    let decoded = decoded.planes().unwrap();
    check(&format!("{} picture", case.name), decoded, &golden["vae.picture"]);
}

impl Case {
    fn context(&self) -> usize {
        let to_k = "transformer_blocks.0.attn2.to_k.weight";
        let tensors = tensors(self.name);
        let (_, weight) = tensors.iter().find(|(name, _)| name.ends_with(to_k)).unwrap();
        weight.dims()[1]
    }

    /// SIZES and SCORES of make.py.
    fn sizes(&self) -> Vec<Vec<f64>> {
        let first = [100.0, 80.0, 5.0, 7.0];
        let second = [64.0, 48.0, 0.0, 0.0];
        match self.name {
            "sdxl" => vec![
                [first.as_slice(), &[64.0, 48.0]].concat(),
                [second.as_slice(), &[1024.0, 1000.0]].concat(),
            ],
            "refiner" => {
                vec![[first.as_slice(), &[2.5]].concat(), [second.as_slice(), &[6.0]].concat()]
            }
            _ => Vec::new(),
        }
    }
}

#[test]
fn sdxl_networks_agree_with_the_references() {
    for case in [SDXL, REFINER] {
        let golden = golden(&format!("networks/{}.safetensors", case.name));
        pooled_text_encoders(&case, &golden, &HOST);
        unet(&case, &golden, &HOST);
    }
}

#[test]
fn taesd_agrees_with_diffusers() {
    let golden = golden("networks/taesd.safetensors");
    for storage in &devices() {
        let layers = layers(&Case { name: "taesd", ..SD15 }, "vae", storage);
        let picture = (given("picture", &[1, 3, 48, 32]) / 3f64.sqrt()).unwrap();
        let encoder = Encoder::new(&layers.scope("vae"), 1).unwrap();
        assert!(matches!(encoder, Encoder::Tiny(_)));
        let latents = encoder.forward(map(&picture, storage)).unwrap();
        check("taesd latents", latents.planes().unwrap(), &golden["vae.latents"]);
        let decoder = Decoder::new(&layers.scope("vae"), 1).unwrap();
        let decoded = decoder.forward(map(&given("vae latents", &[1, 4, 3, 5]), storage)).unwrap();
        check("taesd picture", decoded.planes().unwrap(), &golden["vae.picture"]);
    }
}

#[test]
fn sd21_networks_agree_with_the_references() {
    let golden = golden("networks/sd21.safetensors");
    text_encoder(&SD21, &golden, &HOST);
    unet(&SD21, &golden, &HOST);
}

#[test]
fn tiny_networks_agree_with_the_references() {
    let golden = golden("networks/tiny.safetensors");
    for storage in devices() {
        text_encoder(&TINY, &golden, &storage);
        unet(&TINY, &golden, &storage);
        vae(&TINY, &golden, &storage);
    }
}

#[test]
fn sd15_networks_agree_with_the_references() {
    let golden = golden("networks/sd15.safetensors");
    text_encoder(&SD15, &golden, &HOST);
    unet(&SD15, &golden, &HOST);
    vae(&SD15, &golden, &HOST);
}
