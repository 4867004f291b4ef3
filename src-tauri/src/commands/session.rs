//! Commands for what the window begins with and what the person owns.

use serde_json::Value;
use studio::{Result, Settings, catalog::Catalog, event::Event};
use tauri::{State, WebviewWindow, ipc::Channel};

use super::Held;
use crate::events::Listening;

#[tauri::command(async)]
pub(super) fn catalog(studio: Held<'_>) -> Catalog {
    studio.catalog()
}

#[tauri::command(async)]
pub(super) fn subscribe(
    studio: Held<'_>,
    listening: State<'_, Listening>,
    window: WebviewWindow,
    channel: Channel<Event>,
) -> Result<()> {
    listening.begin(window.label(), &studio, channel)
}

#[tauri::command(async)]
pub(super) fn save_session(studio: Held<'_>, session: Value) -> Result<()> {
    studio.save_session(&session)
}

#[tauri::command(async)]
pub(super) fn save_stack(studio: Held<'_>, name: String, stack: Value) -> Result<()> {
    studio.save_stack(&name, &stack)
}

#[tauri::command(async)]
pub(super) fn delete_stack(studio: Held<'_>, name: String) -> Result<()> {
    studio.delete_stack(&name)
}

#[tauri::command(async)]
pub(super) fn set_settings(studio: Held<'_>, settings: Settings) -> Result<()> {
    studio.set_settings(settings)
}
