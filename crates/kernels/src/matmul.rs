//! Plain matrix products of f32, for operands that are multiplied once: the halves of a LoHa, the
//! cores of Tucker forms, and attention where there are no tiles. By the gemm crate. Layers are in [`product`](crate::product).

/// Adds `scale · a · b` to `sum`, on one thread.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_product_adds() {
        let mut sum = vec![1.0; 4];
        add_product(&mut sum, &[1.0, 2.0], &[3.0, 4.0], 1, 0.5);
        assert_eq!(sum, [2.5, 3.0, 4.0, 5.0]);
    }
}
