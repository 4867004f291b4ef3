//! What stops a generation, or keeps a file from being read.

use std::path::PathBuf;

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that stops a generation or keeps a file from being read.
///
/// A message says what the engine was doing, what it found, and what the person can do about it.
/// It starts in lower case and has no full stop, so that it can end a longer sentence.
/// Problems that do not stop a generation (an adapter module without a counterpart in the base
/// model) are not errors: they are listed in [`PatchReport`](crate::PatchReport).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused. `fs_err` puts the path and the operation into the message.
    #[error("{0}")]
    Io(#[from] std::io::Error),

    /// The file is not what its name promises.
    #[error("cannot read `{}`: it is {found}, not a safetensors or PyTorch file. {advice}", .path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What it is, with its article: "a zip archive", "empty".
        found: String,
        /// A sentence: what to do.
        advice: &'static str,
    },

    /// A safetensors or PyTorch file that contradicts itself.
    #[error(
        "cannot read `{}`: {problem}. The file is damaged or was not downloaded completely; get it \
         again", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// A file's size or date is no longer what it was when it was opened.
    #[error(
        "`{}` changed while it was in use: {problem}. Wait until it is written completely, then try \
         again", .path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What changed.
        problem: String,
    },

    /// A file or folder that is something known, but not something that can be used here.
    #[error("cannot use `{}` as {wanted}: it is {found}. {advice}", .path.display())]
    WrongKind {
        /// The file or folder.
        path: PathBuf,
        /// What it was meant to be, with its article: "a base model", "an adapter".
        wanted: &'static str,
        /// What it is, with its article.
        found: String,
        /// A sentence: what to do.
        advice: String,
    },

    /// A model without one of its parts.
    #[error("`{}` is incomplete: {missing}. {advice}", .path.display())]
    Incomplete {
        /// The file or folder.
        path: PathBuf,
        /// What is missing, as a clause: "it has no UNet".
        missing: String,
        /// A sentence: what to do.
        advice: String,
    },

    /// A tensor that has another shape than its place in the network needs.
    #[error(
        "`{}` has a tensor of the wrong shape: `{tensor}` is {found:?}, expected {expected}. The \
         file belongs to another architecture or is damaged", .path.display()
    )]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor's canonical name.
        tensor: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// What was expected, in words.
        expected: String,
    },

    /// An adapter none of whose modules exist in the base model.
    #[error(
        "`{adapter}` was made for {trained_for}, but `{checkpoint}` is {architecture}. Pick a base \
         model of the same family, or turn this adapter off"
    )]
    WrongBaseModel {
        /// The adapter's file name.
        adapter: String,
        /// The family that the adapter's modules belong to, or "another model".
        trained_for: String,
        /// The base model's file name.
        checkpoint: String,
        /// The base model's family.
        architecture: String,
    },

    /// Weights that are NaN or infinite.
    #[error(
        "`{}` holds a value that is not a number (NaN or infinite) in `{tensor}`. The file is broken: \
         get it again, or {advice}", .path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What to do otherwise.
        advice: &'static str,
    },

    /// The networks produced NaN or infinity although the weights are finite.
    #[error("{phase} produced values that are not numbers (NaN or infinite). {advice}")]
    Diverged {
        /// Where it happened.
        phase: &'static str,
        /// A sentence: what to do.
        advice: &'static str,
    },

    /// A parameter outside what can be made.
    #[error("{field} cannot be {found}: {rule}")]
    InvalidRequest {
        /// The parameter, as the person knows it.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it may be, as a clause.
        rule: String,
    },

    /// The device that was asked for cannot be used.
    #[error("cannot use {device}: {reason}")]
    Device {
        /// The device as it was asked for.
        device: String,
        /// Why not, and what to do.
        reason: String,
    },

    /// There is less memory than the picture needs.
    #[error(
        "not enough memory: {doing} takes about {} MB, and {} MB are free. {advice}, or close other \
         programs", .needed / 1_000_000, .available / 1_000_000
    )]
    OutOfMemory {
        /// What needs it, as a noun.
        doing: &'static str,
        /// Bytes.
        needed: u64,
        /// Bytes.
        available: u64,
        /// What else would do, as the beginning of a sentence.
        advice: &'static str,
    },

    /// The card has less memory than the picture needs, in every way that there is to make it.
    #[error(
        "the card's memory is full: {wanted} more bytes were needed. Choose a smaller picture or model, close \
         other programs that use the card, or choose the device `cpu`"
    )]
    CardMemory {
        /// Bytes that were asked for last.
        wanted: usize,
    },

    /// A card's driver gave up.
    #[error("{0}. Choose the device `cpu` to go on, or start the program again")]
    Card(String),

    /// The watcher asked to stop.
    #[error("the generation was cancelled")]
    Cancelled,

    /// A tensor operation failed. Always a bug in the engine: input is checked before it gets here.
    #[error("internal error in a tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl From<cuda::Error> for Error {
    fn from(error: cuda::Error) -> Error {
        match error {
            cuda::Error::OutOfMemory { wanted } => Error::CardMemory { wanted },
            other => Error::Card(other.to_string()),
        }
    }
}
