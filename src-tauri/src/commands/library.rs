//! Commands for model files, and for what is dropped on the window.

use std::path::PathBuf;

use studio::{
    Result, TokenCount,
    cards::{
        ConvertPlan, ConvertWish, DropItem, Dropped, Fit, LibraryView, ModelNote, StackStrength,
    },
};

use super::Held;

#[tauri::command(async)]
pub(super) fn library(studio: Held<'_>) -> Result<LibraryView> {
    studio.library()
}

#[tauri::command(async)]
pub(super) fn fits(studio: Held<'_>, checkpoint: u32, adapters: Vec<u32>) -> Result<Vec<Fit>> {
    studio.fits(checkpoint, &adapters)
}

#[tauri::command(async)]
pub(super) fn strengths(
    studio: Held<'_>,
    checkpoint: u32,
    adapters: Vec<u32>,
) -> Result<StackStrength> {
    studio.strengths(checkpoint, &adapters)
}

#[tauri::command(async)]
pub(super) fn set_model_note(studio: Held<'_>, card: u32, note: ModelNote) -> Result<()> {
    studio.set_model_note(card, &note)
}

#[tauri::command(async)]
pub(super) fn set_cover(studio: Held<'_>, card: u32, image: Option<u32>) -> Result<()> {
    studio.set_cover(card, image)
}

#[tauri::command(async)]
pub(super) fn copy_into_library(studio: Held<'_>, card: u32) -> Result<()> {
    studio.copy_into_library(card)
}

#[tauri::command(async)]
pub(super) fn cancel_copy(studio: Held<'_>, card: u32) {
    studio.cancel_copy(card);
}

#[tauri::command(async)]
pub(super) fn plan_conversion(
    studio: Held<'_>,
    card: u32,
    wish: ConvertWish,
) -> Result<ConvertPlan> {
    studio.plan_conversion(card, &wish)
}

#[tauri::command(async)]
pub(super) fn convert_model(studio: Held<'_>, card: u32, wish: ConvertWish) -> Result<()> {
    studio.convert_model(card, &wish)
}

#[tauri::command(async)]
pub(super) fn cancel_conversion(studio: Held<'_>, card: u32) {
    studio.cancel_conversion(card);
}

#[tauri::command(async)]
pub(super) fn forget_model(studio: Held<'_>, card: u32) -> Result<()> {
    studio.forget_model(card)
}

#[tauri::command(async)]
pub(super) fn delete_model(studio: Held<'_>, card: u32) -> Result<()> {
    studio.delete_model(card)
}

#[tauri::command(async)]
pub(super) fn key_listing(studio: Held<'_>, card: u32) -> Result<String> {
    studio.key_listing(card)
}

#[tauri::command(async)]
pub(super) fn decline_folder(studio: Held<'_>, path: String) -> Result<()> {
    studio.decline_folder(&path)
}

#[tauri::command(async)]
pub(super) fn rescan(studio: Held<'_>) {
    studio.rescan();
}

#[tauri::command(async)]
pub(super) fn describe_drop(
    studio: Held<'_>,
    paths: Vec<PathBuf>,
    checkpoint: Option<u32>,
) -> Vec<DropItem> {
    studio.describe_drop(&paths, checkpoint)
}

#[tauri::command(async)]
pub(super) fn drop_files(studio: Held<'_>, paths: Vec<PathBuf>) -> Vec<Dropped> {
    studio.drop_files(&paths)
}

#[tauri::command(async)]
pub(super) fn count_tokens(
    studio: Held<'_>,
    checkpoint: Option<u32>,
    adapters: Vec<u32>,
    text: String,
) -> Result<TokenCount> {
    studio.count_tokens(checkpoint, &adapters, &text)
}
