//! The log: a file a day, a week of them, and warnings on the terminal too.

use std::{panic, path::Path};

use tracing::level_filters::LevelFilter;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::{Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

const KEPT: usize = 7;

/// Writes what happens from now on into `folder`. A folder that cannot be written is no reason not to
/// start.
pub(crate) fn open(folder: &Path) {
    // Without it, the appender complains that there is nothing to clear away.
    let _ = fs_err::create_dir_all(folder);
    let file = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("impasto")
        .filename_suffix("log")
        .max_log_files(KEPT)
        .build(folder);
    let (file, refused) = match file {
        Ok(file) => (Some(file), None),
        Err(error) => (None, Some(error)),
    };
    // Written at once, not by a thread of its own: what is said last matters most.
    let journal = file
        .map(|file| fmt::layer().with_ansi(false).with_writer(file).with_filter(LevelFilter::INFO));
    let terminal = fmt::layer()
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_filter(LevelFilter::WARN);
    // Fails only if it was done before.
    let _ = tracing_subscriber::registry().with(journal).with(terminal).try_init();

    if let Some(error) = refused {
        tracing::warn!("cannot write a log to `{}`: {error}", folder.display());
    }
    log_panics();
    tracing::info!("Impasto {} starts", env!("CARGO_PKG_VERSION"));
}

/// A bug in one thread shows in the log, where a report of it can be taken from.
fn log_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let trace = std::backtrace::Backtrace::force_capture();
        tracing::error!("panic in `{}`: {info}\n{trace}", thread.name().unwrap_or("a thread"));
        before(info);
    }));
}
