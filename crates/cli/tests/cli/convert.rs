//! `impasto convert`: what it writes, and what it leaves alone.

use engine::{checkpoint::header::TensorFile, testing::torch::write_torch};

use crate::program::{Desk, STARTER};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/pickles");

fn names(desk: &Desk) -> Vec<String> {
    let entries = std::fs::read_dir(desk.path("")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "home").collect();
    names.sort();
    names
}

#[test]
fn a_pytorch_file_becomes_a_safetensors_file() {
    let desk = Desk::new();
    let run = desk.run(&format!("convert {FIXTURES}/lightning.ckpt a.safetensors"));
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "a.safetensors\n"), "{}", run.stderr);
    assert!(run.stderr.contains("2 tensors"), "{}", run.stderr);
    let file = TensorFile::open(&desk.path("a.safetensors")).unwrap();
    assert_eq!(file.metadata()["global_step"], "875000");
    assert_eq!(file.tensors().len(), 2);
    assert_eq!(names(&desk), ["a.safetensors"]);
}

#[test]
fn an_adapter_makes_the_same_picture_in_every_format() {
    let desk = Desk::new();
    let neon = format!("{STARTER}/adapters/neon.safetensors");
    let tensors = engine::testing::load(std::path::Path::new(&neon));
    write_torch(&tensors, &desk.path("neon.pt"));
    let run = desk.run("convert neon.pt back.safetensors --precision f32");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let picture = |adapter: &str| {
        let options = "generate --prompt {fox} --width 64 --height 64 --steps 2 --seed 3 --json";
        let run = desk.run(&format!("{options} --lora {adapter} --save-latents l.safetensors"));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        std::fs::read(desk.path("l.safetensors")).unwrap()
    };
    let expected = picture(&neon);
    assert!(picture("neon.pt") == expected);
    assert!(picture("back.safetensors") == expected);
}

#[test]
fn nothing_is_replaced_unasked_and_nothing_is_half_written() {
    let desk = Desk::new();
    std::fs::write(desk.path("a.safetensors"), "mine").unwrap();
    for (options, code, words) in [
        (format!("{FIXTURES}/zip.pt a.safetensors"), 2, ["is there already", "--force"]),
        (format!("{FIXTURES}/zip.pt b.ckpt"), 2, ["only safetensors files", ".safetensors"]),
        (format!("{FIXTURES}/hostile_system.pt b.safetensors"), 1, ["posix.system", "was run"]),
        (format!("{FIXTURES}/zip.pt nowhere/b.safetensors"), 1, ["nowhere/b.safetensors", ""]),
        ("missing.ckpt b.safetensors".to_owned(), 1, ["missing.ckpt", ""]),
        (
            format!("{STARTER}/model b.safetensors"),
            1,
            ["of its own kind", "Use it as the folder that it is"],
        ),
    ] {
        let run = desk.run(&format!("convert {options}"));
        assert_eq!(run.code, Some(code), "{options}: {}", run.stderr);
        for word in words {
            assert!(run.stderr.to_lowercase().contains(&word.to_lowercase()), "{}", run.stderr);
        }
        assert_eq!(names(&desk), ["a.safetensors"]);
    }
    assert_eq!(std::fs::read(desk.path("a.safetensors")).unwrap(), b"mine");
    let run = desk.run(&format!("convert {FIXTURES}/zip.pt a.safetensors --force"));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(TensorFile::open(&desk.path("a.safetensors")).is_ok());
}

#[test]
fn a_single_file_becomes_a_folder_and_a_file_again() {
    let desk = Desk::new();
    engine::testing::write_single_file("sd15", &desk.path("a.safetensors"));
    for (options, out) in
        [("a.safetensors folder", "folder"), ("folder b.safetensors", "b.safetensors")]
    {
        let run = desk.run(&format!("convert {options}"));
        assert_eq!((run.code, run.stdout), (Some(0), format!("{out}\n")), "{}", run.stderr);
    }
    let same = |name: &str| {
        let file = TensorFile::open(&desk.path(name)).unwrap();
        file.sha256().unwrap().data
    };
    assert!(same("a.safetensors") == same("b.safetensors"));
    assert_eq!(names(&desk), ["a.safetensors", "b.safetensors", "folder"]);
    assert!(desk.path("folder/tokenizer/vocab.json").is_file());

    let run = desk.run("convert a.safetensors folder --force");
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("folders are not replaced"), "{}", run.stderr);
    // What fails in between leaves nothing.
    let run = desk.run(&format!("convert {STARTER}/adapters/neon.safetensors other"));
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert_eq!(names(&desk), ["a.safetensors", "b.safetensors", "folder"]);
}
