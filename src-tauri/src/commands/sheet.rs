//! Commands for sheets: many pictures in a grid.

use studio::{
    GenerationParams, Result,
    sheet::{AxisWish, Sheet, SheetPlan},
};

use super::Held;

#[tauri::command(async)]
pub(super) fn plan_sheet(
    studio: Held<'_>,
    params: GenerationParams,
    x: AxisWish,
    y: Option<AxisWish>,
) -> Result<SheetPlan> {
    studio.plan_sheet(&params, &x, y.as_ref())
}

#[tauri::command(async)]
pub(super) fn start_sheet(
    studio: Held<'_>,
    params: GenerationParams,
    x: AxisWish,
    y: Option<AxisWish>,
) -> Result<u32> {
    studio.start_sheet(&params, &x, y.as_ref())
}

#[tauri::command(async)]
pub(super) fn sheet(studio: Held<'_>, id: u32) -> Result<Sheet> {
    studio.sheet(id)
}

#[tauri::command(async)]
pub(super) fn sheet_cell(studio: Held<'_>, id: u32, place: u32) -> Result<GenerationParams> {
    studio.sheet_cell(id, place)
}

#[tauri::command(async)]
pub(super) fn cancel_sheet(studio: Held<'_>, id: u32) -> Result<()> {
    studio.cancel_sheet(id)
}

#[tauri::command(async)]
pub(super) fn complete_sheet(studio: Held<'_>, id: u32) -> Result<()> {
    studio.complete_sheet(id)
}

#[tauri::command(async)]
pub(super) fn delete_sheet(studio: Held<'_>, id: u32) -> Result<()> {
    studio.delete_sheet(id)
}
