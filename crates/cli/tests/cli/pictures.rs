//! What the options do to pictures.

use std::collections::BTreeSet;

use engine::checkpoint::header::TensorFile;
use serde_json::Value;

use crate::program::{Desk, FOX, apart};

/// The acceptance of the starter at its own size: the object in the middle, the color around it.
#[test]
fn the_starter_draws_a_fox_on_light_blue() {
    let desk = Desk::new();
    let run = desk.run("generate --seed 7 --out fox.png");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout, "fox.png\n");
    assert_eq!(run.stderr, "");
    let image = image::open(desk.path("fox.png")).unwrap().into_rgb8();
    assert_eq!(image.dimensions(), (128, 128));
    let [red, green, blue] = image.get_pixel(4, 4).0;
    assert!(blue > 200 && green > 150 && red < blue, "border: {red} {green} {blue}");
    let oranges = image.pixels().filter(|p| p.0[0] > 180 && p.0[2] < 110).count();
    assert!(oranges > 1500, "{oranges} pixels of a fox");
}

#[test]
fn the_same_options_make_the_same_file() {
    let desk = Desk::new();
    desk.draw("--lora neon=0.8 --lora ink=0.4 --seed 7 --out a.png");
    let expected = desk.bytes("a.png");
    for options in ["", "--threads 1", "--threads 2", "--threads 3"] {
        desk.draw(&format!("--lora neon=0.8 --lora ink=0.4 --seed 7 --out b.png {options}"));
        assert!(desk.bytes("b.png") == expected, "{options}");
    }
    // The order of the stack changes the recipe, but no pixel.
    desk.draw("--lora ink=0.4 --lora neon=0.8 --seed 7 --out b.png");
    assert_eq!(desk.pixels("b.png"), desk.pixels("a.png"));
    desk.draw("--lora neon=0.8 --lora ink=0.4 --seed 8 --out b.png");
    assert_ne!(desk.pixels("b.png"), desk.pixels("a.png"));
}

#[test]
fn adapters_change_the_picture_by_their_weights() {
    let desk = Desk::new();
    desk.draw("--seed 7 --out plain.png");
    desk.draw("--seed 7 --lora neon=0 --out zero.png");
    assert!(desk.bytes("zero.png") == desk.bytes("plain.png"), "weight 0 is no adapter");
    for adapter in ["neon=0.8", "watercolor", "pixel-diffusers-naming=-0.5", "twemoji=0,1"] {
        desk.draw(&format!("--seed 7 --lora {adapter} --out styled.png"));
        let changed = apart(&desk.pixels("styled.png"), &desk.pixels("plain.png"));
        assert!(changed > 1.0, "{adapter}: {changed}");
    }
}

#[test]
fn tags_are_adapters() {
    let desk = Desk::new();
    desk.draw("--seed 7 --lora twemoji=0.25,0.5 --out a.png");
    let mut command = desk.command("generate --width 64 --height 64 --steps 3 --seed 7");
    command.args(["--prompt", &format!("{FOX} <lora:twemoji:0.5:0.25>"), "--out", "b.png"]);
    assert!(command.status().unwrap().success());
    assert!(desk.bytes("b.png") == desk.bytes("a.png"), "the recipes and pixels are the same");

    let run = desk.draw("--seed 7 --lora neon=0.5 --lora neon=0.25 --out c.png");
    assert!(run.stderr.contains("0.75"), "{}", run.stderr);
    desk.draw("--seed 7 --lora neon=0.75 --out d.png");
    assert!(desk.bytes("c.png") == desk.bytes("d.png"));
}

#[test]
fn a_batch_counts_seeds_up() {
    let desk = Desk::new();
    let run = desk.draw("--seed 41 --batch 3 --out out");
    assert_eq!(desk.names("out"), ["00001-41.png", "00002-42.png", "00003-43.png"]);
    let printed: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(printed, ["out/00001-41.png", "out/00002-42.png", "out/00003-43.png"]);
    desk.draw("--seed 42 --out alone.png");
    assert!(desk.bytes("alone.png") == desk.bytes("out/00002-42.png"));
    // Nothing in the folder is overwritten.
    let before = desk.bytes("out/00001-41.png");
    desk.draw("--seed 41 --out out");
    assert_eq!(desk.names("out").last().map(String::as_str), Some("00004-41.png"));
    assert!(desk.bytes("out/00001-41.png") == before);

    desk.draw("--seed 41 --batch 2 --out named.png");
    assert!(desk.bytes("named-1.png") == before);
    assert!(desk.path("named-2.png").exists());
}

#[test]
fn pictures_go_to_the_pictures_folder_if_there_is_one() {
    let desk = Desk::new();
    let run = desk.draw("--seed 1");
    assert_eq!(run.stdout, "impasto-output/00001-1.png\n");
}

#[test]
fn random_seeds_are_told() {
    let desk = Desk::new();
    let seeds: BTreeSet<u64> =
        (0..3).map(|_| desk.draw_json("--steps 1 --out a.png")["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds.len(), 3);
    assert!(seeds.iter().all(|&seed| seed < 1 << 32), "{seeds:?}");
}

#[test]
fn json_has_what_it_promises() {
    let desk = Desk::new();
    let report = desk.draw_json("--seed 5 --lora neon=0.5 --batch 2 --out a.png");
    let object = report.as_object().unwrap();
    let keys: Vec<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "seed",
            "device",
            "precision",
            "load_s",
            "patch_s",
            "encode_s",
            "step_s",
            "decode_s",
            "total_s",
            "peak_rss_bytes",
            "images",
            "adapters",
            "warnings"
        ]
    );
    assert_eq!(report["seed"], 5);
    assert_eq!((&report["device"], &report["precision"]), (&"cpu".into(), &"f32".into()));
    assert_eq!(report["images"], serde_json::json!(["a-1.png", "a-2.png"]));
    assert_eq!(report["warnings"], serde_json::json!([]));
    let steps: Vec<f64> =
        report["step_s"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
    assert_eq!(steps.len(), 6, "three of each picture");
    assert!(steps.iter().all(|&seconds| seconds > 0.0), "{steps:?}");
    let seconds = |key: &str| report[key].as_f64().unwrap();
    assert!(seconds("load_s") > 0.0 && seconds("encode_s") > 0.0 && seconds("decode_s") > 0.0);
    let parts = ["load_s", "patch_s", "encode_s", "decode_s"].map(seconds).iter().sum::<f64>();
    assert!(parts + steps.iter().sum::<f64>() <= seconds("total_s"));
    if cfg!(target_os = "linux") {
        assert!(report["peak_rss_bytes"].as_u64().unwrap() > 30 << 20);
    }
    let adapter = &report["adapters"][0];
    assert_eq!(adapter["name"], "neon");
    assert!(adapter["applied"].as_u64().unwrap() > 50);
    assert_eq!((&adapter["unmatched"], &adapter["wrong_shape"]), (&0.into(), &0.into()));
}

#[test]
fn latents_and_conditioning_can_be_kept() {
    let desk = Desk::new();
    desk.draw(
        "--seed 5 --batch 2 --out a.png --save-latents l.safetensors \
         --save-conditioning c.safetensors",
    );
    let shape = |file: &str, tensor: &str| {
        let file = TensorFile::open(&desk.path(file)).unwrap();
        file.tensors()[tensor].shape.clone()
    };
    assert_eq!(shape("l.safetensors", "latents"), [2, 4, 8, 8]);
    assert_eq!(shape("c.safetensors", "cond"), [1, 77, 256]);
    assert_eq!(shape("c.safetensors", "uncond"), [1, 77, 256]);
}

#[test]
fn first_noise_can_be_given() {
    let desk = Desk::new();
    // Latents of another picture are as good as noise as any numbers.
    desk.draw("--seed 5 --batch 2 --out a.png --save-latents l.safetensors");
    let bytes = desk.bytes("l.safetensors");
    let text = String::from_utf8_lossy(&bytes[8..72]).into_owned();
    assert!(text.contains("latents"), "{text}");
    let renamed: Vec<u8> = replace(&bytes, b"\"latents\"", b"\"noise\"  ");
    std::fs::write(desk.path("noise.safetensors"), renamed).unwrap();

    desk.draw("--seed 5 --batch 2 --out b.png --noise noise.safetensors");
    assert_ne!(desk.pixels("b-1.png"), desk.pixels("a-1.png"));
    assert_ne!(desk.pixels("b-1.png"), desk.pixels("b-2.png"));
    // The seed does not matter for a sampler that draws no noise of its own.
    desk.draw("--seed 6 --out c.png --noise noise.safetensors");
    assert_eq!(desk.pixels("c.png"), desk.pixels("b-1.png"));
    // A recipe knows which of the noises it was.
    desk.draw("--recipe b-2.png --out d.png");
    assert_eq!(desk.pixels("d.png"), desk.pixels("b-2.png"));
}

/// Puts bytes in place of others of the same length.
fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn pictures_can_start_from_pictures() {
    let desk = Desk::new();
    let source = image::RgbImage::from_fn(96, 64, |x, _| {
        image::Rgb(if x < 48 { [200, 60, 40] } else { [40, 80, 200] })
    });
    source.save(desk.path("source.png")).unwrap();
    let draw = |options: &str| {
        let run =
            desk.run(&format!("generate --init-image source.png --seed 3 --steps 4 {options}"));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
    };
    draw("--denoise 0 --out kept.png");
    assert_eq!(image::image_dimensions(desk.path("kept.png")).unwrap(), (96, 64));
    let kept = apart(&desk.pixels("kept.png"), source.as_raw());
    draw("--denoise 0.9 --out changed.png");
    let changed = apart(&desk.pixels("changed.png"), source.as_raw());
    assert!(kept < 20.0 && changed > 2.0 * kept, "{kept} {changed}");
    // The recipe names the picture, which lies beside it.
    let run = desk.run("generate --recipe changed.png --out again.png");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(desk.bytes("again.png") == desk.bytes("changed.png"));

    draw("--width 64 --height 64 --out square.png");
    assert_eq!(image::image_dimensions(desk.path("square.png")).unwrap(), (64, 64));
}

#[test]
fn half_precision_is_close() {
    let desk = Desk::new();
    desk.draw("--seed 7 --out f32.png");
    for precision in ["bf16", "f16"] {
        let report = desk.draw_json(&format!("--seed 7 --precision {precision} --out half.png"));
        assert_eq!(report["precision"], precision);
        let apart = apart(&desk.pixels("half.png"), &desk.pixels("f32.png"));
        assert!(apart > 0.0 && apart < 8.0, "{precision}: {apart}");
    }
    // What the processor is best at.
    let report = desk.draw_json("--seed 7 --precision auto --out auto.png");
    let auto = report["precision"].as_str().unwrap().to_owned();
    assert!(auto == "f32" || auto == "bf16", "{auto}");
    desk.draw(&format!("--seed 7 --precision {auto} --out same.png"));
    assert!(desk.bytes("auto.png") == desk.bytes("same.png"));
}

#[test]
fn bench_measures_and_keeps_nothing() {
    let desk = Desk::new();
    let run = desk.run("bench --steps 2 --width 64 --height 64 --json");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["step_s"].as_array().unwrap().len(), 2);
    assert_eq!(report["images"], serde_json::json!([]));
    assert_eq!(desk.names("."), [""; 0]);
    let run = desk.run("bench --steps 2 --width 64 --height 64");
    for line in ["load", "step", "decode", "total"] {
        assert!(run.stdout.contains(line), "{}", run.stdout);
    }
}

#[test]
fn lists_say_what_there_is() {
    let desk = Desk::new();
    for (what, known) in [
        ("models", "starter"),
        ("adapters", "watercolor"),
        ("samplers", "dpmpp_2m"),
        ("schedules", "karras"),
        ("devices", "cpu"),
    ] {
        let run = desk.run(&format!("list {what}"));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{what}");
        assert!(run.stdout.contains(known), "{}", run.stdout);
        let run = desk.run(&format!("list {what} --json"));
        let json: Value = serde_json::from_str(&run.stdout).unwrap();
        let items = json[what].as_array().unwrap();
        assert!(items.iter().any(|item| item["id"] == known || item["name"] == known));
    }
}

#[test]
fn inspect_says_what_a_file_is() {
    let desk = Desk::new();
    desk.draw("--seed 1 --out a.png");
    for (path, what) in [
        ("model", "base model"),
        ("adapters/neon.safetensors", "LoCon"),
        ("adapters/watercolor.safetensors", "LoHa"),
        ("starter.json", "JSON"),
    ] {
        let path = format!("{}/{path}", crate::program::STARTER);
        let run = desk.run(&format!("inspect {path}"));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(run.stdout.contains(what), "{}", run.stdout);
        let run = desk.run(&format!("inspect {path} --json"));
        let json: Value = serde_json::from_str(&run.stdout).unwrap();
        assert!(json["what"].as_str().unwrap().contains(what), "{json}");
    }
    assert!(desk.run("inspect a.png").stdout.contains("PNG"));
}
