//! The window: starts Tauri, holds the [`Studio`] and hands it what the page asks for.
//!
//! The way of a command: the page calls it by name (`ui/src/lib/ipc/client.ts`), a function in
//! [`commands`] takes it to the studio, and what comes back goes to the page. Everything that happens
//! by itself goes through one stream of events ([`events`]), everything that is seen through one
//! protocol ([`pixels`]).
//!
//! **Invariant:** nothing here decides anything about pictures or models. A command has no `if`; what
//! needs one belongs into the studio.

mod args;
mod commands;
mod events;
mod frame;
mod geometry;
mod journal;
mod notify;
mod pixels;
mod trouble;

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use studio::{DataFolder, Studio};

use crate::args::Args;

/// Runs the program from its options to its end.
#[must_use]
pub fn run() -> ExitCode {
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            trouble::tell(&failure);
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> studio::Result<()> {
    trouble::need_display()?;
    let data = match &args.data_dir {
        Some(folder) => DataFolder::at(&std::path::absolute(folder)?),
        None => DataFolder::of_this_machine()?,
    };
    journal::open(&data.log());
    let Some(studio) = Studio::open(data.clone(), &args.files()?)? else {
        tracing::info!("another window has the folder; it was handed what this one was given");
        return Ok(());
    };
    window(Arc::new(studio), data)
}

fn window(studio: Arc<Studio>, data: DataFolder) -> studio::Result<()> {
    let app = tauri::Builder::default()
        .plugin(tauri_plugin_dialog::init())
        .register_asynchronous_uri_scheme_protocol(pixels::SCHEME, {
            let studio = studio.clone();
            move |_, request, responder| pixels::answer(studio.clone(), &request, responder)
        })
        .manage(studio.clone())
        .manage(events::Listening::default())
        .manage(commands::Clipboard::default())
        .invoke_handler(commands::all())
        .setup(move |app| {
            notify::listen(app.handle(), &studio);
            frame::open(app.handle(), studio, &data)?;
            Ok(())
        })
        .build(tauri::generate_context!())
        .map_err(trouble::no_window)?;
    app.run(|_, _| {});
    Ok(())
}
