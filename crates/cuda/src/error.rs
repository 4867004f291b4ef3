//! What stops work on a card.

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that stops work on a card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The card cannot be used at all, or is not there.
    #[error("{0}")]
    Unusable(String),

    /// The card's memory does not suffice. What was there before is as it was.
    #[error("{}", out_of_memory(*.wanted))]
    OutOfMemory {
        /// Bytes that were asked for; 0 where the driver needed memory of its own.
        wanted: usize,
    },

    /// The driver or a library of it refused.
    #[error("{doing} on the card failed: {reason}")]
    Failed {
        /// What was being done: "copying weights", "launching `layer_norm`".
        doing: String,
        /// In the driver's words.
        reason: String,
    },
}

fn out_of_memory(wanted: usize) -> String {
    match wanted {
        0 => "the card has no memory left for the driver's own needs".into(),
        bytes => format!("the card has no {bytes} bytes of memory left"),
    }
}
