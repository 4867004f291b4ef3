//! The program from outside, as far as it goes without a window.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_impasto-studio"))
        .args(args)
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .output()
        .unwrap()
}

#[test]
fn it_says_which_it_is() {
    let output = run(&["--version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim(), format!("impasto-studio {}", env!("CARGO_PKG_VERSION")));
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_display_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let output = run(&["--data-dir", data.to_str().unwrap()]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("There is no display to open a window on"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!data.exists(), "nothing is begun");
}
