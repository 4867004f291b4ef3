//! A base model as adapters see it: which modules it has, from its headers alone.

use std::path::Path;

use super::{AdapterReport, Outline, block::Blocks};
use crate::{Error, Result, architecture::Modules, checkpoint};

/// A base model that adapters can be held against before anything is loaded.
#[derive(Debug)]
pub struct Target {
    name: String,
    architecture: &'static str,
    modules: Modules,
    blocks: Blocks,
}

impl Target {
    /// Reads a base model's headers.
    ///
    /// # Errors
    /// Everything that is no base model that can be used is named in the error.
    pub fn open(path: &Path) -> Result<Target> {
        let (architecture, modules) = checkpoint::outline(path)?;
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into());
        let blocks = Blocks::of(&modules);
        Ok(Target { name, architecture: architecture.name, modules, blocks })
    }

    /// Which of its modules are in which block.
    #[must_use]
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// What an adapter would change here, and why it would be refused, if it would.
    #[must_use]
    pub fn fit(&self, adapter: &Outline) -> (AdapterReport, Option<Error>) {
        let fit = adapter.fit(&self.modules);
        let refusal = adapter.refusal(&fit, &self.name, self.architecture);
        (AdapterReport::new(adapter, &fit), refusal)
    }
}
