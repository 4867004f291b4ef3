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
    #[error("the card has no {wanted} bytes of memory left")]
    OutOfMemory {
        /// Bytes that were asked for.
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
