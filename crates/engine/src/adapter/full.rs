//! The whole change, not factored: of weights and biases, and of norms.

use crate::{
    Result,
    adapter::{Algorithm, Apply, Base, Delta, parts::Parts},
};

/// `W + m · diff`, `bias + m · diff_b`.
pub(super) static FULL: Algorithm = Algorithm {
    id: "full",
    name: "a full difference",
    suffixes: &[("diff", "diff"), ("diff_b", BIAS)],
    recognizes: |parts| parts.has("diff") || parts.has(BIAS),
    rank: |_| None,
    inputs: |parts| parts.shape("diff")?.get(1).copied(),
    apply: Some(Apply {
        fits: |parts, shape| fits(parts, shape, ["diff", BIAS]),
        add_delta: |parts, base, weight, delta| {
            add_delta(parts, base, weight, delta, ["diff", BIAS])
        },
    }),
};

/// The same of norms, as LyCORIS names it.
pub(super) static NORM: Algorithm = Algorithm {
    id: "norm",
    name: "a difference of norms",
    suffixes: &[("w_norm", "w_norm"), ("b_norm", "b_norm")],
    recognizes: |parts| parts.has("w_norm") || parts.has("b_norm"),
    rank: |_| None,
    inputs: |_| None,
    apply: Some(Apply {
        fits: |parts, shape| fits(parts, shape, ["w_norm", "b_norm"]),
        add_delta: |parts, base, weight, delta| {
            add_delta(parts, base, weight, delta, ["w_norm", "b_norm"])
        },
    }),
};

/// The part with a difference of the bias, which may stand beside any other algorithm's.
pub(super) const BIAS: &str = "diff_b";

/// Whether there is none, or one of the bias of a weight of this shape.
pub(super) fn bias_fits(parts: &Parts, shape: &[usize]) -> bool {
    parts.elements(BIAS).is_none_or(|found| Some(&found) == shape.first())
}

/// Adds it, if there is one.
pub(super) fn add_bias(parts: &Parts, weight: f64, delta: &mut Delta) -> Result<()> {
    if parts.has(BIAS) {
        delta.add_bias(&parts.read(BIAS)?, weight as f32);
    }
    Ok(())
}

fn fits(parts: &Parts, shape: &[usize], [of_weight, of_bias]: [&str; 2]) -> bool {
    let elements: usize = shape.iter().product();
    parts.elements(of_weight).is_none_or(|found| found == elements)
        && parts.elements(of_bias).is_none_or(|found| Some(&found) == shape.first())
        && parts.shape(of_weight).is_none_or(|found| found.first() == shape.first())
}

fn add_delta(
    parts: &Parts,
    base: &Base<'_>,
    weight: f64,
    delta: &mut Delta,
    [of_weight, of_bias]: [&str; 2],
) -> Result<()> {
    let shape = base.shape();
    let scale = (weight * parts.scalar()?) as f32;
    if parts.has(of_weight) {
        for (sum, change) in delta.rest(shape).iter_mut().zip(parts.read(of_weight)?) {
            *sum += scale * change;
        }
    }
    if parts.has(of_bias) {
        delta.add_bias(&parts.read(of_bias)?, scale);
    }
    Ok(())
}
