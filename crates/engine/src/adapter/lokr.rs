//! LoKr: the change is a Kronecker product of two matrices, each whole or factored.
//!
//! Yeh et al., 2023, <https://arxiv.org/abs/2309.14859>: `ΔW = scale · w1 ⊗ w2`, reshaped to the weight.
//! With the second matrix flattened to two dimensions the one formula covers linear layers, convolutions
//! whose kernel belongs to the second matrix, and older files that divide `in · kh · kw` between the two.

use crate::{
    Result,
    adapter::{
        Algorithm, Apply, Base, Delta,
        parts::{Parts, transposed, tucker},
    },
};

/// The names of a matrix' parts: whole; left factor, core, right factor.
type Matrix = [&'static str; 4];
const FIRST: Matrix = ["kronecker_w1", "kronecker_w1_a", "kronecker_t1", "kronecker_w1_b"];
const SECOND: Matrix = ["kronecker_w2", "kronecker_w2_a", "kronecker_t2", "kronecker_w2_b"];

pub(super) static LOKR: Algorithm = Algorithm {
    id: "lokr",
    name: "LoKr",
    suffixes: &[
        ("lokr_w1", FIRST[0]),
        ("lokr_w1_a", FIRST[1]),
        ("lokr_w1_b", FIRST[3]),
        ("lokr_w2", SECOND[0]),
        ("lokr_w2_a", SECOND[1]),
        ("lokr_t2", SECOND[2]),
        ("lokr_w2_b", SECOND[3]),
    ],
    recognizes: |parts| is_there(parts, FIRST) && is_there(parts, SECOND),
    rank,
    inputs,
    apply: Some(Apply { fits, add_delta }),
};

fn is_there(parts: &Parts, [whole, left, _, right]: Matrix) -> bool {
    parts.has(whole) || parts.has(left) && parts.has(right)
}

/// Of the factored matrix; a product of two whole ones has none.
fn rank(parts: &Parts) -> Option<usize> {
    parts.shape(SECOND[3]).or(parts.shape(FIRST[3]))?.first().copied()
}

/// Without a kernel's taps, as far as the parts tell them from channels.
fn inputs(parts: &Parts) -> Option<usize> {
    let columns =
        |[whole, _, _, right]: Matrix| parts.shape(whole).or(parts.shape(right))?.get(1).copied();
    columns(FIRST)?.checked_mul(columns(SECOND)?)
}

/// Rows and columns of a matrix with all that follows its first dimension flattened, if its parts agree.
fn size(parts: &Parts, [whole, left, core, right]: Matrix) -> Option<(usize, usize)> {
    let flat = |shape: &[usize]| -> Option<(usize, usize)> {
        let (rows, rest) = shape.split_first()?;
        let columns = rest.iter().try_fold(1usize, |product, size| product.checked_mul(*size))?;
        (*rows > 0 && columns > 0).then_some((*rows, columns))
    };
    if let Some(shape) = parts.shape(whole) {
        return flat(shape);
    }
    let (left, right) = (flat(parts.shape(left)?)?, flat(parts.shape(right)?)?);
    match parts.shape(core) {
        // `(out, rank)` and `(rank, in)`.
        None => (left.1 == right.0).then_some((left.0, right.1)),
        // `(rank, out)`, `(rank, rank, kh, kw)`, `(rank, in)`.
        Some([p, q, taps @ ..]) => {
            let taps = taps.iter().try_fold(1usize, |product, tap| product.checked_mul(*tap))?;
            let fits = left.0 == *p && right.0 == *q && taps > 0;
            fits.then_some((left.1, right.1.checked_mul(taps)?))
        }
        Some(_) => None,
    }
}

fn fits(parts: &Parts, shape: &[usize]) -> bool {
    let (Some(first), Some(second)) = (size(parts, FIRST), size(parts, SECOND)) else {
        return false;
    };
    let Some((outputs, rest)) = shape.split_first() else { return false };
    first.0.checked_mul(second.0) == Some(*outputs)
        && first.1.checked_mul(second.1) == Some(rest.iter().product())
        && !rest.is_empty()
}

/// A matrix multiplied out, flattened to two dimensions.
fn matrix(parts: &Parts, names: Matrix) -> Result<Vec<f32>> {
    let [whole, left, core, right] = names;
    if parts.has(whole) {
        return parts.read(whole);
    }
    let (rows, columns) = size(parts, names).expect("checked by `fits`");
    let (mut a, mut b) = (parts.read(left)?, parts.read(right)?);
    let mut rank = b.len() / columns;
    if let Some(&[p, q, ..]) = parts.shape(core) {
        let inputs = b.len() / q;
        b = tucker(&parts.read(core)?, &b, (p, q), columns / inputs);
        a = transposed(&a, rows);
        rank = p;
    }
    let mut product = vec![0.0; rows * columns];
    kernels::matmul::add_product(&mut product, &a, &b, rank, 1.0);
    Ok(product)
}

fn add_delta(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let (first, second) = (matrix(parts, FIRST)?, matrix(parts, SECOND)?);
    let (_, columns) = size(parts, FIRST).expect("checked by `fits`");
    let (_, width) = size(parts, SECOND).expect("checked by `fits`");
    // Of two whole matrices alpha means nothing; some files store huge values.
    let scale = match rank(parts) {
        Some(rank) => parts.scale(rank)?,
        None => parts.scalar()?,
    };
    let scale = (weight * scale) as f32;
    let rows = delta.rest(base.shape()).chunks_exact_mut(columns * width);
    let pairs = first
        .chunks_exact(columns)
        .flat_map(|row| second.chunks_exact(width).map(move |inner| (row, inner)));
    for (sums, (row, inner)) in rows.zip(pairs) {
        for (sums, factor) in sums.chunks_exact_mut(width).zip(row) {
            let factor = scale * factor;
            sums.iter_mut().zip(inner).for_each(|(sum, value)| *sum += factor * value);
        }
    }
    Ok(())
}
