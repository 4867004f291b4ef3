//! What the page may ask for, one function a command, in the order of `ui/src/lib/ipc/client.ts`.
//!
//! Commands are plain functions that Tauri runs away from the main thread. A new one is a function
//! here, a line in [`all`], in `build.rs` and in `capabilities/main.json`; a test finds what was
//! forgotten.

mod desktop;
mod gallery;
mod library;
mod queue;
mod session;
mod sheet;

pub(crate) use desktop::Clipboard;
use std::sync::Arc;
use studio::Studio;
use tauri::{State, Wry, ipc::Invoke};

/// The studio, as commands are given it.
type Held<'a> = State<'a, Arc<Studio>>;

/// Answers every command.
pub(crate) fn all() -> impl Fn(Invoke<Wry>) -> bool + Send + Sync + 'static {
    tauri::generate_handler![
        session::catalog,
        session::subscribe,
        queue::enqueue,
        queue::cancel_job,
        queue::requeue_job,
        queue::dismiss_job,
        queue::move_job,
        queue::set_paused,
        sheet::plan_sheet,
        sheet::start_sheet,
        sheet::sheet,
        sheet::sheet_cell,
        sheet::cancel_sheet,
        sheet::complete_sheet,
        sheet::delete_sheet,
        desktop::export_sheet,
        queue::live,
        queue::live_off,
        gallery::image_ids,
        gallery::images,
        gallery::gallery_counts,
        gallery::set_favourite,
        gallery::delete_images,
        gallery::undo_delete,
        desktop::show_image,
        desktop::copy_image,
        desktop::drag_images,
        gallery::recipe_text,
        gallery::read_recipe,
        library::library,
        library::fits,
        library::strengths,
        library::set_model_note,
        library::set_cover,
        library::copy_into_library,
        library::cancel_copy,
        library::plan_conversion,
        library::convert_model,
        library::cancel_conversion,
        library::forget_model,
        library::delete_model,
        desktop::show_model,
        library::key_listing,
        library::decline_folder,
        library::rescan,
        library::describe_drop,
        library::drop_files,
        gallery::start_from,
        gallery::input_picture,
        library::count_tokens,
        session::save_session,
        session::save_stack,
        session::delete_stack,
        session::set_settings,
        desktop::choose_files,
        desktop::choose_folder,
        desktop::open_log,
    ]
}
