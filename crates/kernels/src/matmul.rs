//! Matrix products: `x · wᵀ` for linear layers, and plain ones for adapter factors.

use std::{borrow::Cow, ops::Range};

use half::{bf16, f16};
use rayon::prelude::*;

/// A number as weights are stored. Widening to f32 is exact for all of them.
pub trait Element: Copy + Send + Sync {
    /// The values as f32, without a copy where they are f32 already.
    fn widen(values: &[Self]) -> Cow<'_, [f32]>;
}

impl Element for f32 {
    fn widen(values: &[f32]) -> Cow<'_, [f32]> {
        Cow::Borrowed(values)
    }
}

impl Element for bf16 {
    fn widen(values: &[bf16]) -> Cow<'_, [f32]> {
        Cow::Owned(values.iter().map(|value| value.to_f32()).collect())
    }
}

impl Element for f16 {
    fn widen(values: &[f16]) -> Cow<'_, [f32]> {
        Cow::Owned(values.iter().map(|value| value.to_f32()).collect())
    }
}

/// Rows per task where there are many: enough that packing the weights for each task costs little.
pub(crate) const ROW_BLOCK: usize = 256;

/// Columns per task where there are few rows.
const COLUMN_BLOCK: usize = 64;

/// A linear layer: `out[r, o] = bias[o] + Σᵢ x[r, i] · w[o, i]`.
///
/// * `x`: `(rows, inputs)`
/// * `w`: `(outputs, inputs)`, as files store it
/// * `bias`: `(outputs)`
/// * returns `(rows, outputs)`
///
/// # Panics
/// If the lengths of the slices do not agree.
#[must_use]
pub fn linear<W: Element>(x: &[f32], w: &[W], bias: Option<&[f32]>, inputs: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    assert_eq!((rows * inputs, outputs * inputs), (x.len(), w.len()), "whole rows");
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "one bias per output");

    let mut out = vec![0.0; rows * outputs];
    if rows >= 4 * ROW_BLOCK {
        // Many rows: each task widens all weights and makes whole rows of the result.
        let w = W::widen(w);
        out.par_chunks_mut(ROW_BLOCK * outputs).zip(x.par_chunks(ROW_BLOCK * inputs)).for_each(
            |(out, x)| {
                let shape = Shape { m: x.len() / inputs, k: inputs, n: outputs };
                product(shape, Rows(x, inputs), Columns(&w, inputs), out, outputs, 1.0, false);
                add_bias(out, outputs, bias);
            },
        );
    } else {
        // Few rows: each task makes some columns of all rows, apart from the others in memory
        // until they are put together.
        let blocks: Vec<(Range<usize>, Vec<f32>)> = (0..outputs.div_ceil(COLUMN_BLOCK))
            .into_par_iter()
            .map(|block| {
                let columns = block * COLUMN_BLOCK..outputs.min((block + 1) * COLUMN_BLOCK);
                let w = W::widen(&w[columns.start * inputs..columns.end * inputs]);
                let mut part = vec![0.0; rows * columns.len()];
                let shape = Shape { m: rows, k: inputs, n: columns.len() };
                product(
                    shape,
                    Rows(x, inputs),
                    Columns(&w, inputs),
                    &mut part,
                    columns.len(),
                    1.0,
                    false,
                );
                add_bias(&mut part, columns.len(), bias.map(|bias| &bias[columns.clone()]));
                (columns, part)
            })
            .collect();
        for (columns, part) in blocks {
            let width = columns.len();
            for (out, part) in out.chunks_exact_mut(outputs).zip(part.chunks_exact(width)) {
                out[columns.clone()].copy_from_slice(part);
            }
        }
    }
    out
}

/// Adds `scale · a · b` to `sum`: the weight change of a low-rank pair, on one thread.
///
/// * `a`: `(m, k)`, `b`: `(k, n)`, `sum`: `(m, n)`, all row after row
///
/// # Panics
/// If the lengths of the slices do not agree.
pub fn add_product(sum: &mut [f32], a: &[f32], b: &[f32], k: usize, scale: f32) {
    if sum.is_empty() || k == 0 {
        return;
    }
    let (m, n) = (a.len() / k, b.len() / k);
    assert_eq!((m * k, n * k, m * n), (a.len(), b.len(), sum.len()), "whole rows");
    product(Shape { m, k, n }, Rows(a, k), Rows(b, n), sum, n, scale, true);
}

/// `m × k` times `k × n`.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

/// A matrix in memory: element `(r, c)` lies at `r · row_step + c · column_step`.
pub(crate) trait Layout<'a> {
    fn parts(self) -> (&'a [f32], usize, usize);
}

/// Row after row, each `.1` apart.
pub(crate) struct Rows<'a>(pub(crate) &'a [f32], pub(crate) usize);

/// Column after column, each `.1` apart.
pub(crate) struct Columns<'a>(pub(crate) &'a [f32], pub(crate) usize);

impl<'a> Layout<'a> for Rows<'a> {
    fn parts(self) -> (&'a [f32], usize, usize) {
        (self.0, self.1, 1)
    }
}

impl<'a> Layout<'a> for Columns<'a> {
    fn parts(self) -> (&'a [f32], usize, usize) {
        (self.0, 1, self.1)
    }
}

/// `out = scale · a · b`, or `out += …` if `add`; `out` has rows `out_step` apart. One thread.
///
/// # Panics
/// If a matrix reaches beyond its slice.
pub(crate) fn product<'a>(
    Shape { m, k, n }: Shape,
    a: impl Layout<'a>,
    b: impl Layout<'a>,
    out: &mut [f32],
    out_step: usize,
    scale: f32,
    add: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let ((a, a_row, a_column), (b, b_row, b_column)) = (a.parts(), b.parts());
    let last = |rows: usize, columns: usize, row: usize, column: usize| {
        (rows - 1) * row + (columns.max(1) - 1) * column
    };
    assert!(k > 0, "an empty sum");
    assert!(last(m, k, a_row, a_column) < a.len(), "a matrix beyond its slice");
    assert!(last(k, n, b_row, b_column) < b.len(), "a matrix beyond its slice");
    assert!(n <= out_step && last(m, n, out_step, 1) < out.len(), "a result beyond its slice");
    // SAFETY: the assertions above put the last element of each matrix inside its slice, all steps
    // are non-negative, the rows of `out` do not overlap, and `out` is borrowed exclusively.
    #[expect(clippy::cast_possible_wrap, reason = "a slice is never longer than isize::MAX")]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_step as isize,
            add,
            a.as_ptr(),
            a_column as isize,
            a_row as isize,
            b.as_ptr(),
            b_column as isize,
            b_row as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

pub(crate) fn add_bias(out: &mut [f32], outputs: usize, bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        for row in out.chunks_exact_mut(outputs) {
            for (value, bias) in row.iter_mut().zip(bias) {
                *value += bias;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::tests::numbers;

    fn naive(x: &[f32], w: &[f32], bias: &[f32], inputs: usize) -> Vec<f64> {
        let outputs = bias.len();
        x.chunks(inputs)
            .flat_map(|x| {
                (0..outputs).map(move |o| {
                    let w = &w[o * inputs..(o + 1) * inputs];
                    let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(x * w)).sum();
                    sum + f64::from(bias[o])
                })
            })
            .collect()
    }

    #[test]
    fn linear_is_a_sum_of_products_for_odd_and_large_shapes() {
        for (rows, inputs, outputs) in [(1, 1, 1), (3, 7, 5), (77, 64, 65), (1025, 33, 70)] {
            let (x, w) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
            let bias = numbers(outputs, 3);
            let out = linear(&x, &w, Some(&bias), inputs);
            for (ours, exact) in out.iter().zip(naive(&x, &w, &bias, inputs)) {
                assert!((f64::from(*ours) - exact).abs() < 1e-4, "{rows}x{inputs}x{outputs}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (x, w) = (numbers(1500 * 96, 4), numbers(200 * 96, 5));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (linear(&x, &w, None, 96), linear(&x[..96 * 50], &w, None, 96)))
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3));
    }

    #[test]
    fn half_precision_weights_are_widened_exactly() {
        let x = numbers(4 * 16, 6);
        let w: Vec<bf16> = numbers(8 * 16, 7).into_iter().map(bf16::from_f32).collect();
        let wide: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
        assert_eq!(linear(&x, &w, None, 16), linear(&x, &wide, None, 16));
    }

    #[test]
    fn add_product_adds() {
        let mut sum = vec![1.0; 4];
        add_product(&mut sum, &[1.0, 2.0], &[3.0, 4.0], 1, 0.5);
        assert_eq!(sum, [2.5, 3.0, 4.0, 5.0]);
    }
}
