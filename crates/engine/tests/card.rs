//! Whole pictures on a card: the same as the processor's, and the laws of stacks hold there too.
//!
//! The card is not there: its kernels run on the processor, one thread after the other, which shows that
//! they compute what they should, and nothing about their speed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use engine::{
    AdapterUse, DeviceId, Engine, Output, Precision, Request,
    adapter::curve::{Curve, Fade, Keyframe},
    testing::{adapter, apart, generate, request, tensors, write_adapter, write_folder},
};
use tempfile::TempDir;

const EMULATED: DeviceId = DeviceId::Emulated { refuses: None, memory: None };

/// The tiny model with two adapters, and an engine on the card.
struct Bench {
    folder: TempDir,
    engine: Engine,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        write_folder("tiny", &folder.path().join("model"));
        for name in ["a", "b"] {
            write_adapter("tiny", name, &folder.path().join(name));
        }
        Bench { folder, engine: Engine::open(EMULATED, None).unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn request(&self, stack: &[(&str, f64)], precision: Precision) -> Request {
        let adapters = stack.iter().map(|(name, weight)| adapter(&self.file(name), *weight));
        let (adapters, model) = (adapters.collect(), self.file("model"));
        Request { adapters, steps: 2, width: 64, height: 64, precision, ..request(&model) }
    }

    /// With an adapter that fades away over the steps.
    fn fading(&self, precision: Precision) -> Request {
        let mut request = self.request(&[("a", 0.7)], precision);
        let keyframe = |at: f64, factor: f64| Keyframe { at, factor, fade: Fade::Linear };
        let curve = Curve::new(vec![keyframe(0.0, 1.0), keyframe(1.0, 0.0)]);
        request.adapters[0] = AdapterUse { over_steps: curve, ..request.adapters[0].clone() };
        request
    }

    fn picture(&mut self, request: &Request) -> Output {
        generate(&mut self.engine, request).unwrap()
    }
}

fn on_processor(request: &Request) -> Output {
    generate(&mut Engine::open(DeviceId::Cpu, None).unwrap(), request).unwrap()
}

/// How far a card's latents may be from the processor's, as a part of them: sums in another order in f32,
/// and roundings at other places below.
const TOLERANCES: [(Precision, f64); 3] =
    [(Precision::F32, 1e-5), (Precision::F16, 1e-2), (Precision::Bf16, 5e-2)];

#[test]
fn a_card_makes_the_processors_picture() {
    let mut bench = Bench::new();
    for (precision, tolerance) in TOLERANCES {
        let request = bench.request(&[("a", 0.7), ("b", -0.4)], precision);
        let (ours, reference) = (bench.picture(&request), on_processor(&request));
        let apart = apart(&ours.latents, &reference.latents);
        assert!(apart < tolerance, "{precision:?}: {apart:e}");
        assert!(ours.warnings.is_empty(), "{:?}", ours.warnings);
    }
}

/// What a slider, a switch or a curve leaves behind is what one finds who starts with it.
#[test]
fn changes_of_a_stack_leave_no_trace() {
    let mut bench = Bench::new();
    let precision = Precision::Bf16;
    let plain = bench.request(&[], precision);
    let stacks: Vec<Request> = vec![
        plain.clone(),
        bench.request(&[("a", 0.7), ("b", 0.2)], precision),
        bench.request(&[("a", 0.3), ("b", 0.2)], precision),
        bench.fading(precision),
        bench.request(&[("a", 0.3), ("b", 0.2)], precision),
        plain,
    ];
    for request in &stacks {
        let after_others = bits(&bench.picture(request));
        let mut fresh = Engine::open(EMULATED, None).unwrap();
        assert!(after_others == bits(&generate(&mut fresh, request).unwrap()), "{request:?}");
    }
}

/// Where memory runs out, whenever that is, the picture is made in a smaller way, and is the same.
#[test]
fn full_memory_is_no_failure() {
    let bench = Bench::new();
    let request = Request { steps: 1, ..bench.request(&[("a", 0.7)], Precision::Bf16) };
    let whole = generate(&mut Engine::open(EMULATED, None).unwrap(), &request).unwrap();
    for refused in [0, 700] {
        let device = DeviceId::Emulated { refuses: Some(refused), memory: None };
        let mut engine = Engine::open(device, None).unwrap();
        let made = generate(&mut engine, &request).unwrap();
        assert!(made.warnings[0].starts_with("the card's memory is short"), "{:?}", made.warnings);
        assert!(made.image.pixels == whole.image.pixels, "refused at {refused}");
        let again = generate(&mut engine, &request).unwrap();
        assert!(again.warnings.is_empty() && again.image.pixels == whole.image.pixels);
    }
}

/// The latents, to the last bit.
fn bits(output: &Output) -> Vec<u32> {
    let values: Vec<f32> = output.latents.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// A card with so many bytes of memory.
fn small_card(memory: u64) -> Engine {
    Engine::open(DeviceId::Emulated { refuses: None, memory: Some(memory) }, None).unwrap()
}

/// Where the UNet alone is larger than all of the card, its weights go over at each step, and nothing else
/// changes: the latents are the same to the last bit, also when adapters come, a slider moves or an adapter
/// fades away over the steps. With a little more memory, some of the weights stay.
#[test]
fn a_model_that_is_larger_than_the_card_makes_the_same_latents() {
    let bench = Bench::new();
    let layers = tensors("tiny");
    let layers = layers.iter().filter(|(name, it)| name.starts_with("unet.") && it.rank() > 1);
    let unet = layers.map(|(_, weight)| weight.elem_count() as u64).sum::<u64>() * 4;
    let all = format!("{:.1} MB of the model's weights", unet as f64 / 1e6);
    let requests = [
        bench.request(&[], Precision::F32),
        bench.request(&[("a", 0.7), ("b", 0.2)], Precision::F32),
        bench.request(&[("a", 0.3), ("b", 0.2)], Precision::F32),
        bench.fading(Precision::F32),
    ];
    let requests = requests.map(|request| Request { width: 16, height: 16, ..request });
    let mut roomy = Engine::open(EMULATED, None).unwrap();
    let expected: Vec<Output> =
        requests.iter().map(|request| generate(&mut roomy, request).unwrap()).collect();
    for (memory, goes_over) in [(unet * 2 / 3, true), (unet + unet / 8, false)] {
        let mut small = small_card(memory);
        for (index, (request, expected)) in requests.iter().zip(&expected).enumerate() {
            let made = generate(&mut small, request).unwrap();
            assert!(bits(&made) == bits(expected), "{memory} {request:?}");
            let [warning] = &made.warnings[..] else { panic!("{:?}", made.warnings) };
            assert!(
                warning.starts_with("the card's memory is too small for model and picture"),
                "{warning}"
            );
            // The one that fades, the last, may come to need all of the room: then nothing stays.
            assert!(warning.contains(&all) == goes_over || index == 3, "{warning}");
        }
        let peak = small.peak_card_bytes().unwrap();
        assert!(peak > 0 && peak <= memory, "{peak} of {memory}");
    }
}

/// What was opened in the smaller way for one picture is opened in the usual one for the next that is smaller.
#[test]
fn a_smaller_picture_does_not_pay_for_a_larger_one() {
    let bench = Bench::new();
    let large = Request { steps: 1, ..bench.request(&[], Precision::F32) };
    let small = Request { width: 16, height: 16, ..large.clone() };
    let peak = |request: &Request| {
        let mut roomy = Engine::open(EMULATED, None).unwrap();
        generate(&mut roomy, request).unwrap();
        roomy.peak_card_bytes().unwrap()
    };
    let mut card = small_card((peak(&small) + peak(&large)) / 2);
    for request in [&large, &small, &large] {
        let warnings = generate(&mut card, request).unwrap().warnings;
        assert_eq!(warnings.is_empty(), request.width == 16, "{warnings:?}");
    }
}

/// What no way suffices for is said with what to do, and the next picture is made as if nothing had been.
#[test]
fn a_card_that_is_much_too_small_says_so() {
    let bench = Bench::new();
    let request = Request { steps: 1, ..bench.request(&[("a", 0.7)], Precision::F32) };
    let mut tiny = small_card(50_000);
    for _ in 0..2 {
        let error = generate(&mut tiny, &request).unwrap_err().to_string();
        assert!(error.starts_with("the card's memory is full: "), "{error}");
        assert!(error.contains("Choose a smaller picture or model"), "{error}");
    }

    let mut small = small_card(300_000);
    let error = generate(&mut small, &request).unwrap_err().to_string();
    assert!(error.starts_with("the card's memory is full: "), "{error}");
    let smaller = Request { width: 16, height: 16, ..request };
    let made = generate(&mut small, &smaller).unwrap();
    let roomy = generate(&mut Engine::open(EMULATED, None).unwrap(), &smaller).unwrap();
    assert!(bits(&made) == bits(&roomy));
}

/// How far a card's latents may be from the processor's after as many steps as people take, each of which goes on
/// from the differences of those before. Over three seeds and the processor's ways to compute that were tried,
/// they were 6.5e-7, 1.3e-3 and 7.3e-3 apart at most.
const TOLERANCES_OF_20_STEPS: [(Precision, f64); 3] =
    [(Precision::F32, 5e-6), (Precision::F16, 5e-3), (Precision::Bf16, 3e-2)];

#[test]
fn a_card_and_the_processor_stay_together_for_20_steps() {
    let mut bench = Bench::new();
    for (precision, tolerance) in TOLERANCES_OF_20_STEPS {
        let stack = [("a", 0.7), ("b", -0.4)];
        let request =
            Request { steps: 20, width: 32, height: 32, ..bench.request(&stack, precision) };
        let (ours, reference) = (bench.picture(&request), on_processor(&request));
        let apart = apart(&ours.latents, &reference.latents);
        assert!(apart > 0.0 && apart < tolerance, "{precision:?}: {apart:e}");
    }
}

#[test]
fn a_card_that_is_not_there_is_refused() {
    let error = Engine::open(DeviceId::Cuda(77), None).unwrap_err().to_string();
    assert!(error.starts_with("cannot use cuda:77: "), "{error}");
    assert!(error.ends_with("; use the device `cpu`"), "{error}");
}
