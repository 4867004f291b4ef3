//! How much adapters change a base model, alone and together.
//!
//! The strength of an adapter is the Frobenius norm of its change at weight 1; of a stack, that of the sum.
//! The inner products of all pairs, block by block, are all that it takes to know the sum's at any weights:
//! `‖Σ mᵢ Δᵢ‖² = Σ mᵢ mⱼ ⟨Δᵢ, Δⱼ⟩`. Of changes of low rank they are `tr((BᵢᵀBⱼ)(AⱼAᵢᵀ))`, so nothing is
//! multiplied out for them.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Base, Delta, Fit, Outline,
    block::{BLOCKS, Blocks},
    parts::{Pair, transposed},
};
use crate::{Error, Result, architecture::Modules, checkpoint::Checkpoint};

/// One number for each block.
pub type ByBlock = [f64; BLOCKS];

/// A base model that changes are measured on.
#[derive(Debug)]
pub struct Scale {
    checkpoint: Checkpoint,
    modules: Modules,
    blocks: Blocks,
    /// Squared norms of weights, as far as they were needed.
    squares: Mutex<HashMap<String, f64>>,
}

/// What an adapter is beside the weights that it changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Strength {
    /// Squared norm of what it changes, before the change.
    pub base: ByBlock,
    /// Modules whose change is exactly zero.
    pub without_effect: usize,
    /// The first thing in it that cannot be used: numbers that are none, a file that cannot be read.
    pub problem: Option<String>,
}

impl Strength {
    /// The norm of the change relative to what it changes; `None` if it changes nothing.
    ///
    /// * `own`: the product of the adapter with itself
    #[must_use]
    pub fn relative(&self, own: &ByBlock) -> Option<f64> {
        let base: f64 = self.base.iter().sum();
        (base > 0.0).then(|| (own.iter().sum::<f64>() / base).sqrt())
    }
}

/// What was measured of several adapters.
#[derive(Debug, Clone, PartialEq)]
pub struct Measures {
    /// In the order of the adapters.
    pub strengths: Vec<Strength>,
    /// `⟨Δᵢ, Δⱼ⟩` by block for `i <= j`, row by row: (0, 0), (0, 1), …, (1, 1), ….
    pub products: Vec<ByBlock>,
}

impl Scale {
    /// Opens a base model; of its weights, only what adapters change is read, when it is needed.
    ///
    /// # Errors
    /// Those of files that are no base model.
    pub fn open(path: &Path, lender: Option<&Path>) -> Result<Scale> {
        let checkpoint = Checkpoint::open_with(path, lender)?;
        let modules = checkpoint.tensors.adaptable();
        let blocks = Blocks::of(&modules);
        Ok(Scale { checkpoint, modules, blocks, squares: Mutex::default() })
    }

    /// Whether the base model's files are as they were.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.checkpoint.tensors.is_current()
    }

    /// Measures adapters and their pairs. What cannot be read counts as no change, and is named.
    ///
    /// * `wanted`: whether the product of two is wanted, by their places, the smaller first; others stay 0
    ///
    /// # Errors
    /// [`Error::Cancelled`] once `stop` is true; a base model that cannot be read.
    pub fn measure(
        &self,
        adapters: &[Outline],
        wanted: &dyn Fn(usize, usize) -> bool,
        stop: &AtomicBool,
    ) -> Result<Measures> {
        let fits: Vec<Fit> = adapters.iter().map(|adapter| adapter.fit(&self.modules)).collect();
        let strength = Strength { base: [0.0; BLOCKS], without_effect: 0, problem: None };
        let mut measures = Measures {
            strengths: vec![strength; adapters.len()],
            products: vec![[0.0; BLOCKS]; adapters.len() * (adapters.len() + 1) / 2],
        };
        for (module, shape) in &self.modules {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            if !fits.iter().any(|fit| fit.changes(module)) {
                continue;
            }
            let block = self.blocks.get(module).index();
            let base = self.square(module)?;
            let mut changes: Vec<Option<Change>> = Vec::new();
            for ((adapter, fit), strength) in
                adapters.iter().zip(&fits).zip(&mut measures.strengths)
            {
                if !fit.changes(module) {
                    changes.push(None);
                    continue;
                }
                strength.base[block] += base;
                match self.delta(adapter, fit, module, shape) {
                    Ok(delta) => changes.push(Some(Change::new(delta))),
                    Err(error) => {
                        strength.problem.get_or_insert_with(|| error.to_string());
                        changes.push(None);
                    }
                }
            }
            // One that is not of low rank has no factors to be multiplied with.
            if changes.iter().flatten().any(|change| change.delta.rest.is_some()) {
                changes.iter_mut().flatten().for_each(|change| change.multiply_out(shape));
            }
            let mut products = measures.products.iter_mut();
            for (first, a) in changes.iter().enumerate() {
                for (second, b) in changes.iter().enumerate().skip(first) {
                    let sum = products.next().expect("as many as pairs");
                    let (Some(a), Some(b)) = (a, b) else { continue };
                    if first != second && !wanted(first, second) {
                        continue;
                    }
                    let product = a.product(b);
                    sum[block] += product;
                    if first == second && product == 0.0 {
                        measures.strengths[first].without_effect += 1;
                    }
                }
            }
        }
        Ok(measures)
    }

    fn delta(&self, adapter: &Outline, fit: &Fit, module: &str, shape: &[usize]) -> Result<Delta> {
        let tensors = &self.checkpoint.tensors;
        let read = || tensors.values(module);
        let bias = tensors.bias(module, shape[0])?;
        let mut delta = Delta::default();
        adapter.add_delta(
            fit,
            module,
            &Base::new(shape, bias.as_deref(), &read),
            1.0,
            &mut delta,
        )?;
        Ok(delta)
    }

    /// The squared norm of a module's weight.
    fn square(&self, module: &str) -> Result<f64> {
        let known =
            self.squares.lock().unwrap_or_else(PoisonError::into_inner).get(module).copied();
        if let Some(square) = known {
            return Ok(square);
        }
        let values = self.checkpoint.tensors.values(module)?;
        let square = dot(&values, &values);
        let mut squares = self.squares.lock().unwrap_or_else(PoisonError::into_inner);
        squares.insert(module.to_owned(), square);
        Ok(square)
    }
}

/// One adapter's change of one module.
struct Change {
    delta: Delta,
    /// Of each pair the left factor, its columns as rows.
    lefts: Vec<Vec<f32>>,
}

impl Change {
    fn new(delta: Delta) -> Change {
        let lefts = delta.pairs.iter().map(|pair| transposed(&pair.left, pair.rank)).collect();
        Change { delta, lefts }
    }

    fn multiply_out(&mut self, shape: &[usize]) {
        self.delta.rest = Some(self.delta.weight(shape));
        self.delta.pairs.clear();
        self.lefts.clear();
    }

    /// The inner product of weights and biases.
    fn product(&self, other: &Change) -> f64 {
        let mut sum = 0.0;
        for (a, left_a) in self.delta.pairs.iter().zip(&self.lefts) {
            for (b, left_b) in other.delta.pairs.iter().zip(&other.lefts) {
                sum += a.scale * b.scale * trace((a, left_a), (b, left_b));
            }
        }
        let dots = [(&self.delta.rest, &other.delta.rest), (&self.delta.bias, &other.delta.bias)];
        let dots = dots.into_iter().filter_map(|(a, b)| Some(dot(a.as_ref()?, b.as_ref()?)));
        sum + dots.sum::<f64>()
    }
}

/// `tr((BᵢᵀBⱼ)(AⱼAᵢᵀ))` for changes `B · A`, with the columns of `B` as rows.
fn trace((a, left_a): (&Pair, &[f32]), (b, left_b): (&Pair, &[f32])) -> f64 {
    let rows = |matrix: &[f32], ranks: usize| matrix.len() / ranks.max(1);
    let (outputs, inputs) = (rows(left_a, a.rank), rows(&a.right, a.rank));
    let mut sum = 0.0;
    for (left, right) in left_a.chunks_exact(outputs).zip(a.right.chunks_exact(inputs)) {
        for (other, beside) in left_b.chunks_exact(outputs).zip(b.right.chunks_exact(inputs)) {
            sum += dot(left, other) * dot(right, beside);
        }
    }
    sum
}

/// Sums in lanes, which the compiler makes vectors of, and the lanes in f64.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 32;
    // So many of each lane are added in f32 before they go into the sum.
    const RUN: usize = 64 * LANES;
    let mut sum = 0.0;
    for (a, b) in a.chunks(RUN).zip(b.chunks(RUN)) {
        let mut lanes = [0.0f32; LANES];
        let (whole_a, rest_a) = a.as_chunks::<LANES>();
        let (whole_b, rest_b) = b.as_chunks::<LANES>();
        for (a, b) in whole_a.iter().zip(whole_b) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += a * b;
            }
        }
        sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        sum += rest_a.iter().zip(rest_b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::repository;

    /// Against changes that are multiplied out, of every algorithm that the starter's styles have.
    #[test]
    fn products_are_those_of_the_multiplied_out_changes() {
        let scale = Scale::open(&repository("assets/starter/model"), None).unwrap();
        let names = ["neon", "ink", "watercolor", "twemoji"];
        let open = |name: &str| {
            Outline::open(&repository(&format!("assets/starter/adapters/{name}.safetensors")))
        };
        let adapters: Vec<Outline> = names.iter().map(|name| open(name).unwrap()).collect();
        let measures = scale.measure(&adapters, &|_, _| true, &AtomicBool::new(false)).unwrap();

        let fits: Vec<Fit> = adapters.iter().map(|adapter| adapter.fit(&scale.modules)).collect();
        let mut expected = vec![[0.0; BLOCKS]; 10];
        let mut base = [0.0; BLOCKS];
        for (module, shape) in &scale.modules {
            let block = scale.blocks.get(module).index();
            let weights: Vec<Option<Vec<f32>>> = adapters
                .iter()
                .zip(&fits)
                .map(|(adapter, fit)| {
                    let delta = scale.delta(adapter, fit, module, shape).unwrap();
                    fit.changes(module).then(|| delta.weight(shape))
                })
                .collect();
            let exact = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let mut sums = expected.iter_mut();
            for (at, a) in weights.iter().enumerate() {
                for b in &weights[at..] {
                    let sum = sums.next().unwrap();
                    if let (Some(a), Some(b)) = (a, b) {
                        sum[block] += exact(a, b);
                    }
                }
            }
            if fits[0].changes(module) {
                let values = scale.checkpoint.tensors.values(module).unwrap();
                base[block] += exact(&values, &values);
            }
        }
        for (pair, (ours, theirs)) in measures.products.iter().zip(&expected).enumerate() {
            let scale = theirs.iter().fold(1e-9, |largest: f64, value| largest.max(value.abs()));
            for (ours, theirs) in ours.iter().zip(theirs) {
                assert!((ours - theirs).abs() < 1e-4 * scale, "pair {pair}: {ours} {theirs}");
            }
        }
        for (ours, theirs) in measures.strengths[0].base.iter().zip(&base) {
            assert!((ours - theirs).abs() <= 1e-6 * theirs, "{ours} {theirs}");
        }
        assert!(measures.strengths.iter().all(|strength| strength.problem.is_none()));
        let stopped = scale.measure(&adapters, &|_, _| true, &AtomicBool::new(true));
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
