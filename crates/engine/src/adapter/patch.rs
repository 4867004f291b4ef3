//! Patching: the working weights as a function of base model and adapter stack.
//!
//! For every module, the working weight is the base weight from the file plus the sum of the changes
//! that the adapters of the stack make to it. Each change is computed from the *unpatched* base, all
//! are summed in f32, in the order of the adapters' content hashes, and only then is the sum rounded
//! to the working precision. What is of low rank is multiplied in one product for all adapters, with
//! factors in the working precision, row by row between reading the base and packing it: the weight is
//! passed once. Where a weight changes over the steps, the products may act beside the layer instead
//! ([`way`](super::way)). Nothing is ever patched in place, so there is nothing to undo:
//!
//! - taking an adapter off gives the base's very bits back;
//! - the order of the stack changes no bit;
//! - what a stack was made of is kept per module, so a slider costs the modules of its own adapter and
//!   an unchanged stack costs nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rayon::prelude::*;

use crate::{
    AdapterUse, Error, PatchReport, Phase, Precision, Progress, Result, Watch,
    adapter::{
        Adapter, AdapterReport, Base, Delta, Fit,
        block::{Block, Blocks},
        curve::position,
        parts::Pair,
        way::{self, Changed, Demand},
    },
    architecture::Modules,
    checkpoint::Tensors,
    device,
    model::layers::Layers,
    ops::{Change, Device, Origin, Remains, Role, Stay, Storage, Weights},
    text::embedding::Embedding,
};

/// Modules that are made between two looks at the watch.
const BATCH: usize = 16;

/// Adapters that stay open although they are not in use.
const RESTING: usize = 16;

/// An adapter with what it can do for one base model.
#[derive(Debug)]
pub(crate) struct Fitted {
    pub(crate) adapter: Adapter,
    pub(crate) fit: Fit,
    kept: Mutex<Kept>,
}

/// Factors that were read, so that a slider need not read them again.
#[derive(Debug)]
struct Kept {
    /// By module, at weight 1.
    pairs: HashMap<String, Vec<Pair>>,
    /// How many more may be kept.
    bytes_left: u64,
}

impl Default for Kept {
    /// None yet, and room for some.
    fn default() -> Kept {
        let bytes_left = device::memory().map_or(128 << 20, |bytes| bytes / 64);
        Kept { pairs: HashMap::new(), bytes_left }
    }
}

impl Fitted {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what was read of it.
    fn rest(&self) {
        let mut kept = self.lock();
        if !kept.pairs.is_empty() {
            *kept = Kept::default();
        }
    }

    /// A module's factors at weight 1. `None` if its change is not just their product.
    fn factors(&self, module: &str, base: &Base<'_>) -> Result<Option<Vec<Pair>>> {
        let outline = self.adapter.outline();
        if outline.product_rank(&self.fit, module).is_none() {
            return Ok(None);
        }
        if let Some(pairs) = self.lock().pairs.get(module) {
            return Ok(Some(pairs.clone()));
        }
        let mut change = Delta::default();
        outline.add_delta(&self.fit, module, base, 1.0, &mut change)?;
        let Delta { pairs, rest: None, bias: None } = change else { return Ok(None) };
        let bytes: u64 = pairs.iter().map(Pair::bytes).sum();
        let mut kept = self.lock();
        if let Some(left) = kept.bytes_left.checked_sub(bytes) {
            kept.bytes_left = left;
            kept.pairs.insert(module.to_owned(), pairs.clone());
        }
        Ok(Some(pairs))
    }
}

/// One adapter of the stack, with everything that was asked of it.
#[derive(Debug, Clone)]
pub(crate) struct Coat {
    pub(crate) fitted: Arc<Fitted>,
    /// The same content may be there more than once: then the weights are added up.
    uses: Vec<AdapterUse>,
    rank_limit: Option<usize>,
}

impl Coat {
    /// Adds what it changes in a module, so many times, to the sum.
    fn add_delta(
        &self,
        module: &str,
        base: &Base<'_>,
        weight: f64,
        delta: &mut Delta,
    ) -> Result<()> {
        let Fitted { adapter, fit, .. } = &*self.fitted;
        let limited = (weight, self.rank_limit);
        match self.fitted.factors(module, base)? {
            None => adapter.outline().add_limited(fit, module, base, limited, delta),
            Some(pairs) => {
                for mut pair in pairs {
                    pair.scale *= weight;
                    pair.limit(self.rank_limit);
                    delta.pairs.push(pair);
                }
                Ok(())
            }
        }
    }

    /// Whether its weight is another at another step.
    fn changes_over_steps(&self) -> bool {
        self.uses.iter().any(|adapter| !adapter.over_steps.is_level())
    }

    /// The rank of its change of a module, if that is a product of factors.
    fn rank(&self, module: &str) -> Option<usize> {
        let Fitted { adapter, fit, .. } = &*self.fitted;
        let rank = adapter.outline().product_rank(fit, module)?;
        Some(self.rank_limit.map_or(rank, |limit| rank.min(limit)))
    }

    /// What its factors are.
    fn origin(&self) -> Origin {
        (self.fitted.adapter.hash(), self.rank_limit)
    }

    /// Its weight in a block.
    fn weight(&self, block: Block, position: f64) -> f64 {
        AdapterUse::sum(&self.uses, block, position)
    }
}

/// What a coat is, and the bits of what it weighs.
pub(crate) type Share = (Origin, u64);

/// The adapters of a request, in the order of their content hashes, at one place among the steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stack {
    coats: Vec<Coat>,
    blocks: Arc<Blocks>,
    /// Modules whose change acts beside the layer.
    beside: Arc<BTreeSet<String>>,
    /// See [`curve::position`](super::curve::position).
    pub(crate) position: f64,
}

impl Stack {
    /// Whether some weight is another at another step.
    pub(crate) fn changes_over_steps(&self) -> bool {
        self.coats.iter().any(Coat::changes_over_steps)
    }

    /// Chooses the modules whose change acts beside the layer, for what a picture asks of them.
    fn beside(&self, modules: &Modules, demand: Demand) -> BTreeSet<String> {
        if !self.changes_over_steps() {
            return BTreeSet::new();
        }
        // The steps that begin with another weight.
        let changes = |coat: &Coat| -> Vec<u32> {
            let changes = |step: &u32| {
                let [now, before] = [*step, step - 1].map(|step| position(step, demand.steps));
                let mut curves = coat.uses.iter().map(|adapter| &adapter.over_steps);
                curves.any(|curve| curve.at(now) != curve.at(before))
            };
            (2..=demand.steps).filter(changes).collect()
        };
        let coats: Vec<_> = self.coats.iter().map(|coat| (coat, changes(coat))).collect();
        let blocks_in = modules.keys().filter_map(|module| match self.blocks.get(module) {
            Block::In(at) => Some(at + 1),
            _ => None,
        });
        let blocks_in = blocks_in.max().unwrap_or_default();
        let is_beside = |(module, shape): (&String, &Vec<usize>)| {
            let block = self.blocks.get(module);
            let on_it = || coats.iter().filter(|(coat, _)| coat.fitted.fit.changes(module));
            let changes: BTreeSet<u32> = on_it().flat_map(|row| &row.1).copied().collect();
            if changes.is_empty() || block.is_text_encoder() || Role::of(module) != Role::Layer {
                return false;
            }
            let ranks: Option<usize> = on_it().map(|(coat, _)| coat.rank(module)).sum();
            ranks.is_some_and(|ranks| {
                let level = way::level(block, blocks_in);
                demand.is_beside(Changed { shape, level, ranks, changes: changes.len() })
            })
        };
        modules.iter().filter(|row| is_beside(*row)).map(|row| row.0.clone()).collect()
    }

    /// What acts on the text encoders.
    pub(crate) fn on_text(&self) -> Vec<[Share; 2]> {
        let shares = |coat: &Coat| {
            [Block::TextEncoder, Block::TextEncoder2].map(|block| self.share(coat, block))
        };
        let in_text = |module: &str| self.blocks.get(module).is_text_encoder();
        let coats = self.coats.iter().filter(|coat| coat.fitted.fit.modules().any(in_text));
        let shares = coats.map(shares);
        shares.filter(|shares| shares.iter().any(|share| share.1 != 0)).collect()
    }

    /// The embeddings in adapters that weigh anything anywhere.
    pub(crate) fn embeddings(&self) -> impl Iterator<Item = &Embedding> {
        let weighs = |adapter: &AdapterUse| {
            let AdapterUse { unet_weight, text_encoder_weight, text_encoder_2_weight, .. } =
                adapter;
            [unet_weight, text_encoder_weight, text_encoder_2_weight].iter().any(|w| **w != 0.0)
        };
        let coats = self.coats.iter().filter(move |coat| coat.uses.iter().any(weighs));
        coats.flat_map(|coat| coat.fitted.adapter.embeddings())
    }

    fn share(&self, coat: &Coat, block: Block) -> Share {
        let weight = coat.weight(block, self.position);
        // -0 and 0 are both exactly nothing.
        let weight = if weight == 0.0 { 0.0 } else { weight };
        (coat.origin(), weight.to_bits())
    }

    /// The adapters that change a module, with their weights there.
    fn acting<'a>(&'a self, module: &'a str) -> impl Iterator<Item = (&'a Coat, f64)> {
        let block = self.blocks.get(module);
        let coats = self.coats.iter().filter(|coat| coat.fitted.fit.changes(module));
        let coats = coats.map(move |coat| (coat, coat.weight(block, self.position)));
        coats.filter(|(_, weight)| *weight != 0.0)
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

/// What a module's working weight was made of, in order, and whether that is beside the layer.
type Recipe = (Vec<Share>, bool);

/// The working weights of one base model under the latest stack.
#[derive(Debug)]
pub(crate) struct PatchedWeights {
    layers: Layers,
    recipes: HashMap<String, Recipe>,
    device: Device,
    stay: Stay,
    precision: Option<Precision>,
}

impl PatchedWeights {
    /// None yet.
    ///
    /// * `stay`: where those of layers will be between their uses
    pub(crate) fn on(device: &Device, stay: Stay) -> PatchedWeights {
        PatchedWeights {
            layers: Layers::default(),
            recipes: HashMap::new(),
            device: device.clone(),
            stay,
            precision: None,
        }
    }

    /// The layers of everything that was prepared.
    pub(crate) fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Bytes of all working weights.
    pub(crate) fn bytes(&self) -> u64 {
        self.layers.modules.values().map(Weights::bytes).sum()
    }

    /// How many bytes of those of some modules are copied to the card for each use.
    pub(crate) fn streamed_bytes(&self, is_asked_for: impl Fn(&str) -> bool) -> u64 {
        let modules = self.layers.modules.iter().filter(|(module, _)| is_asked_for(module));
        modules.map(|(_, weights)| weights.streamed_bytes()).sum()
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
        stack: &Stack,
        precision: Precision,
    ) -> Vec<(String, Recipe)> {
        if self.precision != Some(precision) {
            let none = PatchedWeights::on(&self.device, self.stay);
            *self = PatchedWeights { precision: Some(precision), ..none };
        }
        wanted
            .filter_map(|module| {
                let shares = stack.acting(&module);
                let shares = shares.map(|(coat, weight)| (coat.origin(), weight.to_bits()));
                let recipe = (shares.collect(), stack.beside.contains(&module));
                (self.recipes.get(&module) != Some(&recipe)).then_some((module, recipe))
            })
            .collect()
    }

    /// Makes the working weights of `outdated` modules.
    ///
    /// The old ones are dropped first, so that the two never exist together; the networks that hold
    /// them must have been dropped by the caller. An error or a cancelled watch leaves the modules
    /// that were not made missing, to be made the next time.
    ///
    /// Where weights may have to leave a card, one is made after the other: what several are made of might not
    /// find room at once, and which of them stay is decided in their order.
    pub(crate) fn make(
        &mut self,
        tensors: &Tensors,
        stack: &Stack,
        outdated: Vec<(String, Recipe)>,
        tally: &mut Tally<'_, '_>,
    ) -> Result<()> {
        let outdated: Vec<(String, Recipe, Remains)> = (outdated.into_iter())
            .map(|(module, recipe)| {
                self.recipes.remove(&module);
                let weights = self.layers.modules.remove(&module);
                (module, recipe, weights.map(|weights| weights.remains()).unwrap_or_default())
            })
            .collect();
        self.layers.path = tensors.path().to_owned();
        let precision = self.precision.expect("set when the outdated modules were listed");
        let storage = Storage { device: self.device.clone(), precision };
        for batch in outdated.chunks(BATCH) {
            let make = |(module, _, remains): &(String, Recipe, Remains)| {
                // A text encoder's are used but twice for a picture.
                let stay = match self.stay {
                    Stay::WhileRoom if stack.blocks.get(module).is_text_encoder() => Stay::Never,
                    stay => stay,
                };
                patched(tensors, stack, module, (stay, &storage), remains.clone())
            };
            let made: Vec<Weights> = match self.stay {
                Stay::Always => batch.par_iter().map(make).collect::<Result<_>>()?,
                _ => batch.iter().map(make).collect::<Result<_>>()?,
            };
            for ((module, recipe, _), weights) in batch.iter().zip(made) {
                self.layers.modules.insert(module.clone(), weights);
                self.recipes.insert(module.clone(), recipe.clone());
            }
            tally.add(batch.len())?;
        }
        Ok(())
    }
}

/// One module's working weights: base plus the sum of all changes.
fn patched(
    tensors: &Tensors,
    stack: &Stack,
    module: &str,
    (stay, storage): (Stay, &Storage),
    remains: Remains,
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
    for (coat, m) in stack.acting(module) {
        coat.add_delta(module, &module_base, m, &mut delta)?;
    }
    match (&mut bias, &delta.bias) {
        (Some(bias), Some(change)) => add(bias, change),
        (None, Some(change)) => bias = Some(change.clone()),
        (_, None) => {}
    }
    let key: Vec<_> = stack.acting(module).map(|(coat, _)| coat.origin()).collect();
    let change = Change {
        factors: &delta.factors(),
        rest: delta.rest.as_deref(),
        key: &key,
        beside: stack.beside.contains(module),
    };
    let form = (Role::of(module), stay, storage);
    let rows = |first: usize, to: &mut [f32]| base.read(first, to);
    Weights::new(&base.shape, bias.as_deref(), form, &change, remains, rows)
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
        let mut fit = adapter.outline().fit(modules);
        fit.unmatched.extend_from_slice(adapter.problems());
        let fitted = Arc::new(Fitted { adapter, fit, kept: Mutex::default() });
        self.opened.insert(path.to_owned(), fitted.clone());
        Ok(fitted)
    }

    /// Opens a whole stack: in the order of content hashes, the same content once. Also reports on each
    /// use, in the order of the request.
    pub(crate) fn stack(
        &mut self,
        uses: &[AdapterUse],
        base: &BaseModel<'_>,
    ) -> Result<(Stack, PatchReport)> {
        let mut coats: BTreeMap<([u8; 32], Option<usize>), Coat> = BTreeMap::new();
        let mut report = PatchReport::default();
        for adapter_use in uses {
            let fitted = self.open(&adapter_use.path, base.modules)?;
            let outline = fitted.adapter.outline();
            if let Some(refusal) = outline.refusal(&fitted.fit, base.name, base.architecture) {
                return Err(refusal);
            }
            report.adapters.push(AdapterReport::new(outline, &fitted.fit));
            let rank_limit = adapter_use.rank_limit;
            let coat = coats.entry((fitted.adapter.hash(), rank_limit)).or_insert(Coat {
                fitted,
                uses: Vec::new(),
                rank_limit,
            });
            coat.uses.push(adapter_use.clone());
        }
        // What is switched off is often switched on again.
        let is_used = |path: &PathBuf| uses.iter().any(|adapter_use| adapter_use.path == *path);
        let resting = self.opened.keys().filter(|path| !is_used(path)).count();
        self.opened.retain(|path, _| resting <= RESTING || is_used(path));
        for (_, fitted) in self.opened.iter().filter(|(path, _)| !is_used(path)) {
            fitted.rest();
        }
        let (coats, blocks) = (coats.into_values().collect(), base.blocks.clone());
        let mut stack = Stack { coats, blocks, beside: Arc::default(), position: 0.0 };
        if let Some(demand) = base.demand {
            stack.beside = Arc::new(stack.beside(base.modules, demand));
            for report in &mut report.adapters {
                let beside = report.applied.iter().filter(|module| stack.beside.contains(*module));
                report.beside = beside.count();
            }
        }
        Ok((stack, report))
    }
}

/// What a stack lies on.
pub(crate) struct BaseModel<'a> {
    /// For messages.
    pub(crate) name: &'a str,
    /// Its family's name.
    pub(crate) architecture: &'static str,
    pub(crate) modules: &'a Modules,
    pub(crate) blocks: &'a Arc<Blocks>,
    /// What is asked of its UNet, where changes may act beside its layers: on the processor. A card makes
    /// weights anew in milliseconds.
    pub(crate) demand: Option<Demand>,
}

#[cfg(test)]
mod tests {
    use kernels::conv::{Size, Window};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        Request,
        adapter::block::{BlockWeights, FACTORS},
        adapter::curve::{Curve, Fade, Keyframe},
        checkpoint::Checkpoint,
        ops::{self, Conv, Linear, Map},
        testing::{Dice, adapter, request, write_adapter, write_folder},
    };

    /// The tiny model and three adapters for it.
    struct Bench {
        folder: TempDir,
        checkpoint: Checkpoint,
        modules: Modules,
        blocks: Arc<Blocks>,
        adapters: Adapters,
        demand: Option<Demand>,
        position: f64,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            write_folder("tiny", &folder.path().join("model"));
            for name in ["a", "b", "c"] {
                write_adapter("tiny", name, &folder.path().join(name));
            }
            let checkpoint = Checkpoint::open(&folder.path().join("model")).unwrap();
            let modules = checkpoint.tensors.adaptable();
            let blocks = Arc::new(Blocks::of(&modules));
            let adapters = Adapters::default();
            Bench { folder, checkpoint, modules, blocks, adapters, demand: None, position: 0.0 }
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
            let base = BaseModel {
                name: "tiny",
                architecture: "sd1",
                modules: &self.modules,
                blocks: &self.blocks,
                demand: self.demand,
            };
            let (mut stack, _) = self.adapters.stack(uses, &base).unwrap();
            stack.position = self.position;
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
    fn a_thousand_changes_leave_no_trace() {
        for precision in [Precision::F32, Precision::Bf16] {
            let mut bench = Bench::new();
            let (mut plain, mut weights) = (
                PatchedWeights::on(&Device::Host, Stay::Always),
                PatchedWeights::on(&Device::Host, Stay::Always),
            );
            bench.patch(&mut plain, &[], precision);
            let mut dice = Dice(7);
            let mut stack = Vec::new();
            for round in 0..1000 {
                dice.change(&mut stack);
                let uses = bench.uses(&stack);
                bench.patch(&mut weights, &uses, precision);
                if round % 100 == 99 {
                    let mut fresh = PatchedWeights::on(&Device::Host, Stay::Always);
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
        let mut weights = PatchedWeights::on(&Device::Host, Stay::Always);
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

    /// Beside the layer a change makes what it makes in the weight, at every step, whatever was there before.
    #[test]
    fn beside_the_layer_is_in_the_weight() {
        let keyframe = |at, factor| Keyframe { at, factor, fade: Fade::Linear };
        let curve = Curve::new(vec![keyframe(0.0, 1.0), keyframe(0.5, 0.0), keyframe(1.0, -0.5)]);
        for (precision, tolerance) in
            [(Precision::F32, 1e-5), (Precision::F16, 2e-3), (Precision::Bf16, 2e-2)]
        {
            let mut bench = Bench::new();
            let mut uses = bench.uses(&[("a", 0.5), ("b", 0.3), ("c", 0.4)]);
            uses[0].over_steps = curve.clone();
            uses[2].over_steps = curve.clone();
            let request =
                Request { steps: 5, width: 64, height: 64, ..request(bench.folder.path()) };
            let [mut beside, mut patched] =
                [0; 2].map(|_| PatchedWeights::on(&Device::Host, Stay::Always));
            let storage = Storage { device: Device::Host, precision };
            for step in 1..=5 {
                bench.position = position(step, 5);
                bench.demand = Some(Demand::of(&request));
                let made = bench.patch(&mut beside, &uses, precision);
                let mut fresh = PatchedWeights::on(&Device::Host, Stay::Always);
                bench.patch(&mut fresh, &uses, precision);
                assert!(bits(&beside) == bits(&fresh), "{precision:?} step {step}");
                bench.demand = None;
                bench.patch(&mut patched, &uses, precision);
                let mut layers = 0;
                for module in made.iter().filter(|module| module.starts_with("unet.")) {
                    let [ours, theirs] =
                        [&beside, &patched].map(|weights| &weights.layers().modules[module]);
                    if ours.kernel() > 3 || Role::of(module) != Role::Layer || ours.inputs() == 1 {
                        continue;
                    }
                    let size = Size { batch: 2, height: 4, width: 3, channels: ours.inputs() };
                    let x: Vec<f32> = (0..size.len()).map(|i| (i as f32 * 0.7).sin()).collect();
                    let x = Map::new(&x, size, &storage).unwrap();
                    let run = |weights: &Weights| {
                        let weights = weights.clone();
                        match weights.kernel() {
                            1 => ops::linear_map(&Linear(weights), &x),
                            kernel => {
                                let window = Window { kernel, stride: 1, before: 1, after: 1 };
                                ops::conv(&Conv { weights, window }, &ops::padded(&x))
                            }
                        }
                        .unwrap()
                        .planes()
                        .unwrap()
                    };
                    let (ours, theirs) = (run(ours), run(theirs));
                    let length =
                        |v: &mut dyn Iterator<Item = f32>| v.map(|x| x * x).sum::<f32>().sqrt();
                    let apart = length(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b));
                    let apart = apart / length(&mut theirs.iter().copied());
                    assert!(apart < tolerance, "{precision:?} {module}, step {step}: {apart}");
                    layers += 1;
                }
                assert!(layers > 10 || step == 1, "{layers} layers change at step {step}");
            }
        }
    }

    /// The UNet's first layers stay on a card until three quarters of it are full; the others, and all of a text
    /// encoder's, are in the processor's memory. They are the same weights.
    #[test]
    fn weights_leave_a_card_that_is_too_small() {
        let mut bench = Bench::new();
        let uses = bench.uses(&[("a", 0.5)]);
        let mut roomy = PatchedWeights::on(&Device::Card(cuda::Card::emulated()), Stay::Always);
        bench.patch(&mut roomy, &uses, Precision::Bf16);
        assert_eq!(roomy.streamed_bytes(|_| true), 0);

        const MEMORY: u64 = 250_000;
        let card = cuda::Card::emulated_short(None, Some(MEMORY));
        let mut weights = PatchedWeights::on(&Device::Card(card.clone()), Stay::WhileRoom);
        for weight in [0.3, 0.5] {
            let uses = bench.uses(&[("a", weight)]);
            bench.patch(&mut weights, &uses, Precision::Bf16);
        }
        assert!(bits(&weights) == bits(&roomy));
        let (free, _) = card.memory().unwrap();
        // Less what normalizations and biases of later modules take.
        assert!(free > MEMORY / 5 && free < MEMORY / 3, "{free} of {MEMORY} bytes are free");
        assert_eq!(weights.layers().modules["unet.conv_in"].streamed_bytes(), 0);
        for (name, weights) in &weights.layers().modules {
            if name.starts_with("text_encoder.") && name.ends_with("_proj") {
                assert_eq!(weights.streamed_bytes(), weights.bytes(), "{name}");
            }
        }
        let in_unet = |module: &str| module.starts_with("unet.");
        let streamed = weights.streamed_bytes(in_unet);
        assert!(streamed > 0 && streamed < 2 * 139_136, "{streamed}");

        drop(weights);
        let mut weights = PatchedWeights::on(&Device::Card(card), Stay::Never);
        bench.patch(&mut weights, &uses, Precision::Bf16);
        assert!(bits(&weights) == bits(&roomy));
        assert_eq!(weights.streamed_bytes(in_unet), 2 * 139_136, "every layer's");
    }

    /// A weight of a block acts there alone, and a rank limit cuts what the file has.
    #[test]
    fn blocks_and_ranks_are_chosen() {
        let mut bench = Bench::new();
        let mut weights = PatchedWeights::on(&Device::Host, Stay::Always);
        let mut uses = bench.uses(&[("a", 0.5)]);
        bench.patch(&mut weights, &uses, Precision::F32);
        let blocks = bench.blocks.clone();
        let mut factors = [1.0; FACTORS];
        factors[Block::Middle.index()] = 0.5;
        uses[0].blocks = BlockWeights::new(&factors).unwrap();
        let made = bench.patch(&mut weights, &uses, Precision::F32);
        assert!(!made.is_empty());
        assert!(made.iter().all(|module| blocks.get(module) == Block::Middle), "{made:?}");

        uses[0].blocks = BlockWeights::default();
        bench.patch(&mut weights, &uses, Precision::F32);
        uses[0].rank_limit = Some(1);
        let made = bench.patch(&mut weights, &uses, Precision::F32);
        let module = &made[0];
        let base = bench.checkpoint.tensors.weight(module).unwrap();
        let fitted = bench.adapters.open(&uses[0].path, &bench.modules).unwrap();
        let mut delta = Delta::default();
        let module_base = Base::new(&base.shape, None, &|| unreachable!("LoRA needs no base"));
        fitted
            .adapter
            .outline()
            .add_delta(&fitted.fit, module, &module_base, 0.5, &mut delta)
            .unwrap();
        let Pair { left, right, rank, scale } = &delta.pairs[0];
        let width = right.len() / rank;
        let change = |row: usize, column: usize| *scale as f32 * left[row * rank] * right[column];
        let limited = {
            let mut first = delta.clone();
            first.pairs[0].limit(Some(1));
            first.weight(&base.shape)
        };
        assert!(*rank > 1);
        for row in 0..base.shape[0] {
            for column in 0..width {
                assert!((limited[row * width + column] - change(row, column)).abs() < 1e-6);
            }
        }
    }
}
