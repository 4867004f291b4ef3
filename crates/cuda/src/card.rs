//! Cards: which there are, and one that is in use.

use std::sync::Arc;

use crate::{
    Result,
    backend::{Backend, Recording},
};

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
    /// The NVIDIA cards of this machine, those that cannot be used among them. Never fails: where there are none,
    /// [`absence`](Card::absence) says why.
    #[must_use]
    pub fn list() -> Vec<CardInfo> {
        listing().unwrap_or_default()
    }

    /// Why there is no card: a clause. `None` if there is one.
    #[must_use]
    pub fn absence() -> Option<String> {
        listing().err()
    }

    /// Begins to use a card. Each call makes a queue of its own, with memory of its own.
    ///
    /// # Errors
    /// [`Error::Unusable`](crate::Error::Unusable) if there is no such card or it cannot be used, or those of
    /// the driver.
    #[cfg(feature = "nvidia")]
    pub fn open(index: usize) -> Result<Card> {
        Ok(Card(Arc::new(crate::nvidia::Nvidia::open(index)?)))
    }

    /// Begins to use a card.
    ///
    /// # Errors
    /// Always: this program was built without the feature `nvidia`.
    #[cfg(not(feature = "nvidia"))]
    pub fn open(_index: usize) -> Result<Card> {
        Err(crate::Error::Unusable(WITHOUT_CUDA.into()))
    }

    /// A card that is not there: kernels compiled for the processor.
    #[cfg(feature = "emulated")]
    #[must_use]
    pub fn emulated() -> Card {
        Card(Arc::new(crate::emulated::Emulated::default()))
    }

    /// The same, in want of memory.
    ///
    /// * `refuses`: the request for memory, counted from 0, at which it seems full
    /// * `memory`: all that it has, in bytes
    #[cfg(feature = "emulated")]
    #[must_use]
    pub fn emulated_short(refuses: Option<u32>, memory: Option<u64>) -> Card {
        Card(Arc::new(crate::emulated::Emulated::short(refuses, memory)))
    }

    /// Bytes of memory that are free, and all that there are.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.0.memory()
    }

    /// The most bytes of its memory that were in use at once since [`reset_peak`](Card::reset_peak). What only
    /// is kept for the next requests does not count.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.0.peak_bytes()
    }

    /// Begins to measure the peak anew.
    pub fn reset_peak(&self) {
        self.0.reset_peak();
    }

    /// Gives memory that is kept for the next requests back to the driver, for other programs.
    pub fn give_back(&self) {
        self.0.give_back();
    }

    /// Waits until all that is queued has run.
    ///
    /// # Errors
    /// Those of the work.
    pub fn wait(&self) -> Result<()> {
        self.0.wait()
    }

    /// The maker's libraries that are in use: "cuBLASLt 13.1.0, cuDNN 9.21.0", or "own kernels only".
    #[must_use]
    pub fn libraries(&self) -> String {
        self.0.libraries()
    }

    /// Records what `work` queues, without running it: [`Graph::replay`] then queues all of it at once, which
    /// costs the processor a few microseconds instead of some for each operation.
    ///
    /// Run the same work once before, plainly. That loads the kernels, lets the libraries choose their ways and
    /// leaves as much kept memory as the work needs.
    ///
    /// The result's buffers have their values after a replay, each time anew, and nobody else gets the memory
    /// that the work computes in as long as the graph is there, or a buffer of the result. What the work reads
    /// must stay as well: weights, and inputs, which change by [`Buffer::write`](crate::Buffer::write) before a
    /// replay. Within the work, nothing can be uploaded or downloaded.
    ///
    /// One thread works with the card meanwhile.
    ///
    /// # Errors
    /// Why nothing was recorded: a clause. The card is as it was before, and the work can run plainly.
    pub fn capture<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Graph), String> {
        match self.0.begin_recording() {
            Ok(true) => {}
            Ok(false) => return Err("this card does not record".into()),
            Err(error) => return Err(error.to_string()),
        }
        // Also a panic must not leave the card recording.
        let unfinished = Unfinished(self);
        let result = work().map_err(|error| error.to_string())?;
        std::mem::forget(unfinished);
        let recording = self.0.end_recording().map_err(|error| error.to_string())?;
        Ok((result, Graph(recording)))
    }
}

/// A recording that was begun and not ended.
struct Unfinished<'a>(&'a Card);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.0.forget_recording();
    }
}

/// Work that was recorded by [`Card::capture`].
#[derive(Debug)]
pub struct Graph(Box<dyn Recording>);

impl Graph {
    /// Queues all of it.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn replay(&self) -> Result<()> {
        self.0.replay()
    }

    /// How many operations there are.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.0.operations()
    }
}

#[cfg(feature = "nvidia")]
fn listing() -> Result<Vec<CardInfo>, String> {
    crate::nvidia::list()
}

#[cfg(not(feature = "nvidia"))]
const WITHOUT_CUDA: &str = "this program was built without CUDA";

#[cfg(not(feature = "nvidia"))]
fn listing() -> Result<Vec<CardInfo>, String> {
    Err(WITHOUT_CUDA.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are cards, or a reason why there are none: on any machine.
    #[test]
    fn cards_are_listed_or_a_reason_is_given() {
        let cards = Card::list();
        assert_eq!(cards.is_empty(), Card::absence().is_some());
        for (index, card) in cards.iter().enumerate() {
            assert_eq!(card.index, index);
            assert!(!card.name.is_empty());
        }
        let trouble = Card::open(cards.len() + 1).expect_err("there is no such card").to_string();
        if let Some(reason) = Card::absence() {
            assert!(trouble.contains(&reason), "{trouble}");
        }
    }
}
