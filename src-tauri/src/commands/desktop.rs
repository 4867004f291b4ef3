//! Commands that ask the desktop for something: its file manager, clipboard, mouse and dialogs.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use fs_err as fs;
use serde::Deserialize;
use studio::{Code, Error, Result};
use tauri::{State, WebviewWindow};
use tauri_plugin_dialog::{DialogExt, FileDialogBuilder, FilePath};

use super::Held;

/// The system's clipboard. Where programs serve what they put there, ours does so as long as it runs.
#[derive(Default)]
pub(crate) struct Clipboard(Mutex<Option<arboard::Clipboard>>);

/// What to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Choice {
    Models,
    Pictures,
}

#[tauri::command(async)]
pub(super) fn show_image(studio: Held<'_>, id: u32) -> Result<()> {
    reveal(&studio.image_path(id)?)
}

#[tauri::command(async)]
pub(super) fn show_model(studio: Held<'_>, card: u32) -> Result<()> {
    reveal(&studio.model_path(card)?)
}

fn reveal(path: &Path) -> Result<()> {
    tauri_plugin_opener::reveal_item_in_dir(path).map_err(|error| {
        Error::new(Code::Unknown, "no file manager answers")
            .hint(format!("the file is `{}`", path.display()))
            .because(error)
    })
}

#[tauri::command(async)]
pub(super) fn copy_image(studio: Held<'_>, clipboard: State<'_, Clipboard>, id: u32) -> Result<()> {
    let refused = |error: arboard::Error| {
        Error::new(Code::Unknown, format!("the clipboard does not take the picture: {error}"))
    };
    let bytes = fs::read(studio.image_path(id)?)?;
    let picture = image::load_from_memory(&bytes)
        .map_err(|error| Error::new(Code::Unknown, format!("cannot read the picture: {error}")))?
        .into_rgba8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let picture = arboard::ImageData { width, height, bytes: picture.into_raw().into() };

    let mut open = clipboard.0.lock().unwrap_or_else(PoisonError::into_inner);
    let board = match open.take() {
        Some(board) => board,
        None => arboard::Clipboard::new().map_err(refused)?,
    };
    open.insert(board).set_image(picture).map_err(refused)
}

/// Has to begin while the button is down, and on the main thread.
#[tauri::command(async)]
pub(super) fn drag_images(studio: Held<'_>, window: WebviewWindow, ids: Vec<u32>) -> Result<()> {
    let files = ids.iter().map(|id| studio.image_path(*id)).collect::<Result<Vec<_>>>()?;
    let first = ids.first().map(|id| studio.pixels(&format!("thumb/{id}"))).transpose()?;
    let picture = drag::Image::Raw(first.map(|pixels| pixels.bytes).unwrap_or_default());
    let dragged = window.clone();
    window
        .run_on_main_thread(move || {
            if let Err(error) = drag_out(&dragged, drag::DragItem::Files(files), picture) {
                tracing::warn!("pictures cannot be dragged out: {error}");
            }
        })
        .map_err(|error| Error::new(Code::Unknown, format!("cannot drag: {error}")))
}

#[cfg(target_os = "linux")]
type DragError = Box<dyn std::error::Error>;

#[cfg(target_os = "linux")]
fn drag_out(
    window: &WebviewWindow,
    item: drag::DragItem,
    picture: drag::Image,
) -> std::result::Result<(), DragError> {
    let window = window.gtk_window()?;
    Ok(drag::start_drag(&window, item, picture, |_, _| {}, drag::Options::default())?)
}

#[cfg(not(target_os = "linux"))]
fn drag_out(
    window: &WebviewWindow,
    item: drag::DragItem,
    picture: drag::Image,
) -> drag::Result<()> {
    drag::start_drag(window, item, picture, |_, _| {}, drag::Options::default())
}

#[tauri::command]
pub(super) async fn choose_files(window: WebviewWindow, kind: Choice) -> Result<Vec<PathBuf>> {
    let dialog = match kind {
        Choice::Models => dialog(&window)
            .set_title("Add models")
            .add_filter("Models", &["safetensors", "ckpt", "pt", "pth", "bin", "gguf"]),
        Choice::Pictures => dialog(&window)
            .set_title("Start from a picture")
            .add_filter("Pictures", &["png", "jpg", "jpeg", "webp"]),
    };
    let dialog = dialog.add_filter("All files", &["*"]);
    let chosen = ask(move || dialog.blocking_pick_files()).await?;
    Ok(chosen.into_iter().flatten().filter_map(path).collect())
}

#[tauri::command]
pub(super) async fn choose_folder(window: WebviewWindow) -> Result<Option<PathBuf>> {
    let dialog = dialog(&window).set_title("Choose a folder");
    Ok(ask(move || dialog.blocking_pick_folder()).await?.and_then(path))
}

/// Asks where a sheet goes, and writes it there: the page cannot name a place by itself.
#[tauri::command]
pub(super) async fn export_sheet(
    studio: Held<'_>,
    window: WebviewWindow,
    sheet: u32,
) -> Result<Option<PathBuf>> {
    let studio = studio.inner().clone();
    let title = studio.sheet(sheet)?.title;
    let dialog = dialog(&window)
        .set_title("Save the sheet")
        .set_directory(studio.pictures_folder())
        .set_file_name(format!("{}.png", file_name(&title)))
        .add_filter("PNG", &["png"]);
    let Some(chosen) = ask(move || dialog.blocking_save_file()).await?.and_then(path) else {
        return Ok(None);
    };
    let chosen = match chosen.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("png") => chosen,
        _ => PathBuf::from(format!("{}.png", chosen.display())),
    };
    ask(move || studio.export_sheet(sheet, &chosen).map(|()| Some(chosen))).await?
}

/// A title as a file's name: without what some systems forbid there.
fn file_name(title: &str) -> String {
    title.replace(['/', '\\', ':', '*', '?', '"', '<', '>', '|'], "-")
}

fn dialog(window: &WebviewWindow) -> FileDialogBuilder<tauri::Wry> {
    window.dialog().file().set_parent(window)
}

/// A dialog stays open for as long as the person likes: on a thread that nothing else waits for.
async fn ask<T: Send + 'static>(dialog: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tauri::async_runtime::spawn_blocking(dialog)
        .await
        .map_err(|error| Error::new(Code::Unknown, format!("the dialog failed: {error}")))
}

fn path(chosen: FilePath) -> Option<PathBuf> {
    chosen.into_path().ok()
}

#[tauri::command(async)]
pub(super) fn open_log(studio: Held<'_>) -> Result<()> {
    let folder = studio.log_folder();
    tauri_plugin_opener::open_path(&folder, None::<&str>).map_err(|error| {
        Error::new(Code::Unknown, "nothing opens the folder with the log")
            .hint(format!("it is `{}`", folder.display()))
            .because(error)
    })
}
