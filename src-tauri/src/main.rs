//! Impasto in a window.
// No console beside the window on Windows.
#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

use std::process::ExitCode;

/// Keeps the pages that a picture needed for the next one; the system's allocator gives them back and
/// takes them anew, which costs a good part of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    spare_nvidia();
    window::run()
}

/// With NVIDIA's driver, WebKit's faster way of handing pictures to the screen shows an empty window.
#[cfg(target_os = "linux")]
fn spare_nvidia() {
    const SWITCH: &str = "WEBKIT_DISABLE_DMABUF_RENDERER";

    if std::path::Path::new("/proc/driver/nvidia/version").exists()
        && std::env::var_os(SWITCH).is_none()
    {
        #[expect(unsafe_code, reason = "the only way to set what WebKit reads")]
        // SAFETY: nothing has been started yet, so there is no other thread that reads the environment.
        unsafe {
            std::env::set_var(SWITCH, "1");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn spare_nvidia() {}
