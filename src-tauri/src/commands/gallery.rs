//! Commands for pictures that were made, and those to start from.

use studio::{
    Result,
    cards::{InputPicture, RecipeOffer},
    gallery::{Deleted, GalleryCounts, GalleryImage, GalleryQuery},
};
use tauri::ipc::Response;

use super::Held;

/// The ids as one buffer of 32-bit numbers, lowest byte first: there may be 100,000.
#[tauri::command(async)]
pub(super) fn image_ids(studio: Held<'_>, query: GalleryQuery) -> Result<Response> {
    let ids = studio.image_ids(&query)?;
    let bytes: Vec<u8> = ids.into_iter().flat_map(u32::to_le_bytes).collect();
    Ok(Response::new(bytes))
}

#[tauri::command(async)]
pub(super) fn images(studio: Held<'_>, ids: Vec<u32>) -> Result<Vec<GalleryImage>> {
    studio.images(&ids)
}

#[tauri::command(async)]
pub(super) fn gallery_counts(studio: Held<'_>) -> Result<GalleryCounts> {
    studio.gallery_counts()
}

#[tauri::command(async)]
pub(super) fn set_favourite(studio: Held<'_>, ids: Vec<u32>, favourite: bool) -> Result<()> {
    studio.set_favourite(&ids, favourite)
}

#[tauri::command(async)]
pub(super) fn delete_images(studio: Held<'_>, ids: Vec<u32>, for_good: bool) -> Result<Deleted> {
    studio.delete_images(&ids, for_good)
}

#[tauri::command(async)]
pub(super) fn undo_delete(studio: Held<'_>, undo: u32) -> Result<()> {
    studio.undo_delete(undo)
}

#[tauri::command(async)]
pub(super) fn recipe_text(studio: Held<'_>, id: u32) -> Result<String> {
    studio.recipe_text(id)
}

#[tauri::command(async)]
pub(super) fn read_recipe(studio: Held<'_>, text: String) -> Result<RecipeOffer> {
    studio.read_recipe(&text)
}

#[tauri::command(async)]
pub(super) fn start_from(studio: Held<'_>, id: u32) -> Result<InputPicture> {
    studio.start_from(id)
}

#[tauri::command(async)]
pub(super) fn input_picture(studio: Held<'_>, sha256: String) -> Result<Option<InputPicture>> {
    studio.input_picture(&sha256)
}
