//! Impasto from the command line: the same as in its window, without one.
//!
//! Only what a terminal needs is here: options, progress, exit codes. Results go to stdout, everything
//! else to stderr.

mod args;
mod convert;
mod generate;
mod inspect;
mod list;
mod output;
mod progress;
mod sheet;
mod tensors;

use std::process::ExitCode;

use clap::Parser;
use studio::{Code, Error};

use crate::args::{Cli, Command};

/// Keeps the pages that a picture needed for the next one; the system's allocator gives them back and
/// takes them anew, which costs a good part of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell reports for a program that Ctrl-C ended.
const CANCELLED: u8 = 130;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Generate(args) => generate::generate(&args),
        Command::Sheet(args) => sheet::sheet(&args),
        Command::Bench(args) => generate::bench(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Convert(args) => convert::convert(&args),
        Command::List(args) => list::list(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    if error.code() == Code::Cancelled {
        output::note("cancelled");
        return ExitCode::from(CANCELLED);
    }
    output::note(&format!("error: {error}"));
    if let Some(hint) = error.suggestion() {
        output::note(&format!("hint: {hint}"));
    }
    match error.code() {
        // As clap ends for options that it refuses itself.
        Code::InvalidParams { .. } => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}
