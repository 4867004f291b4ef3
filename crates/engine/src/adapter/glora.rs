//! GLoRA: a low-rank change of the base weight itself beside one of its own.
//!
//! Chavan et al., 2023, <https://arxiv.org/abs/2306.07967>, as LyCORIS trains it:
//! `ΔW = alpha / rank · (W · a1 · a2 + b1 · b2)`, with `W` unpatched. Of a convolution `a1 · a2` mixes the input
//! channels at every tap. Older files have the factors in the other order: `W · a2 · a1 + b2 · b1`.

use rayon::prelude::*;

use crate::{
    Result,
    adapter::{
        Algorithm, Apply, Base, Delta,
        parts::{Pair, Parts, dimensions, tucker},
    },
};

pub(super) static GLORA: Algorithm = Algorithm {
    id: "glora",
    name: "GLoRA",
    suffixes: &[
        ("a1.weight", "a1"),
        ("a2.weight", "a2"),
        ("b1.weight", "b1"),
        ("b2.weight", "b2"),
        ("bm.weight", "bm"),
    ],
    recognizes: |parts| ["a1", "a2", "b1", "b2"].iter().all(|part| parts.has(part)),
    rank: |parts| order(parts, None).and_then(|order| rank(parts, order)),
    inputs: |parts| {
        order(parts, None).and_then(|order| size(parts, order.a_left)).map(|size| size.0)
    },
    apply: Some(Apply { fits, add_delta }),
};

/// Which part is which factor.
#[derive(Clone, Copy)]
struct Order {
    /// `(in, rank)`
    a_left: &'static str,
    /// `(rank, in)`
    a_right: &'static str,
    /// `(out, rank)`
    b_left: &'static str,
    /// `(rank, in · taps)`, or `(rank, in)` with a core between.
    b_right: &'static str,
}

const NEW: Order = Order { a_left: "a1", a_right: "a2", b_left: "b1", b_right: "b2" };
const OLD: Order = Order { a_left: "a2", a_right: "a1", b_left: "b2", b_right: "b1" };

/// A part as a matrix.
fn size(parts: &Parts, part: &str) -> Option<(usize, usize)> {
    let (rows, rest) = parts.shape(part)?.split_first()?;
    let columns = rest.iter().try_fold(1usize, |product, size| product.checked_mul(*size))?;
    (*rows > 0 && columns > 0).then_some((*rows, columns))
}

fn rank(parts: &Parts, order: Order) -> Option<usize> {
    size(parts, order.a_right).map(|size| size.0)
}

/// The order of the factors, by their sizes: the newer one where both would do. Without the base weight,
/// that in which the rank is the smaller side.
fn order(parts: &Parts, base: Option<(usize, usize, usize)>) -> Option<Order> {
    [NEW, OLD].into_iter().find(|order| {
        let Some((inputs, rank)) = size(parts, order.a_left) else { return false };
        let (a, b_left, b_right) =
            (size(parts, order.a_right), size(parts, order.b_left), size(parts, order.b_right));
        let core = parts.shape("bm");
        let taps = core.map_or(1, |core| core.iter().skip(2).product());
        let core_fits = core.is_none_or(|core| core.len() > 2 && core[..2] == [rank, rank]);
        a == Some((rank, inputs))
            && core_fits
            && b_left.is_some_and(|left| left.1 == rank)
            && match base {
                None => rank <= inputs,
                Some((outputs, of_base, base_taps)) => {
                    let width = if core.is_some() { of_base } else { of_base * base_taps };
                    inputs == of_base
                        && b_left.is_some_and(|left| left.0 == outputs)
                        && b_right == Some((rank, width))
                        && (core.is_none() || taps == base_taps)
                }
            }
    })
}

fn fits(parts: &Parts, shape: &[usize]) -> bool {
    dimensions(shape).is_some_and(|base| order(parts, Some(base)).is_some())
}

fn add_delta(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let shape = base.shape();
    let (outputs, inputs, taps) = dimensions(shape).expect("checked by `fits`");
    let order = order(parts, Some((outputs, inputs, taps))).expect("checked by `fits`");
    let rank = rank(parts, order).expect("checked by `fits`");
    let scale = weight * parts.scale(rank)?;

    let (left, mut right) = (parts.read(order.b_left)?, parts.read(order.b_right)?);
    if parts.has("bm") {
        right = tucker(&parts.read("bm")?, &right, (rank, rank), taps);
    }
    delta.pairs.push(Pair::new(left, right, rank, scale));

    // For each output and tap a row of inputs, times (in, rank), times (rank, in).
    let (first, second) = (parts.read(order.a_left)?, parts.read(order.a_right)?);
    let (read, width) = (base.weight()?, inputs * taps);
    let rows = delta.rest(shape).par_chunks_exact_mut(width).zip(read.par_chunks_exact(width));
    rows.for_each(|(sums, read)| {
        for tap in 0..taps {
            let row: Vec<f32> = read[tap..].iter().step_by(taps).copied().collect();
            let mut narrow = vec![0.0; rank];
            kernels::matmul::add_product(&mut narrow, &row, &first, inputs, 1.0);
            let mut wide = vec![0.0; inputs];
            kernels::matmul::add_product(&mut wide, &narrow, &second, rank, scale as f32);
            for (sum, change) in sums[tap..].iter_mut().step_by(taps).zip(wide) {
                *sum += change;
            }
        }
    });
    Ok(())
}
