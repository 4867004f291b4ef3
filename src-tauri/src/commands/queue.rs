//! Commands for pictures that are wanted: the queue and Live.

use studio::{GenerationParams, Result};

use super::Held;

#[tauri::command(async)]
pub(super) fn enqueue(studio: Held<'_>, params: GenerationParams, count: u32) -> Result<Vec<u32>> {
    studio.enqueue(&params, count)
}

#[tauri::command(async)]
pub(super) fn cancel_job(studio: Held<'_>, job: u32) -> Result<()> {
    studio.cancel_job(job)
}

#[tauri::command(async)]
pub(super) fn requeue_job(studio: Held<'_>, job: u32) -> Result<()> {
    studio.requeue_job(job)
}

#[tauri::command(async)]
pub(super) fn dismiss_job(studio: Held<'_>, job: u32) -> Result<()> {
    studio.dismiss_job(job)
}

#[tauri::command(async)]
pub(super) fn move_job(studio: Held<'_>, job: u32, before: Option<u32>) -> Result<()> {
    studio.move_job(job, before)
}

#[tauri::command(async)]
pub(super) fn set_paused(studio: Held<'_>, paused: bool) -> Result<()> {
    studio.set_paused(paused)
}

#[tauri::command(async)]
pub(super) fn live(
    studio: Held<'_>,
    params: GenerationParams,
    wish: u32,
    moving: bool,
) -> Result<()> {
    studio.live(params, wish, moving)
}

#[tauri::command(async)]
pub(super) fn live_off(studio: Held<'_>) {
    studio.live_off();
}
