//! Wrong inputs: each has a message that names it, a hint where there is one, its exit code, and leaves
//! nothing behind.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::program::{Desk, FOX, Run, STARTER, small};

/// Memory that no refused input may take, in bytes: the program itself has a few megabytes.
const LITTLE: u64 = 200 << 20;

/// Checks how a run failed: with an error that contains these words, and without any file.
fn assert_fails(desk: &Desk, run: &Run, code: i32, words: &[&str]) {
    assert_eq!(run.code, Some(code), "{}", run.stderr);
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("error: "), "{}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    for word in words {
        assert!(run.stderr.contains(word), "`{word}` is not in: {}", run.stderr);
    }
    let made = desk.names(".").into_iter().filter(|name| name.ends_with(".png"));
    assert_eq!(made.collect::<Vec<_>>(), [""; 0]);
    assert_eq!(desk.names("out"), [""; 0]);
}

/// A safetensors file from its header; `data` bytes of zeros follow.
fn write(path: &Path, header: &Value, data: usize) {
    let header = header.to_string();
    let len = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&len[..], header.as_bytes(), &vec![0; data]].concat()).unwrap();
}

/// A safetensors file with f16 tensors of zeros, by name and shape.
fn write_zeros(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        let info = json!({"dtype": "F16", "shape": shape, "data_offsets": [at, end]});
        header.insert(name.clone(), info);
        at = end;
    }
    write(path, &Value::Object(header), at);
}

#[test]
fn values_out_of_range_are_bad_usage() {
    let desk = Desk::new();
    for (options, word) in [
        ("--width 0", "width"),
        ("--width 100000", "width"),
        ("--height 65", "height"),
        ("--steps 0", "steps"),
        ("--steps 1001", "steps"),
        ("--seed 9007199254740992", "seed"),
        ("--clip-skip 0", "clip skip"),
        ("--denoise 0.5", "--init-image"),
        ("--guidance nan", "guidance"),
        ("--sampler magic", "dpmpp_2m"),
        ("--schedule magic", "karras"),
        ("--device gpu", "cuda"),
        ("--lora neon=inf", "--lora"),
        ("--batch 0", "--batch"),
        ("--threads 0", "--threads"),
        ("--out a.jpg", "PNG"),
        ("--colour blue", "--colour"),
    ] {
        let run = desk.run(&small(options));
        assert_fails(&desk, &run, 2, &[word]);
    }
}

#[test]
fn files_that_are_no_models() {
    let desk = Desk::new();
    let model = format!("{STARTER}/adapters/neon.safetensors");
    let whole = std::fs::read(model).unwrap();
    let tensor = |offsets: [u64; 2]| json!({"dtype": "F32", "shape": [4], "data_offsets": offsets});

    std::fs::write(desk.path("truncated.safetensors"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(desk.path("cut_header.safetensors"), &whole[..100]).unwrap();
    std::fs::write(desk.path("empty.safetensors"), "").unwrap();
    std::fs::write(desk.path("text.safetensors"), "Dear diary,\n".repeat(100)).unwrap();
    let mut huge = (1u64 << 60).to_le_bytes().to_vec();
    huge.extend(b"{\"a\":1}");
    std::fs::write(desk.path("huge_header.safetensors"), huge).unwrap();
    write(
        &desk.path("overlapping.safetensors"),
        &json!({"a": tensor([0, 16]), "b": tensor([8, 24])}),
        24,
    );
    write(
        &desk.path("out_of_range.safetensors"),
        &json!({"a": tensor([1 << 40, (1 << 40) + 16])}),
        16,
    );

    for (name, word) in [
        ("truncated", "damaged"),
        ("cut_header", "damaged"),
        ("empty", "empty"),
        ("text", "not a safetensors or PyTorch file"),
        ("huge_header", "1152921504606846976"),
        ("overlapping", "damaged"),
        ("out_of_range", "damaged"),
    ] {
        let file = format!("{name}.safetensors");
        for option in ["--model", "--lora", "--vae", "--noise"] {
            let run = desk.run(&small(&format!("{option} {file} --out out")));
            assert_fails(&desk, &run, 1, &[word, &file]);
        }
        let peak = desk.draw_peak_of_failure(&small(&format!("--lora {file} --out out")));
        assert!(peak.is_none_or(|peak| peak < LITTLE), "{name}: {peak:?} bytes");
    }
}

impl Desk {
    /// The most memory that a run held, in bytes, where `/usr/bin/time` can tell.
    fn draw_peak_of_failure(&self, options: &str) -> Option<u64> {
        let program = self.command(options);
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["-f", "%M"]).arg(program.get_program()).args(program.get_args());
        self.isolate(&mut timed);
        let stderr = String::from_utf8(timed.output().ok()?.stderr).unwrap();
        stderr.lines().last()?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    }
}

#[test]
fn models_without_a_part() {
    let desk = Desk::new();
    desk.copy_model("model");
    std::fs::rename(desk.path("model/unet"), desk.path("unet")).unwrap();
    let run = desk.run(&small("--model ./model --out out"));
    assert_fails(&desk, &run, 1, &["UNet", "model"]);

    // The UNet by itself borrows what it lacks; an adapter where a base model is wanted and the other way round.
    let unet = "unet/diffusion_pytorch_model.safetensors";
    let run = desk.run(&small(&format!("--model {unet} --out borrowed/a.png")));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("a UNet alone"), "{}", run.stderr);
    let adapter = format!("{STARTER}/adapters/ink.safetensors");
    let run = desk.run(&small(&format!("--model {adapter} --out out")));
    assert_fails(&desk, &run, 1, &["ink.safetensors", "adapter"]);
    let run = desk.run(&small(&format!("--lora {unet} --out out")));
    assert_fails(&desk, &run, 1, &[unet]);
}

#[test]
fn an_adapter_for_another_family() {
    let desk = Desk::new();
    // Modules that only SDXL has, named and shaped as kohya's trainer does.
    let tensors: Vec<(String, Vec<usize>)> = (0..10)
        .flat_map(|block| {
            let module =
                format!("lora_unet_input_blocks_7_1_transformer_blocks_{block}_attn2_to_k");
            [
                (format!("{module}.lora_down.weight"), vec![4, 2048]),
                (format!("{module}.lora_up.weight"), vec![1280, 4]),
                (format!("{module}.alpha"), vec![]),
            ]
        })
        .collect();
    write_zeros(&desk.path("xl.safetensors"), &tensors);
    let run = desk.run(&small("--lora xl.safetensors --out out"));
    assert_fails(&desk, &run, 1, &["xl", "SDXL"]);
}

#[test]
fn weights_that_are_not_numbers() {
    let desk = Desk::new();
    let mut bytes = std::fs::read(format!("{STARTER}/adapters/neon.safetensors")).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for value in bytes[8 + len..].chunks_exact_mut(2) {
        value.copy_from_slice(&0x7E00u16.to_le_bytes());
    }
    std::fs::write(desk.path("broken.safetensors"), bytes).unwrap();
    let run = desk.run(&small("--lora broken.safetensors --lora ink --out out"));
    assert_fails(&desk, &run, 1, &["broken", "not a number"]);
    // Weight 0 is exactly nothing.
    let run = desk.draw("--lora broken.safetensors=0 --seed 7 --out a.png");
    assert_eq!(run.stdout, "a.png\n");
    desk.draw("--seed 7 --out b.png");
    assert_eq!(desk.pixels("a.png"), desk.pixels("b.png"));
}

#[test]
fn names_that_nothing_has() {
    let desk = Desk::new();
    for (options, words) in [
        ("--lora noen", &["noen", "hint: did you mean `neon`?"][..]),
        ("--model sd-v1-5", &["sd-v1-5", "starter"]),
        ("--model ./nowhere", &["nowhere"]),
        ("--vae nowhere.safetensors", &["nowhere"]),
        ("--models nowhere", &["nowhere"]),
        ("--recipe nowhere.png", &["nowhere.png"]),
        ("--init-image nowhere.png", &["nowhere.png"]),
        ("--noise nowhere.safetensors", &["nowhere"]),
        ("--device cuda", &["cuda", "built without CUDA"]),
    ] {
        assert_fails(&desk, &desk.run(&small(options)), 1, words);
    }
    assert_eq!(desk.run("inspect nowhere").code, Some(1));
}

#[test]
fn folders_that_cannot_be_written_to() {
    let desk = Desk::new();
    std::fs::write(desk.path("file"), "x").unwrap();
    for out in ["file/a.png", "file/deeper", "/proc/nothing/a.png"] {
        let run = desk.run(&small(&format!("--out {out}")));
        assert_fails(&desk, &run, 1, &[]);
        let run = desk.run(&small(&format!("--out a --save-latents {out}")));
        assert_fails(&desk, &run, 1, &[]);
    }
}

/// Runs the program with a folder `disk` that is a file system of its own, with these mount options.
/// `None` where the system allows no such thing.
fn on_disk(desk: &Desk, mount: &str, options: &str) -> Option<Run> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let disk = desk.path("disk");
    std::fs::create_dir_all(&disk).unwrap();
    let script = r#"mount -t tmpfs -o "$1" tmpfs "$2" || exit 99; shift 2; "$@"; code=$?
        ls -A disk >&2; exit $code"#;
    for user in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
        let program = desk.command(options);
        let mut command = Command::new("unshare");
        command.args(user).args(["sh", "-c", script, "sh", mount]).arg(&disk);
        command.arg(program.get_program()).args(program.get_args());
        desk.isolate(&mut command);
        let run = Run::of(command.output().ok()?);
        if run.code != Some(99) && !run.stderr.contains("unshare:") {
            return Some(run);
        }
    }
    None
}

#[test]
fn a_full_disk() {
    let desk = Desk::new();
    let Some(run) = on_disk(&desk, "size=4k", &small("--seed 1 --out disk")) else {
        eprintln!("not tested: this system does not let us mount a small disk");
        return;
    };
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("hint: the disk is full"), "{}", run.stderr);
    // What `ls` found on the disk afterwards comes after the hint: nothing.
    assert!(run.stderr.trim_end().ends_with("or choose another folder"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
}

#[test]
fn a_read_only_disk() {
    let desk = Desk::new();
    let Some(run) = on_disk(&desk, "ro", &small("--seed 1 --out disk/a.png")) else {
        eprintln!("not tested: this system does not let us mount a read-only disk");
        return;
    };
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("hint: choose a folder that you may write to"), "{}", run.stderr);
}

#[test]
fn a_prompt_is_needed_where_the_model_has_none() {
    let desk = Desk::new();
    desk.copy_model("other");
    let run = desk.run("generate --model ./other --out out");
    assert_fails(&desk, &run, 2, &["--prompt"]);
    let mut command = desk.command("generate --model ./other --width 64 --height 64 --steps 1");
    command.args(["--prompt", FOX, "--out", "a.png"]);
    assert!(command.status().unwrap().success());
}
