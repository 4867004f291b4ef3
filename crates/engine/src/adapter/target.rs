//! A base model as adapters see it: which modules it has, from its headers alone.

use std::path::Path;

use super::{
    AdapterReport, Outline,
    block::{Block, Blocks},
};
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

    /// Where an adapter's modules are: see [`Blocks::coverage`].
    #[must_use]
    pub fn coverage(&self, report: &AdapterReport) -> Vec<(Block, usize, usize)> {
        self.blocks.coverage(report.applied.iter().map(String::as_str))
    }

    /// What an adapter would change here, and why it would be refused, if it would.
    #[must_use]
    pub fn fit(&self, adapter: &Outline) -> (AdapterReport, Option<Error>) {
        let fit = adapter.fit(&self.modules);
        let refusal = adapter.refusal(&fit, &self.name, self.architecture);
        (AdapterReport::new(adapter, &fit), refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::repository;

    /// Neither block of the text encoders holds anything else, such as the VAE.
    #[test]
    fn a_target_has_what_adapters_can_change() {
        let target = Target::open(&repository("assets/starter/model")).unwrap();
        let text = target.modules.keys().filter(|name| name.starts_with("text_encoder."));
        assert_eq!(target.blocks.sizes()[Block::TextEncoder.index()], text.count());
        assert!(!target.modules.keys().any(|name| name.starts_with("vae.")));
    }
}
