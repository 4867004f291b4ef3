//! Whole generations against the references: diffusers, transformers, k-diffusion and LyCORIS.
//!
//! The numbers, and the scripts that made them, are in `tests/golden/networks` and
//! `tests/golden/pictures`. The same calculation in f64 lies about 1e-6 from the references' f32, a few
//! samplers 1e-5; the tolerances leave room for that and for another order of sums, no more. Run with
//! `--nocapture` to see every figure.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and shows its figures"
)]

use std::{collections::HashMap, path::PathBuf};

use candle_core::Tensor;
use engine::{
    AdapterUse, DeviceId, Engine, Image, InitImage, Refiner, Request, Sizes,
    adapter::curve::{Curve, Fade, Keyframe},
    sample::{
        SAMPLERS, Sampler,
        schedule::{SCHEDULES, Schedule},
    },
    testing::{
        adapter, apart, generate, golden, repository, request, sampler, schedule, write_folder,
        write_single_file,
    },
};

/// How far latents may be from the reference, as a part of them.
const TOLERANCE: f64 = 2e-5;

/// The same for pairs where the last bit of a sigma, in which PyTorch's logarithm and square root are
/// not always right, makes a larger difference. On the reference's own sigmas all samplers agree
/// closely; `sampling.rs` shows it.
fn tolerance(sampler: &Sampler, schedule: &Schedule) -> f64 {
    match (sampler.id, schedule.id) {
        // Brownian motion is rough: its times have six decimals, and 1e-6 is 1e-3 of noise.
        ("dpmpp_sde" | "dpmpp_2m_sde" | "dpmpp_3m_sde", _) => 5e-4,
        // Between two pictures for a few steps, where any difference grows a thousandfold. One unit in
        // the last place of the sigmas moves the reference itself by 3e-4.
        ("dpm2_a", "exponential") => 5e-4,
        _ => TOLERANCE,
    }
}

fn engine() -> Engine {
    Engine::open(DeviceId::Cpu, None).unwrap()
}

/// Compares `request` under every sampler and schedule that `golden` knows, as `latents.<pair>` or,
/// where the sampler has its own timesteps, `latents.<sampler>`. Returns how many there were.
///
/// Shows each figure to those who run with `--nocapture`.
fn compare_pairs(golden: &HashMap<String, Tensor>, request: &Request, prefix: &str) -> usize {
    let mut engine = engine();
    let mut far = Vec::new();
    let mut compared = 0;
    for &sampler in SAMPLERS {
        for &schedule in SCHEDULES {
            let pair = format!("{prefix}{}.{}", sampler.id, schedule.id);
            // The schedule does nothing where the sampler has its own.
            let own = format!("{prefix}{}", sampler.id);
            let Some(reference) = golden.get(&pair).or_else(|| golden.get(&own)) else { continue };
            let request = Request { sampler, schedule, ..request.clone() };
            let apart = apart(&generate(&mut engine, &request).unwrap().latents, reference);
            println!("{apart:.1e} {pair}");
            compared += 1;
            if apart.is_nan() || apart > tolerance(sampler, schedule) {
                far.push(format!("{pair}: {apart:.1e}"));
            }
        }
    }
    assert!(far.is_empty(), "far from the reference:\n{}", far.join("\n"));
    compared
}

#[test]
fn every_sampler_with_every_schedule_agrees_on_the_tiny_model() {
    let folder = tempfile::tempdir().unwrap();
    write_folder("tiny", folder.path());
    let golden = golden("networks/tiny.safetensors");
    let compared = compare_pairs(&golden, &request(folder.path()), "latents.");
    assert_eq!(compared, SAMPLERS.len() * SCHEDULES.len(), "a reference for every pair");
}

/// From a folder in diffusers' layout, and from a single file in the original one.
fn whole_pictures_agree(model: &str) {
    let folder = tempfile::tempdir().unwrap();
    let single_file = folder.path().join("model.safetensors");
    write_folder(model, &folder.path().join(model));
    write_single_file(model, &single_file);
    let golden = golden(&format!("networks/{model}.safetensors"));
    for checkpoint in [folder.path().join(model), single_file] {
        let mut engine = engine();
        for pair in ["euler.karras", "dpmpp_2m.karras", "ddim", "unipc"] {
            let (solver, sigmas) = pair.split_once('.').unwrap_or((pair, "normal"));
            let request = Request {
                steps: 5,
                sampler: sampler(solver),
                schedule: schedule(sigmas),
                ..request(&checkpoint)
            };
            let output = generate(&mut engine, &request).unwrap();
            let apart = apart(&output.latents, &golden[&format!("latents.{pair}")]);
            println!("{apart:.1e} {pair}");
            assert!(apart < TOLERANCE, "{pair} of {checkpoint:?}: {apart:e}");
        }
    }
}

#[test]
fn epsilon_prediction_agrees_on_the_structure_of_sd15() {
    whole_pictures_agree("sd15");
}

#[test]
fn velocities_agree_on_the_structure_of_sd21() {
    whole_pictures_agree("sd21");
}

#[test]
fn two_text_encoders_and_sizes_agree_on_the_structure_of_sdxl() {
    for model in ["sdxl", "refiner"] {
        whole_pictures_agree(model);
        let folder = tempfile::tempdir().unwrap();
        write_folder(model, folder.path());
        let request = Request {
            prompt: String::new(),
            negative_prompt: "a fox".into(),
            sizes: Sizes {
                original: Some((768, 512)),
                crop: (8, 16),
                target: Some((1152, 1024)),
                aesthetic_score: 8.0,
                negative_aesthetic_score: 3.0,
            },
            steps: 5,
            sampler: sampler("euler"),
            ..request(folder.path())
        };
        let output = generate(&mut engine(), &request).unwrap();
        let golden = golden(&format!("networks/{model}.safetensors"));
        let apart = apart(&output.latents, &golden["latents.told"]);
        println!("{apart:.1e} {model}, told sizes");
        assert!(apart < TOLERANCE, "{model}, told sizes: {apart:e}");
    }
}

/// A UNet of nine channels, against diffusers: from noise alone, and a half of a picture; the other half
/// stays to the bit.
#[test]
fn inpainting_models_see_mask_and_picture() {
    let folder = tempfile::tempdir().unwrap();
    let single_file = folder.path().join("model.safetensors");
    write_folder("inpaint", &folder.path().join("model"));
    write_single_file("inpaint", &single_file);
    let golden = golden("networks/inpaint.safetensors");
    let mask = (0..48 * 64).map(|i| if i % 48 >= 24 { 255 } else { 0 }).collect();
    let image = formula(48, 64);
    let init = InitImage { image: image.clone(), denoising_strength: 0.75, mask: Some(mask) };
    for checkpoint in [folder.path().join("model"), single_file] {
        let all = Request { steps: 5, sampler: sampler("euler"), ..request(&checkpoint) };
        let half = Request { init: Some(init.clone()), ..all.clone() };
        for (name, request) in [("all", all), ("half", half)] {
            let output = generate(&mut engine(), &request).unwrap();
            let apart = apart(&output.latents, &golden[&format!("latents.{name}")]);
            println!("{apart:.1e} inpainting, {name}");
            assert!(apart < TOLERANCE, "{name} of {checkpoint:?}: {apart:e}");
            if name == "half" {
                let rows = output.image.pixels.chunks(144).zip(image.pixels.chunks(144));
                assert!(rows.clone().all(|(ours, kept)| ours[..72] == kept[..72]));
                assert!(rows.clone().all(|(ours, kept)| ours[72..] != kept[72..]));
            }
        }
    }
}

/// Any model repaints a part, as in A1111: the rest of the latents is the picture's.
#[test]
fn a_mask_keeps_what_it_does_not_cover() {
    let image = formula(128, 128);
    let plain = InitImage { image: image.clone(), denoising_strength: 0.6, mask: None };
    let of = |mask: fn(usize) -> bool| {
        let mask = (0..128 * 128).map(|i| if mask(i % 128) { 255 } else { 0 }).collect();
        let init = Some(InitImage { mask: Some(mask), ..plain.clone() });
        generate(&mut engine(), &Request { init, ..starter() }).unwrap()
    };
    let all = generate(&mut engine(), &Request { init: Some(plain.clone()), ..starter() }).unwrap();
    let everything = of(|_| true);
    assert!(apart(&everything.latents, &all.latents) < 1e-6);
    let nothing = of(|_| false);
    assert!(nothing.image == image);
    let right = of(|x| x >= 64);
    let left = |output: &engine::Output| output.latents.narrow(3, 0, 8).unwrap();
    assert!(apart(&left(&right), &left(&nothing)) < 1e-5);
    assert!(apart(&right.latents, &nothing.latents) > 0.1);
}

/// A1111 gives the steps from `switch_at` on to the refiner.
#[test]
fn a_refiner_takes_the_last_steps() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for model in ["sdxl", "refiner"] {
        write_folder(model, &path(model));
    }
    let refined = |switch_at| Request {
        refiner: Some(Refiner { checkpoint: path("refiner"), switch_at }),
        steps: 5,
        sampler: sampler("euler"),
        ..request(&path("sdxl"))
    };
    let golden = golden("networks/sdxl.safetensors");
    let mut engine = engine();
    for (switch_at, name) in [(0.6, "latents.refined"), (1.0, "latents.euler.karras")] {
        let output = generate(&mut engine, &refined(switch_at)).unwrap();
        let apart = apart(&output.latents, &golden[name]);
        println!("{apart:.1e} {name}");
        assert!(apart < TOLERANCE, "{name}: {apart:e}");
    }
    // Its latents would mean nothing to another family.
    write_folder("sd15", &path("sd15"));
    let wrong = Request { checkpoint: path("sd15"), ..refined(0.6) };
    let error = generate(&mut engine, &wrong).unwrap_err().to_string();
    assert!(error.contains("SDXL refiner") && error.contains("SD 1.x"), "{error}");
}

/// The formula of `picture` in make.py.
fn formula(width: u32, height: u32) -> Image {
    let pixels = (0..width * height).flat_map(|i| {
        let (x, y) = (i % width, i / width);
        [2 * x, 2 * y, 255 - x - y].map(|value| u8::try_from(value).unwrap())
    });
    Image { width, height, pixels: pixels.collect() }
}

// --- the starter -----------------------------------------------------------------------------

fn starter() -> Request {
    Request {
        prompt: "a fox on a light blue background".to_owned(),
        width: 128,
        height: 128,
        guidance_scale: 4.0,
        seed: 7,
        ..request(&repository("assets/starter/model"))
    }
}

fn style(name: &str, weight: f64) -> AdapterUse {
    adapter(&style_file(name), weight)
}

fn style_file(name: &str) -> PathBuf {
    repository("assets/starter/adapters").join(format!("{name}.safetensors"))
}

/// Compares one generation with the case of that name, and returns it.
fn compare_case(name: &str, request: &Request) -> engine::Output {
    let output = generate(&mut engine(), request).unwrap();
    let golden = golden("pictures/cases.safetensors");
    let apart = apart(&output.latents, &golden[&format!("{name}.latents")]);
    println!("{apart:.1e} {name}");
    assert!(apart < TOLERANCE, "{name}: {apart:e} from the reference");
    output
}

#[test]
fn the_starter_draws_the_references_picture() {
    let output = compare_case("plain", &starter());
    let golden = &golden("pictures/cases.safetensors")["plain.picture"];
    assert_eq!((128, 128), (output.image.width, output.image.height));
    let reference: Vec<u8> = golden.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(output.image.pixels.len(), reference.len());
    let worst = output.image.pixels.iter().zip(&reference).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "a pixel is {worst:?} from diffusers'");
}

#[test]
fn a_stack_of_adapters_agrees_with_lycoris() {
    let stack = vec![style("neon", 0.8), style("ink", 0.4), style("watercolor", 0.5)];
    compare_case("stack", &Request { adapters: stack, ..starter() });
}

#[test]
fn an_adapter_of_the_text_encoder_agrees_with_lycoris() {
    let one = vec![style("twemoji", 0.6)];
    compare_case("text_encoder_adapter", &Request { adapters: one, ..starter() });

    let two_weights = vec![AdapterUse { unet_weight: -0.5, ..style("twemoji", 1.0) }];
    compare_case("two_weights", &Request { adapters: two_weights, ..starter() });
}

/// One adapter fades in, another acts in some steps, in a sampler that calls once a step and one that calls
/// twice.
#[test]
fn weights_over_steps_agree_with_repainting_each_step() {
    let line = |at| Keyframe { at, factor: at, fade: Fade::Linear };
    let stack = vec![
        AdapterUse {
            over_steps: Curve::new(vec![line(0.0), line(1.0)]),
            text_encoder_weight: 0.0,
            ..style("neon", 0.8)
        },
        AdapterUse {
            over_steps: Curve::between(Some(5), Some(12), 20),
            text_encoder_weight: 0.0,
            ..style("ink", 0.6)
        },
    ];
    let request = Request { adapters: stack, ..starter() };
    compare_case("over_steps", &request);
    compare_case("over_steps_heun", &Request { sampler: sampler("heun"), ..request });
}

#[test]
fn emphasis_agrees_with_a1111() {
    let prompt = "a (fox:1.3) on a [light blue] background".to_owned();
    let output = compare_case("emphasis", &Request { prompt, ..starter() });
    let golden = golden("pictures/cases.safetensors");
    let apart = apart(&output.conditioning.cond, &golden["emphasis.cond"]);
    assert!(apart < 1e-5, "the conditioning is {apart:e} from the reference");
}

/// Three chunks against two, with commas to go back to.
#[test]
fn long_prompts_of_different_length_agree_with_a1111() {
    let join = |phrases: Vec<String>| phrases.join(", ");
    let mut phrases = vec!["emoji".to_owned()];
    for color in ["light blue", "pink to orange gradient", "dark green"] {
        let things =
            ["fox", "cat face", "palm tree", "castle", "hamburger", "owl", "lemon", "volcano"];
        phrases.extend(things.map(|thing| format!("a {thing} on a {color} background")));
    }
    let things = [
        "car",
        "tiger face",
        "flamingo",
        "mushroom",
        "doughnut",
        "dragon face",
        "bee",
        "house",
        "penguin",
        "pizza",
        "cherry blossom",
        "crab",
        "turtle",
        "owl",
    ];
    let negative = things.map(|thing| format!("a {thing} on a white background"));
    let request =
        Request { prompt: join(phrases), negative_prompt: join(negative.to_vec()), ..starter() };

    let output = compare_case("long", &request);
    assert_eq!(output.conditioning.cond.dims(), [1, 3 * 77, 256]);
    assert_eq!(output.conditioning.uncond.dims(), [1, 2 * 77, 256]);
    let seam = output.conditioning.cond.narrow(1, 60, 34).unwrap();
    let apart = apart(&seam, &golden("pictures/cases.safetensors")["long.cond.60..94"]);
    assert!(apart < 1e-5, "the conditioning is {apart:e} from the reference");
}

#[test]
fn clip_skip_guidance_and_size_agree() {
    compare_case("clip_skip_2", &Request { clip_skip: 2, ..starter() });
    compare_case("guidance_1", &Request { guidance_scale: 1.0, ..starter() });
    compare_case("portrait", &Request { width: 96, height: 160, ..starter() });
}

#[test]
fn img2img_agrees_with_a1111() {
    let image = formula(128, 128);
    let init = Some(InitImage { image, denoising_strength: 0.6, mask: None });

    compare_case("img2img", &Request { init: init.clone(), ..starter() });
    let sde = Request { init, sampler: sampler("dpmpp_2m_sde"), ..starter() };
    compare_case("img2img_sde", &sde);
}

/// The samplers that do the most that others do not.
#[test]
fn samplers_agree_on_the_starter() {
    let mut golden = golden("pictures/latents.safetensors");
    golden.retain(|name, _| ["dpmpp_sde.karras", "dpm2_a.karras"].contains(&name.as_str()));
    assert_eq!(compare_pairs(&golden, &starter(), ""), 2);
}

#[test]
#[ignore = "minutes; the tiny model does the same in seconds"]
fn every_sampler_with_every_schedule_agrees_on_the_starter() {
    let golden = golden("pictures/latents.safetensors");
    let compared = compare_pairs(&golden, &starter(), "");
    assert_eq!(compared, SAMPLERS.len() * SCHEDULES.len(), "a reference for every pair");
}
