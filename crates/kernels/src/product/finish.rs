//! The end of a product: what happens to a sum before it is rounded and stored.

use super::{
    PAIR,
    micro::MOST_ROWS,
    pack::{PANEL, Packed},
    rows::{RowBlock, Rows},
};
use crate::{
    lanes::{Lanes, load, store},
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
    /// The product of another matrix, with a row for each of the result, and its weights: added to the sums
    /// before they are rounded. A low-rank change beside a layer is that.
    pub beside: Option<(&'a [T], &'a Packed<T>)>,
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
        Extras { beside: None, image_rows: None, activation: None, residual: None }
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
    /// # Safety
    /// `sums` must be readable for the block, its rows of `out` belong to the caller alone, and the
    /// processor have the instructions of the lanes.
    #[inline(always)]
    pub(super) unsafe fn store<L: Lanes>(
        &self,
        sums: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        pair: usize,
        out: *mut T,
    ) {
        let (left, right) = self.panels(pair);
        // SAFETY: the caller's conditions; both panels exist.
        unsafe {
            match (right, self.extras.activation) {
                (Some(right), Some(Activation::Geglu)) => {
                    self.gate::<L>(sums, rows, left, right, out);
                }
                _ => {
                    self.side::<L>(sums, rows, left, out);
                    if let Some(right) = right {
                        self.side::<L>(sums.add(PANEL), rows, right, out);
                    }
                }
            }
        }
    }

    /// Values times the GELU of their gates.
    #[inline(always)]
    unsafe fn gate<L: Lanes>(
        &self,
        sums: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        left: usize,
        right: usize,
        out: *mut T,
    ) {
        // SAFETY: the caller's conditions, and the checks of `new`.
        unsafe {
            let (bias_left, bias_right) = (self.bias::<L>(left), self.bias::<L>(right));
            for row in 0..rows.count {
                let value = L::load(sums.add(row * PAIR)).add(bias_left);
                let gate = L::load(sums.add(row * PAIR + PANEL)).add(bias_right);
                let at = rows.outputs[row] * self.width + left * PANEL;
                T::store(value.mul(gelu(gate)), out.add(at));
            }
        }
    }

    /// One panel.
    #[inline(always)]
    unsafe fn side<L: Lanes>(
        &self,
        sums: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        panel: usize,
        out: *mut T,
    ) {
        // SAFETY: the caller's conditions.
        unsafe {
            match self.extras.activation {
                None | Some(Activation::Geglu) => self.rows::<L>(sums, rows, panel, out, |x| x),
                Some(Activation::Silu) => self.rows::<L>(sums, rows, panel, out, |x| silu(x)),
                Some(Activation::Gelu) => self.rows::<L>(sums, rows, panel, out, |x| gelu(x)),
                Some(Activation::QuickGelu) => {
                    self.rows::<L>(sums, rows, panel, out, |x| quick_gelu(x));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<L: Lanes>(
        &self,
        sums: *const f32,
        rows: &RowBlock<MOST_ROWS>,
        panel: usize,
        out: *mut T,
        activate: impl Fn(L) -> L,
    ) {
        let first = panel * PANEL;
        let width = PANEL.min(self.outputs - first);
        // SAFETY: the row is inside `out` and the panel inside the row, by the checks of `new`.
        unsafe {
            let bias = self.bias::<L>(panel);
            for row in 0..rows.count {
                let mut values = L::load(sums.add(row * PAIR)).add(bias);
                if let Some(terms) = self.extras.image_rows {
                    let at = rows.images[row] * self.outputs + first;
                    values = values.add(load::<L, T>(terms.as_ptr().add(at), width));
                }
                values = activate(values);
                let at = rows.outputs[row] * self.width + first;
                if let Some(residual) = self.extras.residual {
                    values = values.add(load::<L, T>(residual.as_ptr().add(at), width));
                }
                store(values, out.add(at), width);
            }
        }
    }

    #[inline(always)]
    unsafe fn bias<L: Lanes>(&self, panel: usize) -> L {
        // SAFETY: a bias is filled up to whole panels.
        unsafe {
            match self.bias {
                Some(bias) => L::load(bias[panel * PANEL..][..PANEL].as_ptr()),
                None => L::splat(0.0),
            }
        }
    }
}
