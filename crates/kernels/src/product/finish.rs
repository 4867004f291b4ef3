//! The end of a product: what happens to a sum before it is rounded and stored.

use super::{
    PAIR,
    micro::MOST_ROWS,
    pack::{PANEL, Packed},
    rows::{RowBlock, Rows},
};
use crate::{
    math::{gelu, quick_gelu, silu},
    number::Number,
};

/// A function of each result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x Φ(x)`.
    Gelu,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// The gated linear unit of Shazeer (2020): the first half of the outputs are values, the second
    /// gates, and `value · gelu(gate)` is stored, half as wide.
    Geglu,
}

/// What is done to the sums besides adding the bias, in this order.
#[derive(Debug, Clone, Copy)]
pub struct Extras<'a, T> {
    /// One row of `outputs` numbers for each image, added to all its pixels.
    pub image_rows: Option<&'a [T]>,
    /// A function of each sum.
    pub activation: Option<Activation>,
    /// Numbers of the result's own size, added last.
    pub residual: Option<&'a [T]>,
}

impl<T> Extras<'_, T> {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Extras { image_rows: None, activation: None, residual: None }
    }

    /// Numbers per row of the result.
    pub(super) fn width(&self, outputs: usize) -> usize {
        if self.activation == Some(Activation::Geglu) { outputs / 2 } else { outputs }
    }
}

/// [`Extras`], checked against the sizes.
pub(super) struct End<'a, T> {
    bias: Option<&'a [f32]>,
    extras: Extras<'a, T>,
    outputs: usize,
    /// Numbers per row of the result.
    width: usize,
    gated: bool,
}

impl<'a, T: Number> End<'a, T> {
    /// # Panics
    /// If something is of another size than the result, `len` numbers, or a gated layer has no even
    /// number of whole panels.
    pub(super) fn new(
        w: &'a Packed<T>,
        extras: &Extras<'a, T>,
        rows: &Rows,
        len: usize,
    ) -> End<'a, T> {
        let outputs = w.outputs();
        let width = extras.width(outputs);
        let gated = extras.activation == Some(Activation::Geglu);
        assert_eq!(len, rows.out_rows() * width, "a place for every result");
        assert!(!gated || outputs.is_multiple_of(2 * PANEL), "values and gates in whole panels");
        assert!(!gated || rows.out_rows() == rows.count(), "gates of a linear layer");
        let images = rows.images();
        assert!(extras.image_rows.is_none_or(|rows| rows.len() == images * outputs && !gated));
        assert!(extras.residual.is_none_or(|residual| residual.len() == len));
        End { bias: w.bias(), extras: *extras, outputs, width, gated }
    }

    /// Calls of the micro-kernel side by side.
    pub(super) fn pairs(&self) -> usize {
        self.outputs.div_ceil(PAIR)
    }

    /// The panels that make up a pair: neighbors, or values and their gates.
    pub(super) fn panels(&self, pair: usize) -> (usize, Option<usize>) {
        match self.gated {
            true => (pair, Some(self.outputs / PAIR + pair)),
            false => (2 * pair, Some(2 * pair + 1).filter(|right| right * PANEL < self.outputs)),
        }
    }

    /// Finishes one block of sums, `(rows, 32)`, and stores it.
    ///
    /// Inlined into a function with the instructions of a rung, for which it is then vectorized.
    ///
    /// # Safety
    /// `sums` must be readable for the block, and its rows of `out` belong to the caller alone.
    #[inline(always)]
    pub(super) unsafe fn store(
        &self,
        sums: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut T,
    ) {
        let (left, right) = self.panels(pair);
        for row in 0..rows.count {
            // SAFETY: the sums of this row, 32 of them, 16 in each panel.
            let (sums_left, sums_right) = unsafe {
                let at = sums.add(row * PAIR);
                (&*at.cast::<[f32; PANEL]>(), &*at.add(PANEL).cast::<[f32; PANEL]>())
            };
            let at = rows.outputs[row] * self.width;
            let image = rows.images[row] * self.outputs;
            // SAFETY: the row is inside `out` and the panel inside the row, by the checks of `new`.
            unsafe {
                match right {
                    Some(right) if self.gated => {
                        let value = self.biased(sums_left, left);
                        let mut gated = self.biased(sums_right, right);
                        for i in 0..PANEL {
                            gated[i] = value[i] * gelu(gated[i]);
                        }
                        self.put(gated, at + left * PANEL, PANEL, out);
                    }
                    Some(right) => {
                        self.panel(sums_left, left, image, at, out);
                        self.panel(sums_right, right, image, at, out);
                    }
                    None => self.panel(sums_left, left, image, at, out),
                }
            }
        }
    }

    #[inline(always)]
    fn biased(&self, sums: &[f32; PANEL], panel: usize) -> [f32; PANEL] {
        let mut values = *sums;
        if let Some(bias) = self.bias {
            let bias: &[f32; PANEL] =
                bias[panel * PANEL..][..PANEL].try_into().expect("a panel of biases");
            for i in 0..PANEL {
                values[i] += bias[i];
            }
        }
        values
    }

    #[inline(always)]
    unsafe fn panel(
        &self,
        sums: &[f32; PANEL],
        panel: usize,
        image: usize,
        at: usize,
        out: *mut T,
    ) {
        let first = panel * PANEL;
        let width = PANEL.min(self.outputs - first);
        let mut values = self.biased(sums, panel);
        if let Some(rows) = self.extras.image_rows {
            add(&mut values, &rows[image + first..][..width]);
        }
        match self.extras.activation {
            None | Some(Activation::Geglu) => {}
            Some(Activation::Silu) => values = values.map(silu),
            Some(Activation::Gelu) => values = values.map(gelu),
            Some(Activation::QuickGelu) => values = values.map(quick_gelu),
        }
        // SAFETY: as the caller's.
        unsafe { self.put(values, at + first, width, out) }
    }

    /// Adds the residual, rounds and stores.
    #[inline(always)]
    unsafe fn put(&self, mut values: [f32; PANEL], at: usize, width: usize, out: *mut T) {
        if let Some(residual) = self.extras.residual {
            add(&mut values, &residual[at..][..width]);
        }
        // SAFETY: `width` places of the caller's own from `at` on.
        unsafe {
            let out = out.add(at);
            if width == PANEL {
                *out.cast::<[T; PANEL]>() = values.map(T::from_f32);
            } else {
                for (i, value) in values.into_iter().take(width).enumerate() {
                    *out.add(i) = T::from_f32(value);
                }
            }
        }
    }
}

#[inline(always)]
fn add<T: Number>(values: &mut [f32; PANEL], terms: &[T]) {
    match <&[T; PANEL]>::try_from(terms) {
        Ok(terms) => {
            for i in 0..PANEL {
                values[i] += terms[i].to_f32();
            }
        }
        Err(_) => {
            for (value, term) in values.iter_mut().zip(terms) {
                *value += term.to_f32();
            }
        }
    }
}
