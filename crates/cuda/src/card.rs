//! Cards: which there are, and one that is in use.

use std::sync::Arc;

use crate::{Result, backend::Backend};

/// What is known of a card before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardInfo {
    /// Its number.
    pub index: usize,
    /// The maker's name for it.
    pub name: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// The driver's version, as CUDA's: "13.0".
    pub driver: String,
    /// Its compute capability, major and minor.
    pub capability: (u32, u32),
    /// Why it cannot be used, if it cannot: a clause.
    pub unusable: Option<String>,
}

/// One card with its queue of work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Card(pub(crate) Arc<dyn Backend>);

impl Card {
    /// A card that is not there: kernels compiled for the processor.
    #[cfg(feature = "emulated")]
    #[must_use]
    pub fn emulated() -> Card {
        Card(Arc::new(crate::emulated::Emulated::default()))
    }

    /// Bytes of memory that are free, and all that there are.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.0.memory()
    }
}
