//! Noise, schedules and samplers against PyTorch, torchsde, k-diffusion and diffusers.
//!
//! `tests/golden/sampling/make.py` writes the golden files, and says where each number comes from.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor, safetensors};
use engine::{
    Result, Rng,
    noise::Noise,
    sample::{
        Denoise, SAMPLERS, Sampler, Spacing,
        denoiser::Prediction,
        schedule::{SCHEDULES, img2img_tail},
        training::{BetaCurve, TrainingSchedule},
    },
};

type Golden = HashMap<String, Tensor>;

fn golden(file: &str) -> Golden {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/sampling");
    safetensors::load(folder.join(file), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn sigmas(tensor: &Tensor) -> Vec<f64> {
    values(tensor).into_iter().map(f64::from).collect()
}

/// The largest difference, relative to the largest value of the reference.
fn apart(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let largest = reference.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let difference = ours.iter().zip(reference).fold(0.0, |max: f32, (a, b)| {
        assert!(a.is_finite());
        max.max((a - b).abs())
    });
    f64::from(difference / largest)
}

/// Three calls of a generator, as the golden files have them.
fn three_calls(rng: Rng, seed: u64, shape: &[usize]) -> Vec<f32> {
    let &[_, a, b, c, d] = shape else { panic!("(calls, *shape), but {shape:?}") };
    let mut noise = Noise::new(rng, seed, (a, b, c, d), &[], None).unwrap();
    let mut all = values(noise.first());
    for _ in 1..shape[0] {
        all.extend(values(&noise.fresh().unwrap()));
    }
    all
}

#[test]
fn noise_has_the_bits_of_torch_randn() {
    let golden = golden("randn.safetensors");
    assert!(golden.len() > 20);
    for (key, reference) in golden {
        let seed = key.split('.').next().unwrap().parse().unwrap();
        let ours = three_calls(Rng::TorchCpu, seed, reference.dims());
        let differing =
            ours.iter().zip(values(&reference)).filter(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(differing.count(), 0, "{key}");
    }
}

#[test]
fn nv_noise_is_that_of_a_cuda_device() {
    let golden = golden("nv.safetensors");
    assert!(golden.len() > 20);
    for (key, reference) in golden {
        let seed = key.split('.').next().unwrap().parse().unwrap();
        let ours = three_calls(Rng::Nv, seed, reference.dims());
        // Logarithm and sine are the system's, in f64: at most the last bit of the f32 differs.
        for (ours, reference) in ours.into_iter().zip(values(&reference)) {
            assert!((ours - reference).abs() <= 1.2e-7 * reference.abs(), "{key}");
        }
    }
}

#[test]
fn brownian_noise_is_that_of_torchsde() {
    let golden = golden("brownian.safetensors");
    let schedule = sigmas(&golden["sigmas"]);
    let stretches = golden["stretches"].to_vec2::<f32>().unwrap();
    for (name, rng) in [("torch-cpu", Rng::TorchCpu), ("nv", Rng::Nv)] {
        for seed in [0, 42, (1 << 53) - 1] {
            let reference = &golden[&format!("{name}.{seed}")];
            let mut noise = Noise::new(rng, seed, (1, 4, 3, 3), &schedule, None).unwrap();
            for (i, stretch) in stretches.iter().enumerate() {
                let ours = noise.brownian(stretch[0].into(), stretch[1].into()).unwrap();
                let apart = apart(&values(&ours), &values(&reference.get(i).unwrap()));
                assert!(apart < 5e-7, "{name} {seed} {stretch:?}: {apart:e}");
            }
        }
    }
}

#[test]
fn training_schedules_are_those_of_diffusers() {
    let golden = golden("training.safetensors");
    for (name, start, end) in [
        ("scaled_linear", 0.00085, 0.012),
        ("linear", 0.0001, 0.02),
        ("squaredcos_cap_v2", 0.0, 0.0),
    ] {
        let curve = BetaCurve::named(name).unwrap();
        let training = TrainingSchedule::new(curve, start, end, 1000).unwrap();
        let reference = values(&golden[&format!("{name}.sigmas")]);
        assert_eq!(training.sigmas().len(), reference.len());
        for (ours, reference) in training.sigmas().iter().zip(&reference) {
            assert!((ours - reference).abs() <= 2e-7 * reference, "{name}: {ours} {reference}");
        }
        let timesteps = sigmas(&golden[&format!("{name}.timesteps")]);
        for (sigma, t) in sigmas(&golden[&format!("{name}.between")]).into_iter().zip(timesteps) {
            let ours = training.sigma_to_t(sigma);
            assert!((ours - t).abs() < 1e-3, "{name} {sigma}: timestep {ours}, not {t}");
        }
    }
}

/// But for the last sigma, which is infinite there.
#[test]
fn a_zero_terminal_schedule_is_that_of_diffusers() {
    let reference = values(&golden("training.safetensors")["zero_terminal.sigmas"]);
    let training = TrainingSchedule::stable_diffusion_zero_terminal();
    assert_eq!(training.sigmas().len(), reference.len());
    for (ours, reference) in training.sigmas().iter().zip(&reference[..999]) {
        // The reference goes over betas in f32 and back.
        assert!((ours - reference).abs() <= 1e-4 * reference, "{ours} {reference}");
    }
    assert!((training.sigma_max() - 4518.765).abs() < 0.01, "{}", training.sigma_max());
}

#[test]
fn schedules_are_those_of_k_diffusion_and_a1111() {
    let golden = golden("schedules.safetensors");
    let training = TrainingSchedule::stable_diffusion();
    for schedule in SCHEDULES {
        for steps in [1, 2, 3, 5, 10, 20, 30, 50, 150] {
            let reference = sigmas(&golden[&format!("{}.{steps}", schedule.id)]);
            let ours = (schedule.sigmas)(&training, steps);
            assert_eq!(ours.len(), reference.len(), "{} {steps}", schedule.id);
            for (ours, reference) in ours.iter().zip(&reference) {
                let apart = (ours - reference).abs();
                assert!(apart <= 5e-7 * reference, "{} {steps}: {ours}", schedule.id);
            }
        }
    }
}

const SEED: u64 = 1234;
const STEPS: usize = 12;
const STRENGTH: f64 = 0.6;
const SHAPE: (usize, usize, usize, usize) = (1, 4, 4, 4);
const PREDICTIONS: [(&str, Prediction); 2] =
    [("epsilon", Prediction::Epsilon), ("v_prediction", Prediction::V)];

/// The network of `make.py`, made a denoiser as a real one is.
fn denoiser(training: &TrainingSchedule, prediction: Prediction) -> impl Denoise {
    move |x: &Tensor, sigma: f64| {
        let scalings = prediction.scalings(sigma);
        let input = scalings.input(x)?;
        let phase = training.sigma_to_t(sigma) / 150.0;
        let output = (input.tanh()? + ((input + phase)?.sin()? * 0.1)?)?;
        scalings.denoised(x, &output)
    }
}

/// Runs a sampler down `full`, or with `init` down its end.
fn run(
    sampler: &Sampler,
    training: &TrainingSchedule,
    prediction: Prediction,
    full: &[f64],
    init: Option<&Tensor>,
) -> Result<Vec<f32>> {
    let sigmas = if init.is_some() { img2img_tail(full, STEPS, STRENGTH) } else { full };
    let mut noise = Noise::new(Rng::TorchCpu, SEED, SHAPE, full, None)?;
    let x = sampler.first_latents(noise.first(), init, sigmas[0])?;
    let mut model = denoiser(training, prediction);
    Ok(values(&(sampler.run)(&mut model, x, sigmas, &mut noise)?))
}

/// The reference's full schedule for a sampler.
fn reference_sigmas(golden: &Golden, sampler: &Sampler, schedule: &str) -> Vec<f64> {
    let key = match sampler.spacing {
        Spacing::Schedule => format!("sigmas.{schedule}"),
        Spacing::WithoutNextToLast => format!("sigmas.discard.{schedule}"),
        Spacing::Own(_) => format!("sigmas.{}", sampler.id),
    };
    sigmas(&golden[&key])
}

#[test]
fn samplers_agree_with_k_diffusion_and_diffusers() -> Result<()> {
    let golden = golden("samplers.safetensors");
    let training = TrainingSchedule::stable_diffusion();
    for (prediction_name, prediction) in PREDICTIONS {
        for sampler in SAMPLERS {
            for schedule in SCHEDULES {
                let key = match sampler.spacing {
                    Spacing::Own(_) => format!("{}.{prediction_name}", sampler.id),
                    _ => format!("{}.{prediction_name}.{}", sampler.id, schedule.id),
                };
                let reference = values(&golden[&key]);
                let theirs = reference_sigmas(&golden, sampler, schedule.id);
                let ours = sampler.sigmas(&training, schedule, STEPS);

                let found = run(sampler, &training, prediction, &theirs, None)?;
                let apart_on_theirs = apart(&found, &reference);
                assert!(apart_on_theirs < 4e-6, "{key}: {apart_on_theirs:e}");

                // Our sigmas are theirs up to the last bit, in which PyTorch's square root and
                // logarithm are not always right. Brownian motion is rough enough to show it: times
                // have six decimals, and 1e-6 is 1e-3 of noise.
                let found = run(sampler, &training, prediction, &ours, None)?;
                let apart_on_ours = apart(&found, &reference);
                let limit = if sampler.id.ends_with("_sde") { 2e-3 } else { 4e-6 };
                assert!(apart_on_ours < limit, "{key} on our sigmas: {apart_on_ours:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn img2img_runs_the_end_of_the_schedule() -> Result<()> {
    let golden = golden("samplers.safetensors");
    let training = TrainingSchedule::stable_diffusion();
    for (prediction_name, prediction) in PREDICTIONS {
        for sampler in SAMPLERS {
            let key = format!("img2img.{}.{prediction_name}", sampler.id);
            let full = reference_sigmas(&golden, sampler, "karras");
            let found = run(sampler, &training, prediction, &full, Some(&golden["init"]))?;
            let apart = apart(&found, &values(&golden[&key]));
            assert!(apart < 4e-6, "{key}: {apart:e}");
        }
    }
    Ok(())
}
