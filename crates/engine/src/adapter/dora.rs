//! DoRA: a direction, which one of the other algorithms changes, and a magnitude of its own.
//!
//! Liu et al., 2024, <https://arxiv.org/abs/2402.09353>: `W_dora = d · V / ‖V‖` with `V = W + ΔW`, the norm over
//! each output's weights. At other weights than 1 the change is `m · (W_dora − W)`, so that 0 is no change and
//! 1 is what was trained. Older LyCORIS files, and OneTrainer's, have the norm over each input's weights;
//! which dimension of the magnitudes is 1 says so.

use rayon::prelude::*;

use crate::{
    Result,
    adapter::{
        Algorithm, Apply, Base, Delta, loha, lokr, lora,
        parts::{Parts, dimensions},
    },
};

pub(super) static DORA: Algorithm = Algorithm {
    id: "dora",
    name: "DoRA",
    suffixes: &[
        ("dora_scale", "magnitudes"),
        // PEFT, ai-toolkit: always for each output, whatever the shape.
        ("lora_magnitude_vector.weight", "output_magnitudes"),
        ("lora_magnitude_vector", "output_magnitudes"),
        ("magnitude", "output_magnitudes"),
    ],
    recognizes: |parts| parts.has("magnitudes") || parts.has("output_magnitudes"),
    rank: |parts| (inner(parts)?.rank)(parts),
    inputs: |parts| (inner(parts)?.inputs)(parts),
    apply: Some(Apply { fits, add_delta }),
};

/// The algorithms that it is known to go around, the more particular first.
const INNER: &[&Algorithm] = &[&lora::LOCON, &lora::LORA, &loha::LOHA, &lokr::LOKR];

/// Whether a part belongs to the algorithm inside.
pub(super) fn is_inner_part(parts: &Parts, part: &str) -> bool {
    inner(parts).is_some_and(|inner| inner.suffixes.iter().any(|row| row.1 == part))
}

fn inner(parts: &Parts) -> Option<&'static Algorithm> {
    INNER.iter().find(|algorithm| (algorithm.recognizes)(parts)).copied()
}

/// Whether the norm is over each output's weights (or each input's), if the magnitudes are for a weight of
/// so many.
fn by_output(parts: &Parts, outputs: usize, inputs: usize) -> Option<bool> {
    if let Some(count) = parts.elements("output_magnitudes") {
        return (count == outputs).then_some(true);
    }
    let shape = parts.shape("magnitudes")?;
    let count: usize = shape.iter().product();
    match shape {
        [1, second, ..] if *second > 1 => (count == inputs).then_some(false),
        _ => (count == outputs).then_some(true),
    }
}

fn fits(parts: &Parts, shape: &[usize]) -> bool {
    let Some((outputs, inputs, _)) = dimensions(shape) else { return false };
    let apply = inner(parts).and_then(|inner| inner.apply);
    apply.is_some_and(|apply| (apply.fits)(parts, shape))
        && by_output(parts, outputs, inputs).is_some()
}

fn add_delta(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let shape = base.shape();
    let (outputs, inputs, taps) = dimensions(shape).expect("checked by `fits`");
    let apply = inner(parts).and_then(|inner| inner.apply).expect("checked by `fits`");
    let mut change = Delta::default();
    (apply.add_delta)(parts, base, 1.0, &mut change)?;
    let (read, width) = (base.weight()?, inputs * taps);
    let mut merged = change.weight(shape);
    merged.par_iter_mut().zip(read.par_iter()).for_each(|(sum, value)| *sum += value);

    let by_output = by_output(parts, outputs, inputs).expect("checked by `fits`");
    let name = if parts.has("magnitudes") { "magnitudes" } else { "output_magnitudes" };
    let magnitudes = parts.read(name)?;
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    let squares: Vec<f64> = if by_output {
        merged.par_chunks_exact(width).map(|row| row.iter().map(square).sum()).collect()
    } else {
        let column = |input: usize| -> f64 {
            let rows = merged.chunks_exact(width);
            rows.flat_map(|row| &row[input * taps..][..taps]).map(square).sum()
        };
        (0..inputs).into_par_iter().map(column).collect()
    };
    let factors: Vec<f32> = magnitudes
        .iter()
        .zip(squares)
        .map(|(magnitude, square)| magnitude / (square.sqrt() as f32 + f32::EPSILON))
        .collect();
    let m = weight as f32;
    let rows = delta.rest(shape).par_chunks_exact_mut(width);
    let rows = rows.zip(merged.par_chunks_exact(width)).zip(read.par_chunks_exact(width));
    rows.enumerate().for_each(|(output, ((sums, merged), read))| {
        for (i, ((sum, merged), read)) in sums.iter_mut().zip(merged).zip(read).enumerate() {
            let factor = if by_output { factors[output] } else { factors[i / taps] };
            *sum += m * (factor * merged - read);
        }
    });
    // A bias has no direction.
    if let Some(change) = change.bias {
        delta.add_bias(&change, m);
    }
    Ok(())
}
