//! (IA)³: one factor for each input or each output. Liu et al., 2022, <https://arxiv.org/abs/2205.05638>.
//!
//! LyCORIS stores what is added to the factor 1, and says in `on_input` which side is meant: `W · (1 + m · w)`.
//! PEFT stores the factor itself: `W · (1 + m · (l − 1))`, as a row for inputs and a column for outputs; at
//! outputs the layer's result is multiplied, and so the bias is too.

use crate::{
    Result,
    adapter::{
        Algorithm, Apply, Base, Delta,
        parts::{Parts, dimensions},
    },
};

pub(super) static IA3: Algorithm = Algorithm {
    id: "ia3",
    name: "(IA)³",
    suffixes: &[("on_input", "on_input"), ("weight", "weight"), ("ia3_l", "factors")],
    recognizes: |parts| parts.has("factors") || parts.has("weight") && parts.has("on_input"),
    rank: |_| None,
    inputs: |_| None,
    apply: Some(Apply { fits, add_delta }),
};

/// Which side of a layer the factors are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inputs,
    Outputs,
}

fn fits(parts: &Parts, shape: &[usize]) -> bool {
    let Some((outputs, inputs, _)) = dimensions(shape) else { return false };
    if parts.has("factors") {
        return side_of_factors(parts, outputs, inputs).is_some();
    }
    // Which of the two `on_input` says is read with the numbers.
    let factors = parts.elements("weight");
    parts.elements("on_input") == Some(1) && (factors == Some(inputs) || factors == Some(outputs))
}

/// The side that PEFT's factors are for: by their number, else by which dimension is 1. For a square
/// convolution both sides have the same form, and feed-forward layers are the only ones with inputs.
fn side_of_factors(parts: &Parts, outputs: usize, inputs: usize) -> Option<Side> {
    let shape = parts.shape("factors")?;
    let count: usize = shape.iter().product();
    let sides = (count == inputs, count == outputs);
    match sides {
        (true, false) => Some(Side::Inputs),
        (false, true) => Some(Side::Outputs),
        (false, false) => None,
        (true, true) => Some(match shape {
            [1, columns] if *columns > 1 => Side::Inputs,
            _ => Side::Outputs,
        }),
    }
}

fn add_delta(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let shape = base.shape();
    let (outputs, inputs, taps) = dimensions(shape).expect("checked by `fits`");
    let (side, changes, biased) = if parts.has("factors") {
        let side = side_of_factors(parts, outputs, inputs).expect("checked by `fits`");
        let factors = parts.read("factors")?;
        (side, factors.iter().map(|factor| factor - 1.0).collect(), side == Side::Outputs)
    } else {
        let on_input = parts.read("on_input")?.first().is_some_and(|flag| *flag != 0.0);
        let side = if on_input { Side::Inputs } else { Side::Outputs };
        (side, parts.read("weight")?, false)
    };
    let needed = if side == Side::Inputs { inputs } else { outputs };
    if changes.len() != needed {
        return Err(parts.misfit(&format!("{needed} factors for a weight of {shape:?}")));
    }
    let m = weight as f32;
    let width = inputs * taps;
    let read = base.weight()?;
    let rows = delta.rest(shape).chunks_exact_mut(width).zip(read.chunks_exact(width));
    for (output, (sums, row)) in rows.enumerate() {
        for (i, (sum, value)) in sums.iter_mut().zip(row).enumerate() {
            let change = if side == Side::Inputs { changes[i / taps] } else { changes[output] };
            *sum += m * change * value;
        }
    }
    if let Some(bias) = base.bias().filter(|_| biased) {
        for ((sum, value), change) in delta.bias(outputs).iter_mut().zip(bias).zip(&changes) {
            *sum += m * change * value;
        }
    }
    Ok(())
}
