//! Whatever ends the program, no picture is ever half-written.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::program::{Desk, pixels, small};

/// Starts a long batch and waits for its first picture, so that it is in the midst of the work.
fn in_the_midst(desk: &Desk, options: &str) -> Child {
    let options = small(&format!("--batch 1000 --out out {options}"));
    let mut child =
        desk.command(&options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("out/00001-"), "{line}");
    child
}

/// The shell's own `kill`: a bare Debian has no program of that name.
pub(crate) fn signal(child: &Child, name: &str) {
    let kill = format!("kill {name} {}", child.id());
    let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(sent.success());
}

/// Every picture that has its name is whole.
fn assert_whole(desk: &Desk) -> usize {
    let pictures = desk.names("out").into_iter().filter(|name| name.ends_with(".png"));
    pictures.map(|name| assert_eq!(pixels(&desk.path(&format!("out/{name}"))).len(), 12288)).count()
}

#[test]
fn ctrl_c_ends_in_an_orderly_way() {
    let desk = Desk::new();
    // The second picture takes minutes.
    let child = in_the_midst(&desk, "--steps 20 --save-latents l.safetensors");
    sleep(Duration::from_millis(200));
    signal(&child, "-INT");
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("cancelled"));
    assert!(assert_whole(&desk) >= 1);
    assert!(desk.names("out").iter().all(|name| name.ends_with(".png")), "{:?}", desk.names("out"));
    assert_eq!(desk.names("."), ["out"], "no latents of half a batch");
}

#[test]
fn a_cancelled_picture_leaves_no_file() {
    let desk = Desk::new();
    let child = desk
        .command(&small("--steps 1000 --out out"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The folder is made before the work starts.
    for _ in 0..500 {
        if desk.path("out").exists() {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    sleep(Duration::from_millis(1500));
    signal(&child, "-INT");
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert_eq!(ended.stdout, b"");
    assert_eq!(desk.names("out"), [""; 0]);
}

#[test]
fn a_killed_program_leaves_only_whole_pictures() {
    let desk = Desk::new();
    let mut child = in_the_midst(&desk, "--steps 20");
    sleep(Duration::from_millis(200));
    signal(&child, "-KILL");
    assert_eq!(child.wait().unwrap().code(), None);
    assert!(assert_whole(&desk) >= 1);
}

/// The model's file is cut short while it is in use.
#[test]
fn a_model_that_shrinks_is_an_error_and_no_crash() {
    let desk = Desk::new();
    desk.copy_model("model");
    let child = in_the_midst(&desk, "--model ./model");
    let weights = desk.path("model/unet/diffusion_pytorch_model.safetensors");
    let file = std::fs::OpenOptions::new().write(true).open(&weights).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "an error, not a signal");
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(stderr.starts_with("error:") && stderr.contains("diffusion_pytorch_model"), "{stderr}");
    assert!(assert_whole(&desk) >= 1);
}
