//! Patching: the working weights as a function of base model and adapter stack.
//!
//! For every module, the working weight is the base weight from the file plus the sum of the changes
//! that the adapters of the stack make to it. Each change is computed from the *unpatched* base, all
//! are summed in f32, in the order of the adapters' content hashes, and only then is the sum rounded
//! to the working precision. What is of low rank is multiplied in one product for all adapters, with
//! factors in the working precision, row by row between reading the base and packing it: the weight is
//! passed once. Nothing is ever patched in place, so there is nothing to undo:
//!
//! - taking an adapter off gives the base's very bits back;
//! - the order of the stack changes no bit;
//! - what a stack was made of is kept per module, so a slider costs the modules of its own adapter and
//!   an unchanged stack costs nothing.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use crate::{
    AdapterUse, Error, PatchReport, Phase, Precision, Progress, Result, Watch,
    adapter::{Adapter, AdapterReport, Base, Delta, Fit},
    architecture::Modules,
    checkpoint::Tensors,
    model::layers::Layers,
    ops::{Role, Weights},
};

/// Modules that are made between two looks at the watch.
const BATCH: usize = 16;

/// An adapter with what it can do for one base model.
#[derive(Debug)]
pub(crate) struct Fitted {
    pub(crate) adapter: Adapter,
    pub(crate) fit: Fit,
}

/// One adapter of the stack, its weights settled.
#[derive(Debug, Clone)]
pub(crate) struct Coat {
    pub(crate) fitted: Arc<Fitted>,
    pub(crate) unet_weight: f64,
    pub(crate) text_encoder_weight: f64,
}

impl Coat {
    fn weight(&self, module: &str) -> f64 {
        match module.starts_with("unet.") {
            true => self.unet_weight,
            false => self.text_encoder_weight,
        }
    }
}

/// How far the making of weights is, over all calls of [`PatchedWeights::make`] that belong together.
pub(crate) struct Tally<'a, 'w> {
    phase: Phase,
    done: usize,
    total: usize,
    watch: &'a mut Watch<'w>,
}

impl<'a, 'w> Tally<'a, 'w> {
    /// Announces that `total` modules will be made.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the watcher does not want them.
    pub(crate) fn new(phase: Phase, total: usize, watch: &'a mut Watch<'w>) -> Result<Self> {
        let mut tally = Tally { phase, done: 0, total, watch };
        tally.add(0)?;
        Ok(tally)
    }

    fn add(&mut self, made: usize) -> Result<()> {
        self.done += made;
        let Tally { phase, done, total, .. } = *self;
        match (self.watch)(Progress { phase, done, total, step: 0, denoised: None }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

/// What a module's working weight was made of: content hashes with weights, in order.
type Recipe = Vec<([u8; 32], u64)>;

/// The working weights of one base model under the latest stack.
#[derive(Debug, Default)]
pub(crate) struct PatchedWeights {
    layers: Layers,
    recipes: HashMap<String, Recipe>,
    precision: Option<Precision>,
}

impl PatchedWeights {
    /// The layers of everything that was prepared.
    pub(crate) fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Bytes of all working weights.
    pub(crate) fn bytes(&self) -> u64 {
        self.layers.modules.values().map(Weights::bytes).sum()
    }

    /// Gives up the working weights of all modules whose names begin so, to be made anew when they are
    /// wanted.
    pub(crate) fn forget(&mut self, prefix: &str) {
        self.layers.modules.retain(|module, _| !module.starts_with(prefix));
        self.recipes.retain(|module, _| !module.starts_with(prefix));
    }

    /// The modules among `wanted` whose working weight is not yet what `stack` makes of it, with
    /// what it is to be made of. Weights in another precision are given up here.
    pub(crate) fn outdated(
        &mut self,
        wanted: impl Iterator<Item = String>,
        stack: &[Coat],
        precision: Precision,
    ) -> Vec<(String, Recipe)> {
        if self.precision != Some(precision) {
            *self = PatchedWeights { precision: Some(precision), ..PatchedWeights::default() };
        }
        wanted
            .filter_map(|module| {
                let recipe: Recipe = acting(stack, &module)
                    .map(|(coat, weight)| (coat.fitted.adapter.hash(), weight.to_bits()))
                    .collect();
                (self.recipes.get(&module) != Some(&recipe)).then_some((module, recipe))
            })
            .collect()
    }

    /// Makes the working weights of `outdated` modules.
    ///
    /// The old ones are dropped first, so that the two never exist together; the networks that hold
    /// them must have been dropped by the caller. An error or a cancelled watch leaves the modules
    /// that were not made missing, to be made the next time.
    pub(crate) fn make(
        &mut self,
        tensors: &Tensors,
        stack: &[Coat],
        outdated: Vec<(String, Recipe)>,
        tally: &mut Tally<'_, '_>,
    ) -> Result<()> {
        for (module, _) in &outdated {
            self.layers.modules.remove(module);
            self.recipes.remove(module);
        }
        self.layers.path = tensors.path().to_owned();
        let precision = self.precision.expect("set when the outdated modules were listed");
        for batch in outdated.chunks(BATCH) {
            let made: Vec<Weights> = batch
                .par_iter()
                .map(|(module, _)| patched(tensors, stack, module, precision))
                .collect::<Result<_>>()?;
            for ((module, recipe), weights) in batch.iter().zip(made) {
                self.layers.modules.insert(module.clone(), weights);
                self.recipes.insert(module.clone(), recipe.clone());
            }
            tally.add(batch.len())?;
        }
        Ok(())
    }
}

/// The adapters of a stack that change a module, with their weights there.
fn acting<'a>(stack: &'a [Coat], module: &'a str) -> impl Iterator<Item = (&'a Coat, f64)> {
    stack
        .iter()
        .map(move |coat| (coat, coat.weight(module)))
        .filter(move |(coat, weight)| *weight != 0.0 && coat.fitted.fit.changes(module))
}

/// One module's working weights: base plus the sum of all changes.
fn patched(
    tensors: &Tensors,
    stack: &[Coat],
    module: &str,
    precision: Precision,
) -> Result<Weights> {
    let base = tensors.weight(module)?;
    let mut bias = tensors.bias(module, base.shape[0])?;
    let mut delta = Delta::default();
    let read = || {
        let mut weight = vec![0.0; base.shape.iter().product()];
        base.read(0, &mut weight)?;
        Ok(weight)
    };
    let unpatched = bias.clone();
    let module_base = Base::new(&base.shape, unpatched.as_deref(), &read);
    for (coat, m) in acting(stack, module) {
        coat.fitted.adapter.add_delta(&coat.fitted.fit, module, &module_base, m, &mut delta)?;
    }
    match (&mut bias, &delta.bias) {
        (Some(bias), Some(change)) => add(bias, change),
        (None, Some(change)) => bias = Some(change.clone()),
        (_, None) => {}
    }
    let width: usize = base.shape[1..].iter().product();
    let rows = |first: usize, to: &mut [f32]| {
        base.read(first, to)?;
        if let Some(rest) = &delta.rest {
            add(to, &rest[first * width..]);
        }
        Ok(())
    };
    let form = (Role::of(module), precision);
    Weights::new(&base.shape, bias.as_deref(), form, &delta.factors(), rows)
}

fn add(to: &mut [f32], change: &[f32]) {
    for (value, change) in to.iter_mut().zip(change) {
        *value += change;
    }
}

/// Opened adapters and how they fit the loaded base, by path.
#[derive(Debug, Default)]
pub(crate) struct Adapters {
    opened: HashMap<PathBuf, Arc<Fitted>>,
}

impl Adapters {
    /// The adapter at `path`, opened and fitted to `modules` if that has not been done yet.
    fn open(&mut self, path: &Path, modules: &Modules) -> Result<Arc<Fitted>> {
        if let Some(fitted) = self.opened.get(path).filter(|fitted| fitted.adapter.is_current()) {
            return Ok(fitted.clone());
        }
        let adapter = Adapter::open(path)?;
        let fit = adapter.outline().fit(modules);
        let fitted = Arc::new(Fitted { adapter, fit });
        self.opened.insert(path.to_owned(), fitted.clone());
        Ok(fitted)
    }

    /// Opens a whole stack: in the order of content hashes, the same content once with its weights
    /// summed, nothing that weighs 0. Also reports on each use, in the order of the request.
    pub(crate) fn stack(
        &mut self,
        uses: &[AdapterUse],
        modules: &Modules,
        checkpoint: &str,
        architecture: &str,
    ) -> Result<(Vec<Coat>, PatchReport)> {
        let mut stack: BTreeMap<[u8; 32], Coat> = BTreeMap::new();
        let mut report = PatchReport::default();
        for adapter_use in uses {
            let fitted = self.open(&adapter_use.path, modules)?;
            let outline = fitted.adapter.outline();
            if let Some(refusal) = outline.refusal(&fitted.fit, checkpoint, architecture) {
                return Err(refusal);
            }
            report.adapters.push(AdapterReport::new(outline, &fitted.fit));
            stack
                .entry(fitted.adapter.hash())
                .and_modify(|coat| {
                    coat.unet_weight += adapter_use.unet_weight;
                    coat.text_encoder_weight += adapter_use.text_encoder_weight;
                })
                .or_insert(Coat {
                    fitted,
                    unet_weight: adapter_use.unet_weight,
                    text_encoder_weight: adapter_use.text_encoder_weight,
                });
        }
        // Opened files that are no longer in use are closed.
        self.opened.retain(|path, _| uses.iter().any(|adapter_use| adapter_use.path == *path));
        Ok((stack.into_values().collect(), report))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{
        checkpoint::Checkpoint,
        testing::{Dice, adapter, write_adapter, write_folder},
    };

    /// The tiny model and three adapters for it.
    struct Bench {
        folder: TempDir,
        checkpoint: Checkpoint,
        modules: Modules,
        adapters: Adapters,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            write_folder("tiny", &folder.path().join("model"));
            for name in ["a", "b", "c"] {
                write_adapter("tiny", name, &folder.path().join(name));
            }
            let checkpoint = Checkpoint::open(&folder.path().join("model")).unwrap();
            let mut modules = checkpoint.tensors.modules();
            modules.retain(|name, _| !name.starts_with("vae."));
            Bench { folder, checkpoint, modules, adapters: Adapters::default() }
        }

        fn uses(&self, stack: &[(&str, f64)]) -> Vec<AdapterUse> {
            let path = |name: &str| self.folder.path().join(name);
            stack.iter().map(|&(name, weight)| adapter(&path(name), weight)).collect()
        }

        /// Brings `weights` to what `uses` make of them. Says which modules were made.
        fn patch(
            &mut self,
            weights: &mut PatchedWeights,
            uses: &[AdapterUse],
            precision: Precision,
        ) -> Vec<String> {
            let (stack, _) = self.adapters.stack(uses, &self.modules, "tiny", "sd1").unwrap();
            let outdated = weights.outdated(self.modules.keys().cloned(), &stack, precision);
            let made = outdated.iter().map(|(module, _)| module.clone()).collect();
            let mut watch = |_: Progress<'_>| ControlFlow::Continue(());
            let mut tally = Tally::new(Phase::Patch, outdated.len(), &mut watch).unwrap();
            weights.make(&self.checkpoint.tensors, &stack, outdated, &mut tally).unwrap();
            made
        }
    }

    fn bits(weights: &PatchedWeights) -> BTreeMap<&str, Vec<u32>> {
        let modules = weights.layers().modules.iter();
        modules.map(|(name, weights)| (name.as_str(), weights.bits())).collect()
    }

    /// Whatever was done to the stack, the weights are those of one who starts with it.
    #[test]
    fn a_hundred_changes_leave_no_trace() {
        for precision in [Precision::F32, Precision::Bf16] {
            let mut bench = Bench::new();
            let (mut plain, mut weights) = (PatchedWeights::default(), PatchedWeights::default());
            bench.patch(&mut plain, &[], precision);
            let mut dice = Dice(7);
            let mut stack = Vec::new();
            for round in 0..100 {
                dice.change(&mut stack);
                let uses = bench.uses(&stack);
                bench.patch(&mut weights, &uses, precision);
                if round % 10 == 9 {
                    let mut fresh = PatchedWeights::default();
                    bench.patch(&mut fresh, &uses, precision);
                    assert!(bits(&weights) == bits(&fresh), "round {round}: {stack:?}");
                    let patched = stack.iter().any(|(_, weight)| *weight != 0.0);
                    assert_eq!(bits(&weights) != bits(&plain), patched, "{round}: {stack:?}");
                }
            }
            bench.patch(&mut weights, &[], precision);
            assert!(bits(&weights) == bits(&plain), "the empty stack after all");
        }
    }

    /// Everything that a slider's adapter does not act on stays where it is in memory.
    #[test]
    fn a_slider_touches_what_its_adapter_acts_on() {
        let mut bench = Bench::new();
        let mut weights = PatchedWeights::default();
        let mut uses = bench.uses(&[("a", 0.5), ("b", 0.3)]);
        assert_eq!(bench.patch(&mut weights, &uses, Precision::F32).len(), bench.modules.len());
        assert!(bench.patch(&mut weights, &uses, Precision::F32).is_empty(), "nothing changed");

        let before = weights.layers().modules.clone();
        uses[0].text_encoder_weight = 0.6;
        let made = bench.patch(&mut weights, &uses, Precision::F32);
        assert!(!made.is_empty());
        for (name, weights) in &weights.layers().modules {
            let acts = name.starts_with("text_encoder.") && name.ends_with("_proj");
            assert_eq!(made.contains(name), acts, "{name}");
            assert_eq!(weights.is(&before[name]), !acts, "{name}");
            assert_eq!(weights.bits() == before[name].bits(), !acts, "{name}");
        }
    }
}
