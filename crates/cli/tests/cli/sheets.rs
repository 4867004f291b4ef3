//! `impasto sheet`: its cells are the pictures that `impasto generate` makes.

use studio::sheet::{self, Drawing};

use crate::program::{Desk, FOX, Run, pixels};

impl Desk {
    /// A sheet of small pictures; options in which there is space come by themselves.
    fn sheet(&self, options: &str, axes: &[&str]) -> Run {
        let small = format!("sheet --prompt {{fox}} --width 64 --height 64 --steps 2 {options}");
        let mut command = self.command(&small);
        command.args(axes);
        Run::of(command.output().unwrap())
    }

    /// The pixels of a cell of a sheet.
    fn cell(&self, name: &str, place: usize) -> Vec<u8> {
        let drawing = Drawing::new(sheet::read(&self.path(name)).unwrap());
        let ((x, y), (width, height)) = drawing.cell(place);
        let whole = image::open(self.path(name)).unwrap().into_rgb8();
        assert_eq!(whole.dimensions(), drawing.size());
        image::imageops::crop_imm(&whole, x, y, width, height).to_image().into_raw()
    }
}

#[test]
fn cells_are_the_pictures_of_their_values() {
    let desk = Desk::new();
    let axes = ["--x", "neon=0-1 [3]", "--y", "steps=1,2"];
    let run = desk.sheet("--seed 7 --lora neon=0.3 --out sheet.png --cells cells", &axes);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let printed: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(printed.len(), 7);
    assert_eq!((printed[0], printed[6]), ("cells/00001-7.png", "sheet.png"));
    assert_eq!(desk.names("cells").len(), 6);
    for (place, options) in
        [(0, "--steps 1"), (1, "--steps 1 --lora neon=0.5"), (5, "--steps 2 --lora neon=1")]
    {
        desk.draw(&format!("--seed 7 {options} --out alone.png"));
        assert!(desk.cell("sheet.png", place) == desk.pixels("alone.png"), "{place}");
    }
    // To and fro along the steps, which cost no repainting: the last is above the first on the right.
    assert!(desk.cell("sheet.png", 2 + 3) == pixels(&desk.path("cells/00006-7.png")));

    // Its own recipe makes it again; options override a part.
    let before = desk.bytes("sheet.png");
    let run = desk.run("sheet --recipe sheet.png --out again.png");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(desk.bytes("again.png") == before);
    let run = desk.run("generate --recipe sheet.png --out base.png");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn words_and_networks_can_be_axes() {
    let desk = Desk::new();
    let run = desk
        .sheet("--seed 3 --out a.png --json", &["--x", "words=fox, owl", "--y", "te:twemoji=0, 1"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["columns"], serde_json::json!(["fox", "owl"]));
    assert_eq!(report["rows"], serde_json::json!(["0.00", "1.00"]));
    assert_eq!((&report["sheet"], &report["seed"]), (&"a.png".into(), &3.into()));
    let mut command =
        desk.command("generate --width 64 --height 64 --steps 2 --seed 3 --lora twemoji=0,1");
    command.args(["--prompt", &FOX.replace("fox", "owl"), "--out", "owl.png"]);
    assert!(command.status().unwrap().success());
    assert!(desk.cell("a.png", 3) == desk.pixels("owl.png"));
}

#[test]
fn what_is_no_sheet_is_refused_before_the_work() {
    let desk = Desk::new();
    for (options, axes, words) in [
        ("--out a.png", &[][..], ["no axis", "--x"]),
        ("--out a.png", &["--x", "neon"], ["NAME=VALUES", "--x"]),
        ("--out a.png", &["--x", "neon=1"], ["one picture", "hint"]),
        ("--out a.png", &["--x", "neon=one, two"], ["`one`", "0-1 [5]"]),
        ("--out a.png", &["--x", "steps=1-401"], ["400", "hint"]),
        ("--out a.png", &["--x", "steps=1-30", "--y", "seed=1-30"], ["900 pictures", "400"]),
        ("--out a.png", &["--x", "words=zebra, owl"], ["`zebra`", "hint"]),
        ("--out a.png", &["--x", "magic=0, 1"], ["`magic`", "values"]),
        ("--out a", &["--x", "neon=0, 1"], ["`a`", ".png"]),
        ("--out a.jpg", &["--x", "neon=0, 1"], ["a.jpg", ".png"]),
    ] {
        let run = desk.sheet(options, axes);
        assert_eq!(run.code, Some(2), "{axes:?}: {}", run.stderr);
        for word in words {
            assert!(run.stderr.contains(word), "`{word}` is not in: {}", run.stderr);
        }
        assert_eq!(desk.names("."), [""; 0]);
    }
}

/// Cells that were made stay; there is no half of a sheet.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_sheet_in_an_orderly_way() {
    use std::{
        io::{BufRead, BufReader},
        process::Stdio,
    };
    let desk = Desk::new();
    let mut command = desk
        .command("sheet --prompt {fox} --width 64 --height 64 --out a.png --cells cells --seed 1");
    command.args(["--x", "steps=1, 1000, 1000"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "cells/00001-1.png\n");
    crate::interrupted::signal(&child, "-INT");
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("cancelled"));
    assert_eq!((desk.names("cells").len(), desk.names(".").len()), (1, 1), "no sheet");
}
