//! Tells Tauri which commands there are, so that each needs the permission in `capabilities/main.json`.

/// All commands, as the page calls them.
const COMMANDS: &[&str] = &[
    "catalog",
    "subscribe",
    "enqueue",
    "cancel_job",
    "requeue_job",
    "dismiss_job",
    "move_job",
    "set_paused",
    "live",
    "live_off",
    "image_ids",
    "images",
    "gallery_counts",
    "set_favourite",
    "delete_images",
    "undo_delete",
    "show_image",
    "copy_image",
    "drag_images",
    "recipe_text",
    "read_recipe",
    "library",
    "fits",
    "set_model_note",
    "set_cover",
    "copy_into_library",
    "cancel_copy",
    "plan_conversion",
    "convert_model",
    "cancel_conversion",
    "forget_model",
    "delete_model",
    "show_model",
    "key_listing",
    "decline_folder",
    "rescan",
    "describe_drop",
    "drop_files",
    "start_from",
    "input_picture",
    "count_tokens",
    "save_session",
    "save_stack",
    "delete_stack",
    "set_settings",
    "choose_files",
    "choose_folder",
    "open_log",
];

fn main() {
    let manifest = tauri_build::AppManifest::new().commands(COMMANDS);
    tauri_build::try_build(tauri_build::Attributes::new().app_manifest(manifest))
        .expect("the window's configuration can be used");
}
