//! Weights in the order in which the micro-kernels read them.

use std::{
    convert::Infallible,
    mem::MaybeUninit,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rayon::prelude::*;

use super::{LowRank, Operand, winograd};
use crate::{
    Isa,
    lanes::{self, LANES, on_lanes},
    memory::{Shared, Values, with_scratch},
    number::Number,
};

/// Outputs per panel: a row of an AMX tile, a register of AVX-512.
pub(crate) const PANEL: usize = 16;

/// At what size a convolution works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// At the size of its input.
    Same,
    /// At twice the size, every pixel of the input repeated (nearest neighbor): a 3 × 3 kernel then
    /// meets only 2 × 2 different pixels, so it is packed as four kernels of 2 × 2, one for each place
    /// of an output pixel within its input pixel. 16 products instead of 36.
    Double,
}

impl Sampling {
    /// How many sets of weights there are.
    fn phases(self) -> usize {
        match self {
            Sampling::Same => 1,
            Sampling::Double => 4,
        }
    }
}

/// The weights of a linear layer or convolution, packed, and its bias.
///
/// For each phase ([`Sampling`]) and each panel of 16 outputs: chunk by chunk, tap by tap, the inputs
/// in [groups](Number::GROUP), `[input / GROUP][output 16][input % GROUP]`, so that a micro-kernel
/// reads straight on. Missing inputs and outputs are zeros.
#[derive(Debug)]
pub struct Packed<T> {
    values: Values<T>,
    bias: Option<Values<f32>>,
    outputs: usize,
    inputs: usize,
    /// Taps of one phase.
    taps: usize,
    sampling: Sampling,
    chunks: Vec<Range<usize>>,
    /// The kernels as Winograd's convolution takes them, from when an image first needs them until
    /// [`rest`](Packed::rest).
    transformed: Mutex<Option<Arc<winograd::Kernels>>>,
}

impl<T: Operand> Packed<T> {
    /// * `w`: `(outputs, inputs, taps)`, as files store it
    /// * `bias`: `(outputs)`
    ///
    /// # Panics
    /// If the lengths do not agree, or for [`Sampling::Double`] with a kernel other than 3 × 3.
    #[must_use]
    pub fn new(
        w: &[f32],
        outputs: usize,
        inputs: usize,
        taps: usize,
        bias: Option<&[f32]>,
        sampling: Sampling,
    ) -> Packed<T> {
        assert_eq!(w.len(), outputs * inputs * taps, "a weight for every input of every output");
        let rows = (rows_of(w, inputs * taps), None);
        let Ok(packed) = Packed::from_rows(outputs, inputs, taps, bias, sampling, rows);
        packed
    }

    /// From rows that are made while they are packed, so that no whole weight in f32 is ever in memory.
    ///
    /// * `bias`: `(outputs)`
    /// * `rows`: asked on many threads for some rows from an output on, each `(inputs, taps)`. It writes
    ///   every number.
    /// * `change`: is added to them
    ///
    /// # Errors
    /// The first of `rows`.
    ///
    /// # Panics
    /// As [`new`](Packed::new).
    pub fn from_rows<E: Send>(
        outputs: usize,
        inputs: usize,
        taps: usize,
        bias: Option<&[f32]>,
        sampling: Sampling,
        rows: (impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync, Option<&LowRank<T>>),
    ) -> Result<Packed<T>, E> {
        Packed::for_isa(Isa::current(), outputs, inputs, taps, bias, sampling, rows)
    }

    /// [`from_rows`](Packed::from_rows) as one rung likes it best.
    pub(super) fn for_isa<E: Send>(
        isa: Isa,
        outputs: usize,
        inputs: usize,
        taps: usize,
        bias: Option<&[f32]>,
        sampling: Sampling,
        (rows, change): (impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync, Option<&LowRank<T>>),
    ) -> Result<Packed<T>, E> {
        assert!(bias.is_none_or(|bias| bias.len() == outputs), "one bias per output");
        let phase_taps = match sampling {
            Sampling::Same => taps,
            Sampling::Double => {
                assert_eq!(taps, 9, "a 3 × 3 kernel");
                4
            }
        };
        let (width, padded) = (inputs * taps, inputs.next_multiple_of(T::STEP));
        let panels = outputs.div_ceil(PANEL);
        let panel_len = padded * phase_taps * PANEL;
        let chunks = chunks::<T>(isa, padded, phase_taps);
        // SAFETY: each panel is written whole: zeros where inputs are filled up, then the inputs.
        let mut values: Values<T> =
            unsafe { Values::unwritten(sampling.phases() * panels * panel_len) };
        let shared = Shared::new(&mut values);
        let most = match isa {
            // One block, whose factors stay in the first-level cache while those of the inputs stream.
            Isa::Amx if change.is_some() => 2,
            _ => MOST_PANELS,
        };
        let per_task = match ROWS_IN_CACHE / (PANEL * width).max(1) {
            0 | 1 => 1,
            // Pairs, as the largest blocks of rows are.
            fit => fit.min(most) / 2 * 2,
        };
        (0..panels.div_ceil(per_task)).into_par_iter().try_for_each(|task| {
            let (begin, end) = (task * per_task, panels.min((task + 1) * per_task));
            let first = begin * PANEL;
            let count = outputs.min(end * PANEL) - first;
            with_scratch(count * width, |w| {
                rows(first, w)?;
                match change {
                    Some(change) if taps == 1 => {
                        // SAFETY: inside the allocation, and each task has panels of its own.
                        let to = unsafe {
                            let at = shared.get().add(begin * panel_len);
                            std::slice::from_raw_parts_mut(at, (end - begin) * panel_len)
                        };
                        change.pack_with(isa, first, w, to);
                        return Ok(());
                    }
                    Some(change) => change.add_with(isa, first, w),
                    None => {}
                }
                for (panel, w) in (begin..end).zip(w.chunks(PANEL * width)) {
                    for phase in 0..sampling.phases() {
                        let at = (phase * panels + panel) * panel_len;
                        // SAFETY: inside the allocation, and each task has panels of its own.
                        let to = unsafe {
                            std::slice::from_raw_parts_mut(shared.get().add(at), panel_len)
                        };
                        pack(w, inputs, taps, &chunks, to, |kernel, tap| match sampling {
                            Sampling::Same => kernel[tap],
                            Sampling::Double => doubled(kernel, phase, tap),
                        });
                    }
                }
                Ok(())
            })
        })?;
        let bias = bias.map(|bias| {
            let mut padded = Values::zeros(panels * PANEL);
            padded[..outputs].copy_from_slice(bias);
            padded
        });
        Ok(Packed {
            values,
            bias,
            outputs,
            inputs,
            taps: phase_taps,
            sampling,
            chunks,
            transformed: Mutex::default(),
        })
    }

    /// A linear layer without bias, from its matrix by inputs.
    ///
    /// * `rows`: for each input a row of `outputs` numbers
    pub(super) fn from_inputs(isa: Isa, outputs: usize, rows: &[&[f32]]) -> Packed<T> {
        let (inputs, panels) = (rows.len(), outputs.div_ceil(PANEL));
        let padded = inputs.next_multiple_of(T::STEP);
        // SAFETY: each panel is written whole.
        let mut values: Values<T> = unsafe { Values::unwritten(panels * padded * PANEL) };
        let task = INPUT_PANELS * padded * PANEL;
        values.par_chunks_mut(task.max(1)).enumerate().for_each(|(task, panels)| {
            pack_inputs(rows, task * INPUT_PANELS * PANEL, panels, padded * PANEL);
        });
        Packed {
            values,
            bias: None,
            outputs,
            inputs,
            taps: 1,
            sampling: Sampling::Same,
            chunks: chunks::<T>(isa, padded, 1),
            transformed: Mutex::default(),
        }
    }

    /// The 3 × 3 kernel that was packed for [`Sampling::Double`]: what is left of the sums when their
    /// other terms are taken away.
    ///
    /// # Panics
    /// If it was not packed so.
    #[must_use]
    pub fn undoubled(&self) -> Packed<T> {
        assert_eq!(self.sampling, Sampling::Double, "packed for twice the size");
        let mut w = vec![0.0; self.outputs * self.inputs * 9];
        w.par_chunks_mut(9).enumerate().for_each(|(index, kernel)| {
            let (output, input) = (index / self.inputs, index % self.inputs);
            let sum = |py: usize, px: usize, ty: usize, tx: usize| {
                self.weight(2 * py + px, output, input, 2 * ty + tx)
            };
            // The corners are whole; an edge's middle is a sum of two less its corner.
            let corners = [sum(0, 0, 0, 0), sum(0, 1, 0, 1), sum(1, 0, 1, 0), sum(1, 1, 1, 1)];
            let (top, left) = (sum(0, 1, 0, 0) - corners[0], sum(1, 0, 0, 0) - corners[0]);
            let (right, bottom) = (sum(1, 1, 0, 1) - corners[1], sum(1, 1, 1, 0) - corners[2]);
            let middle = sum(1, 1, 0, 0) - corners[0] - top - left;
            let [a, b, c, d] = corners;
            kernel.copy_from_slice(&[a, top, b, left, middle, right, c, bottom, d]);
        });
        let bias = self.bias.as_deref().map(|bias| &bias[..self.outputs]);
        Packed::new(&w, self.outputs, self.inputs, 9, bias, Sampling::Same)
    }
}

impl<T: Number> Packed<T> {
    fn weight(&self, phase: usize, output: usize, input: usize, tap: usize) -> f32 {
        let chunk = self.chunks.iter().find(|chunk| chunk.contains(&input)).expect("an input");
        let panel = phase * self.outputs.div_ceil(PANEL) + output / PANEL;
        let start = panel * self.inputs.next_multiple_of(T::STEP) + chunk.start;
        let place = place::<T>(tap * chunk.len() + input - chunk.start, output % PANEL);
        self.values[start * self.taps * PANEL + place].to_f32()
    }

    /// The 3 × 3 kernels of one input for a panel of outputs, tap by tap.
    pub(super) fn kernels(&self, panel: usize, input: usize) -> [[f32; PANEL]; 9] {
        assert!(self.taps == 9 && input < self.inputs, "a 3 × 3 kernel");
        let mut kernels = [[0.0; PANEL]; 9];
        let chunk = self.chunks.iter().find(|chunk| chunk.contains(&input)).expect("an input");
        let padded = self.inputs.next_multiple_of(T::STEP);
        let weights = &self.values[(panel * padded + chunk.start) * 9 * PANEL..];
        for (tap, kernels) in kernels.iter_mut().enumerate() {
            let at = tap * chunk.len() + input - chunk.start;
            for (column, weight) in kernels.iter_mut().enumerate() {
                *weight = weights[place::<T>(at, column)].to_f32();
            }
        }
        kernels
    }

    /// The kernels as Winograd's convolution takes them.
    pub(super) fn transformed(&self) -> Arc<winograd::Kernels> {
        if let Some(kernels) = &*self.lock() {
            return kernels.clone();
        }
        // Made without the lock: the threads that help may find work that waits for it.
        let kernels = Arc::new(winograd::Kernels::of(self));
        self.lock().insert(kernels).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<winograd::Kernels>>> {
        self.transformed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what was made of the weights for the images so far, which may take four times their
    /// memory. The next image has it made anew.
    pub fn rest(&self) {
        *self.lock() = None;
    }

    /// Outputs of the layer.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Inputs of the layer.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// At what size it works.
    #[must_use]
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// All numbers in their packed order, the bias last: equal layers have equal ones.
    pub fn values(&self) -> impl Iterator<Item = f32> {
        let bias = self.bias.iter().flat_map(|bias| bias.iter().copied());
        self.values.iter().map(|value| value.to_f32()).chain(bias)
    }

    pub(super) fn taps(&self) -> usize {
        self.taps
    }

    /// Bias, filled up to whole panels.
    pub(super) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Ranges of inputs, up to [`Number::STEP`]'s multiple.
    pub(super) fn chunks(&self) -> &[Range<usize>] {
        &self.chunks
    }

    /// Where the weights of a panel begin, for the chunk that begins at input `begin`.
    pub(super) fn panel(&self, phase: usize, panel: usize, begin: usize) -> *const T {
        let padded = self.inputs.next_multiple_of(T::STEP);
        let panels = self.outputs.div_ceil(PANEL);
        assert!(panel < panels && phase < self.sampling.phases() && begin < padded);
        let at = (phase * panels + panel) * padded + begin;
        // SAFETY: inside the allocation by the assertion.
        unsafe { self.values.as_ptr().add(at * self.taps * PANEL) }
    }
}

/// What gives the rows of a weight that is in memory.
pub(super) fn rows_of(
    w: &[f32],
    width: usize,
) -> impl Fn(usize, &mut [f32]) -> Result<(), Infallible> + Sync {
    move |first, to| {
        to.copy_from_slice(&w[first * width..][..to.len()]);
        Ok(())
    }
}

/// Numbers of a weight's rows that a task makes before it packs them: they stay in the second-level cache.
const ROWS_IN_CACHE: usize = 256 << 10;

/// Panels that a task packs from rows of outputs: some lines of the cache from each row.
const INPUT_PANELS: usize = 8;

/// The most panels that a task packs: enough rows for whole blocks of every micro-kernel, where they are
/// multiplied.
const MOST_PANELS: usize = 6;

/// Inputs that are packed at a time.
const BLOCK: usize = 32;

/// Packs one panel.
///
/// * `w`: `(up to 16 outputs, inputs, taps)`
/// * `to`: a panel with all its chunks
/// * `weight`: one tap as it is packed, of a kernel as it comes
fn pack<T: Number>(
    w: &[f32],
    inputs: usize,
    taps: usize,
    chunks: &[Range<usize>],
    to: &mut [T],
    weight: impl Fn(&[f32], usize) -> f32,
) {
    let padded = inputs.next_multiple_of(T::STEP);
    let packed_taps = to.len() / (padded * PANEL).max(1);
    if padded != inputs {
        to.fill(T::default());
    }
    // Rows that are missing stay zeros.
    let mut block = [[0.0; BLOCK]; PANEL];
    for chunk in chunks {
        let to = &mut to[chunk.start * packed_taps * PANEL..];
        for begin in (chunk.start..chunk.end.min(inputs)).step_by(BLOCK) {
            let end = (begin + BLOCK).min(chunk.end).min(inputs);
            let whole = end - begin == BLOCK;
            if taps == 1 && whole && w.len() == PANEL * inputs {
                turn(&w[begin..], inputs, &[], &mut to[(begin - chunk.start) * PANEL..], BLOCK);
                continue;
            }
            if !whole {
                block = [[0.0; BLOCK]; PANEL];
            }
            for tap in 0..packed_taps {
                for (row, block) in w.chunks_exact(inputs * taps).zip(&mut block) {
                    let row = &row[begin * taps..end * taps];
                    if taps == 1 {
                        block[..row.len()].copy_from_slice(row);
                    } else {
                        for (from, to) in row.chunks_exact(taps).zip(block) {
                            *to = weight(from, tap);
                        }
                    }
                }
                let at = tap * chunk.len() + begin - chunk.start;
                turn(block.as_flattened(), BLOCK, &[], &mut to[at * PANEL..], end - begin);
            }
        }
    }
}

on_lanes! {
    /// Turns `count` inputs of 16 outputs from rows of inputs, which begin `stride` numbers apart, to rows
    /// of outputs, in groups, rounded to how they are stored.
    ///
    /// * `added`: `(16, 32)`, added before that; or nothing
    fn turn<T: Number>(rows: &[f32], stride: usize, added: &[f32], to: &mut [T], count: usize) {
        let groups = count.div_ceil(T::GROUP);
        assert!(to.len() >= groups * PANEL * T::GROUP && size_of::<T>() * T::GROUP == 4);
        assert!(rows.len() >= (PANEL - 1) * stride + BLOCK, "sixteen rows");
        assert!(added.is_empty() || added.len() == PANEL * BLOCK, "as many numbers");
        // A group takes as many bytes as a number of f32, and is turned as if it were one.
        let mut rounded = [MaybeUninit::<[f32; BLOCK]>::uninit(); PANEL];
        let to = to.as_mut_ptr().cast::<f32>();
        // SAFETY: sixteen rows of `BLOCK` numbers by the assertions, each of which has room for as many groups;
        // what is read of it was written; the groups are inside `to` by the assertion.
        unsafe {
            for (row, rounded) in rounded.iter_mut().enumerate() {
                for at in (0..BLOCK).step_by(LANES) {
                    let mut lanes = L::load(rows.as_ptr().add(row * stride + at));
                    if !added.is_empty() {
                        lanes = lanes.add(L::load(added.as_ptr().add(row * BLOCK + at)));
                    }
                    T::store(lanes, rounded.as_mut_ptr().cast::<T>().add(at));
                }
            }
            for begin in (0..groups).step_by(LANES) {
                // In a loop: the closure of `map` would be a function without the lanes' instructions.
                let mut rows = [L::splat(0.0); LANES];
                for (row, rounded) in rows.iter_mut().zip(&rounded) {
                    *row = L::load(rounded.as_ptr().cast::<f32>().add(begin));
                }
                let turned = L::turned(rows);
                for (group, turned) in (begin..groups).zip(turned) {
                    turned.store(to.add(group * PANEL));
                }
            }
        }
    }
}

/// Packs up to 32 inputs of a panel: the sum of a weight's rows and their change.
///
/// * `base`: the inputs of up to 16 `rows`, which begin `stride` numbers apart
/// * `change`: `(16, 32)`
pub(super) fn pack_sum<T: Number>(
    base: &[f32],
    (rows, stride): (usize, usize),
    change: &[f32],
    to: &mut [T],
    count: usize,
) {
    if rows == PANEL && count == BLOCK {
        return turn(base, stride, change, to, BLOCK);
    }
    let mut block = [[0.0; BLOCK]; PANEL];
    for (row, block) in block.iter_mut().take(rows).enumerate() {
        let (base, change) = (&base[row * stride..], &change[row * BLOCK..]);
        for (to, (base, change)) in block.iter_mut().zip(base.iter().zip(change)).take(count) {
            *to = base + change;
        }
    }
    turn(block.as_flattened(), BLOCK, &[], to, count);
}

on_lanes! {
    /// Packs some panels of a matrix that is stored by inputs.
    ///
    /// * `inputs`: a row of outputs each, one after the other
    /// * `first`: the first output
    /// * `to`: the panels, `len` numbers each
    fn pack_inputs<T: Number>(inputs: &[&[f32]], first: usize, to: &mut [T], len: usize) {
        let width = inputs.first().map_or(0, |input| input.len());
        assert!(len.is_multiple_of(T::GROUP * PANEL) && inputs.len() * PANEL <= len, "room for all inputs");
        assert!(inputs.iter().all(|input| input.len() == width), "inputs of one length");
        for group in 0..len / (T::GROUP * PANEL) {
            for (panel, to) in to.chunks_exact_mut(len).enumerate() {
                let column = first + panel * PANEL;
                let count = width.saturating_sub(column).min(PANEL);
                // SAFETY: `count` numbers of a row from `column` on; a whole group inside the panel.
                unsafe {
                    let input = |at: usize| match inputs.get(at) {
                        Some(input) if count > 0 => lanes::load::<L, f32>(input.as_ptr().add(column), count),
                        _ => L::splat(0.0),
                    };
                    let to = to.as_mut_ptr().add(group * T::GROUP * PANEL);
                    T::store_group(input, group * T::GROUP, to);
                }
            }
        }
    }
}

/// Where the weight of a panel's input `at` (counted over the taps of a chunk) and column lies.
fn place<T: Number>(at: usize, column: usize) -> usize {
    (at / T::GROUP * PANEL + column) * T::GROUP + at % T::GROUP
}

/// Ranges of inputs that are summed in one go: as many as keep a pair of panels and a block of gathered
/// rows in the first-level cache. AMX reads rows where they lie and weights past that cache, so there
/// a range ends only where the weights of a pair would fill the second-level cache. (Measured.)
fn chunks<T: Number>(isa: Isa, padded: usize, taps: usize) -> Vec<Range<usize>> {
    let most = match T::STEP {
        1 => (384 / taps).max(1),
        step if isa == Isa::Amx => match taps {
            1 => usize::MAX / 2,
            taps => (5760 / taps).next_multiple_of(step),
        },
        step => (576 / taps).next_multiple_of(step),
    };
    let count = padded.div_ceil(most).max(1);
    let each = padded.div_ceil(count).next_multiple_of(T::STEP);
    (0..padded).step_by(each.max(1)).map(|begin| begin..padded.min(begin + each)).collect()
}

/// Weight of tap `(ty, tx)` of the 2 × 2 kernel that makes the output pixels `(py, px)` within their
/// input pixel: the sum of those of the 3 × 3 kernel that see the same input pixel.
///
/// Output row `2 y + py` sees rows `2 y + py - 1 ..= 2 y + py + 1` of the doubled image, which are
/// input rows `y - 1, y, y` for `py = 0` and `y, y, y + 1` for `py = 1`.
fn doubled(kernel: &[f32], phase: usize, tap: usize) -> f32 {
    let rows = |place: usize, tap: usize| match (place, tap) {
        (0, 0) => 0..1,
        (0, _) => 1..3,
        (_, 0) => 0..2,
        _ => 2..3,
    };
    let (py, px, ty, tx) = (phase / 2, phase % 2, tap / 2, tap % 2);
    let columns = rows(px, tx);
    rows(py, ty).flat_map(|y| columns.clone().map(move |x| kernel[y * 3 + x])).sum()
}
