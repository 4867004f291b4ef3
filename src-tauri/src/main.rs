//! Impasto in a window.
// No console beside the window on Windows.
#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

use std::process::ExitCode;

/// Keeps the pages that a picture needed for the next one; the system's allocator gives them back and
/// takes them anew, which costs a good part of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    choose_renderer();
    window::run()
}

/// WebKit's way of handing pictures to the screen through the graphics card shows an empty window with
/// NVIDIA's driver; without a card it is drawn in software, several times slower than WebKit's plain way.
#[cfg(target_os = "linux")]
fn choose_renderer() {
    const SWITCH: &str = "WEBKIT_DISABLE_DMABUF_RENDERER";

    let nvidia = std::path::Path::new("/proc/driver/nvidia/version").exists();
    let card = std::fs::read_dir("/dev/dri").is_ok_and(|devices| {
        devices
            .flatten()
            .any(|device| device.file_name().as_encoded_bytes().starts_with(b"renderD"))
    });
    if (nvidia || !card) && std::env::var_os(SWITCH).is_none() {
        #[expect(unsafe_code, reason = "the only way to set what WebKit reads")]
        // SAFETY: nothing has been started yet, so there is no other thread that reads the environment.
        unsafe {
            std::env::set_var(SWITCH, "1");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn choose_renderer() {}
