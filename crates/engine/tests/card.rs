//! Whole pictures on a card: the same as the processor's, and the laws of stacks hold there too.
//!
//! The card is not there: its kernels run on the processor, one thread after the other, which shows that
//! they compute what they should, and nothing about their speed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use engine::{
    AdapterUse, DeviceId, Engine, Output, Precision, Request,
    adapter::curve::{Curve, Fade, Keyframe},
    testing::{adapter, apart, generate, request, write_adapter, write_folder},
};
use tempfile::TempDir;

const EMULATED: DeviceId = DeviceId::Emulated { refuses: None };

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
    let bits = |output: &Output| -> Vec<u32> {
        let values: Vec<f32> = output.latents.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    let plain = bench.request(&[], precision);
    let mut fading = bench.request(&[("a", 0.7)], precision);
    let keyframe = |at: f64, factor: f64| Keyframe { at, factor, fade: Fade::Linear };
    let curve = Curve::new(vec![keyframe(0.0, 1.0), keyframe(1.0, 0.0)]);
    fading.adapters[0] = AdapterUse { over_steps: curve, ..fading.adapters[0].clone() };
    let stacks: Vec<Request> = vec![
        plain.clone(),
        bench.request(&[("a", 0.7), ("b", 0.2)], precision),
        bench.request(&[("a", 0.3), ("b", 0.2)], precision),
        fading,
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
        let device = DeviceId::Emulated { refuses: Some(refused) };
        let mut engine = Engine::open(device, None).unwrap();
        let made = generate(&mut engine, &request).unwrap();
        assert!(made.warnings[0].starts_with("the card's memory is short"), "{:?}", made.warnings);
        assert!(made.image.pixels == whole.image.pixels, "refused at {refused}");
        let again = generate(&mut engine, &request).unwrap();
        assert!(again.warnings.is_empty() && again.image.pixels == whole.image.pixels);
    }
}

#[test]
fn a_card_that_is_not_there_is_refused() {
    let error = Engine::open(DeviceId::Cuda(77), None).unwrap_err().to_string();
    assert!(error.starts_with("cannot use cuda:77: "), "{error}");
    assert!(error.ends_with("; use the device `cpu`"), "{error}");
}
