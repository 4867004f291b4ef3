//! Pictures made again from their recipes.

use studio::{
    files::Existing,
    png::{self, PARAMETERS, RECIPE},
};

use crate::program::{Desk, small};

fn text(desk: &Desk, name: &str, keyword: &str) -> String {
    let texts = png::read_texts(&desk.path(name)).unwrap();
    texts.into_iter().find(|(found, _)| found == keyword).unwrap().1
}

/// Everything that changes pixels, in one picture.
const ELABORATE: &str = "--seed 77 --negative blurry --guidance 3.5 --sampler dpmpp_2m_sde \
    --schedule exponential --clip-skip 2 --rng nv --precision bf16 \
    --lora neon=0.8,0.1 --lora watercolor=-0.3";

#[test]
fn a_recipe_makes_the_same_picture() {
    let desk = Desk::new();
    desk.draw(&format!("{ELABORATE} --out a.png"));
    for (form, keyword) in [("json", RECIPE), ("txt", PARAMETERS)] {
        std::fs::write(desk.path(&format!("recipe.{form}")), text(&desk, "a.png", keyword))
            .unwrap();
    }
    let run = desk.run("generate --recipe a.png --out b.png");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(desk.bytes("b.png") == desk.bytes("a.png"));
    // Each form by itself.
    for recipe in ["recipe.json", "recipe.txt"] {
        let run = desk.run(&format!("generate --recipe {recipe} --out b.png"));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{recipe}");
        assert_eq!(desk.pixels("b.png"), desk.pixels("a.png"), "{recipe}");
    }
}

#[test]
fn options_override_the_recipe() {
    let desk = Desk::new();
    desk.draw(&format!("{ELABORATE} --out a.png"));
    desk.draw(&format!("{ELABORATE} --seed 78 --out b.png"));
    let run = desk.run("generate --recipe a.png --seed 78 --out c.png");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(desk.bytes("c.png") == desk.bytes("b.png"));
}

#[test]
fn the_a1111_text_is_written_as_a1111_writes_it() {
    let desk = Desk::new();
    desk.draw("--seed 7 --lora neon=0.8 --negative rain --out a.png");
    let text = text(&desk, "a.png", PARAMETERS);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "a fox on a light blue background <lora:neon:0.8>");
    assert_eq!(lines[1], "Negative prompt: rain");
    let start = "Steps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4, Seed: 7, \
                 Size: 64x64, Model hash: ";
    assert!(lines[2].starts_with(start), "{text}");
    assert!(lines[2].contains(", Model: starter, RNG: CPU, Lora hashes: \"neon: "), "{text}");
}

#[test]
fn another_program_s_recipe() {
    let desk = Desk::new();
    let text = "a fox <lora:neon:0.5>\nSteps: 3, Sampler: Euler a, CFG scale: 4, Seed: 9, \
        Size: 64x64, Model: starter, ENSD: 31337, Version: v1.10.1";
    std::fs::write(desk.path("a.txt"), text).unwrap();
    let run = desk.run("generate --recipe a.txt --out a.png");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("warning:") && run.stderr.contains("ENSD: 31337"));
    // Its noise is that of a CUDA device.
    let options = "generate --width 64 --height 64 --steps 3 --seed 9 --lora neon=0.5 \
        --sampler euler_a --schedule normal";
    let mut command = desk.command(options);
    command.args(["--prompt", "a fox", "--rng", "nv", "--out", "b.png"]);
    assert!(command.status().unwrap().success());
    assert_eq!(desk.pixels("a.png"), desk.pixels("b.png"));
}

#[test]
fn renamed_files_are_found_by_their_hash() {
    let desk = Desk::new();
    desk.draw("--seed 7 --lora neon=0.8 --out a.png");
    let json = text(&desk, "a.png", RECIPE).replace("\"name\":\"neon\"", "\"name\":\"glow\"");
    assert!(json.contains("glow"));
    std::fs::write(desk.path("a.json"), json).unwrap();
    let run = desk.run("generate --recipe a.json --out b.png");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(desk.bytes("b.png") == desk.bytes("a.png"));
}

/// A picture of ours that lost its JSON, as some programs do when they save it again.
#[test]
fn the_text_is_enough() {
    let desk = Desk::new();
    desk.draw("--seed 7 --lora neon=0.8 --out a.png");
    let image = image::open(desk.path("a.png")).unwrap().into_rgb8();
    let text = text(&desk, "a.png", PARAMETERS);
    let file = std::fs::File::create(desk.path("stripped.png")).unwrap();
    let mut encoder = ::png::Encoder::new(file, image.width(), image.height());
    encoder.set_color(::png::ColorType::Rgb);
    encoder.add_text_chunk(PARAMETERS.into(), text).unwrap();
    encoder.write_header().unwrap().write_image_data(image.as_raw()).unwrap();
    let run = desk.run("generate --recipe stripped.png --out b.png");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(desk.pixels("b.png"), image.into_raw());
}

#[test]
fn a_picture_without_a_recipe_is_refused() {
    let desk = Desk::new();
    image::RgbImage::new(8, 8).save(desk.path("plain.png")).unwrap();
    let run = desk.run("generate --recipe plain.png --out b.png");
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.starts_with("error: cannot read a recipe"), "{}", run.stderr);
    assert_eq!(desk.names("."), ["plain.png"]);
}

/// A recipe in the form in which the window sends it, by hand.
#[test]
fn a_recipe_may_be_short() {
    let desk = Desk::new();
    let json = r#"{"prompt": "a fox on a light blue background", "steps": 3, "width": 64,
        "height": 64, "seed": 7}"#;
    std::fs::write(desk.path("short.json"), json).unwrap();
    let run = desk.run("generate --recipe short.json --out a.png");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    desk.draw("--seed 7 --out b.png");
    assert!(desk.bytes("a.png") == desk.bytes("b.png"));
    // Whatever else the recipe of a picture says, it was written with the picture.
    let params = studio::GenerationParams::default();
    let image = engine::Image { width: 8, height: 8, pixels: vec![0; 192] };
    png::save(&desk.path("c.png"), Existing::Keep, &image, &params).unwrap();
    let run = desk.run(&format!("{} --recipe c.png --out d.png", small("--seed 7")));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}
