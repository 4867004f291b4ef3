//! The window itself: opened where it was, shown once it has something to show, closed when the studio
//! is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use studio::{DataFolder, Studio, settings::Theme};
use tauri::{
    AppHandle, Manager, Url, WebviewUrl, WebviewWindow, WebviewWindowBuilder, Window, WindowEvent,
    webview::{Color, NewWindowResponse, PageLoadEvent},
};

use crate::geometry::{Corner, Keeper, Place, Screen, Size};

/// What Tauri calls the window.
pub(crate) const LABEL: &str = "main";

/// The page's `--ground`, in its two themes.
const DARK: Color = Color(0x1b, 0x1a, 0x18, 0xff);
const LIGHT: Color = Color(0xec, 0xe7, 0xde, 0xff);

/// A page that takes longer is shown as it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// For the page to hand over what it has not saved yet.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Opens the window.
pub(crate) fn open(app: &AppHandle, studio: Arc<Studio>, data: &DataFolder) -> tauri::Result<()> {
    let keeper = Keeper::at(data.data.join("window.json"))?;
    let (place, smallest) = Place::fitting(keeper.read(), &screens(app)?);
    let color = if studio.settings().theme == Theme::Light { LIGHT } else { DARK };

    let builder = WebviewWindowBuilder::new(app, LABEL, WebviewUrl::default())
        .title("Impasto")
        .data_directory(data.data.join("webview"))
        .background_color(color)
        .visible(false)
        .inner_size(place.size.width, place.size.height)
        .min_inner_size(smallest.width, smallest.height)
        .maximized(place.maximised)
        .on_navigation(is_ours)
        .on_new_window(|_, _| NewWindowResponse::Deny)
        .on_download(|_, _| false)
        .on_page_load(|window, load| {
            if load.event() == PageLoadEvent::Finished {
                show(&window);
            }
        });
    let window = match place.corner {
        Some(Corner { x, y }) => builder.position(x, y),
        None => builder.center(),
    }
    .build()?;

    let slow = window.clone();
    thread::spawn(move || {
        thread::sleep(PATIENCE);
        show(&slow);
    });

    let closing = AtomicBool::new(false);
    let watched = window.as_ref().window();
    window.on_window_event(move |event| match event {
        WindowEvent::Resized(_) | WindowEvent::Moved(_) => {
            if !closing.load(Ordering::Relaxed)
                && let Some(place) = place_of(&watched)
            {
                keeper.note(place);
            }
        }
        WindowEvent::CloseRequested { api, .. } => {
            api.prevent_close();
            if !closing.swap(true, Ordering::Relaxed) {
                keeper.write();
                close(&watched, studio.clone());
            }
        }
        _ => {}
    });
    Ok(())
}

/// Brings the window before all others.
pub(crate) fn to_front(app: &AppHandle) {
    if let Some(window) = app.get_webview_window(LABEL) {
        let _ = window.unminimize();
        let _ = window.show();
        let _ = window.set_focus();
    }
}

/// Whether an address belongs to our own page; the window goes nowhere else.
pub(crate) fn is_ours(url: &Url) -> bool {
    match (url.scheme(), url.host_str()) {
        ("tauri", Some("localhost")) => true,
        // How Windows spells it.
        ("http" | "https", Some("tauri.localhost")) => true,
        ("http", Some("localhost")) => tauri::is_dev() && url.port() == Some(5173),
        _ => false,
    }
}

fn show(window: &WebviewWindow) {
    if !window.is_visible().unwrap_or(true) {
        let _ = window.show();
        let _ = window.set_focus();
    }
}

/// Takes the window from the screen at once, and ends the program when the studio has ended.
fn close(window: &Window, studio: Arc<Studio>) {
    for webview in window.webviews() {
        // The page saves what it waits to save when it is left.
        let _ = webview.eval("dispatchEvent(new Event('pagehide'))");
    }
    let _ = window.hide();
    let app = window.app_handle().clone();
    thread::spawn(move || {
        thread::sleep(LAST_WORDS);
        studio.close();
        tracing::info!("Impasto ends");
        app.exit(0);
    });
}

fn screens(app: &AppHandle) -> tauri::Result<Vec<Screen>> {
    let main = app.primary_monitor()?;
    let all = app.available_monitors()?;
    let screen = |monitor: &tauri::Monitor| {
        let scale = monitor.scale_factor();
        let corner = monitor.position().to_logical::<f64>(scale);
        let size = monitor.size().to_logical::<f64>(scale);
        Screen {
            corner: Corner { x: corner.x, y: corner.y },
            size: Size { width: size.width, height: size.height },
        }
    };
    Ok(main.iter().chain(&all).map(screen).collect())
}

fn place_of(window: &Window) -> Option<Place> {
    if window.is_minimized().ok()? || !window.is_visible().ok()? {
        return None;
    }
    let scale = window.scale_factor().ok()?;
    let size = window.inner_size().ok()?.to_logical::<f64>(scale);
    let corner = window.outer_position().ok()?.to_logical::<f64>(scale);
    Some(Place {
        size: Size { width: size.width, height: size.height },
        corner: Some(Corner { x: corner.x, y: corner.y }),
        maximised: window.is_maximized().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_stays_with_its_page() {
        let ours = |url: &str| is_ours(&url.parse().unwrap());
        assert!(ours("tauri://localhost/index.html"));
        for other in ["https://example.org/", "file:///etc/passwd", "tauri://other/", "data:,x"] {
            assert!(!ours(other), "{other}");
        }
    }
}
