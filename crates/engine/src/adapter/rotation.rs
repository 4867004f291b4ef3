//! Rotations of the weight: OFT, BOFT, HRA.
//!
//! An orthogonal matrix `R` turns the base weight, block by block. It comes from a skew-symmetric one by the
//! transform of Cayley, 1846: `R = (I + Q)(I − Q)⁻¹`, which PEFT and OneTrainer approximate by the first terms
//! of its series. At a weight `m` the matrix is `I + m · (R − I)`.
//!
//! - OFT (Qiu et al., 2023, <https://arxiv.org/abs/2306.07280>) as kohya and LyCORIS have it: `Rᵀ` from the left,
//!   on blocks of outputs. `alpha` bounds the norm of `Q`, and `rescale` multiplies each output. As PEFT and
//!   OneTrainer have it: `Rᵀ` from the right, on blocks of inputs, or of a convolution's rows `(in, kh, kw)`. There
//!   OneTrainer takes `R`, so a file with neither PEFT's configuration nor OneTrainer's marks is refused; and what
//!   PEFT merges counts. While PEFT trains a kernel larger than 1 × 1, it adds up windows that overlap, which no
//!   weight does.
//! - BOFT (Liu et al., 2023, <https://arxiv.org/abs/2311.06243>): several such stages, each on outputs that are
//!   further apart, as in a fast Fourier transform.
//! - HRA (Yuan et al., 2024, <https://arxiv.org/abs/2405.17484>): a chain of reflections at the inputs.

use rayon::prelude::*;

use crate::{
    Result,
    adapter::{
        Algorithm, Apply, Base, Delta,
        parts::{Parts, dimensions},
        peft::Rotation,
    },
};

/// What the records have in common.
const ROTATION: Algorithm = Algorithm {
    id: "",
    name: "",
    suffixes: &[],
    recognizes: |_| false,
    rank: |_| None,
    inputs: |_| None,
    apply: None,
};

pub(super) static OFT: Algorithm = Algorithm {
    id: "oft",
    name: "OFT",
    suffixes: &[("oft_blocks", "blocks"), ("oft_diag", "rotation"), ("rescale", "rescale")],
    recognizes: |parts| parts.has("blocks") || parts.has("rotation"),
    apply: Some(Apply { fits: fits_left, add_delta: turn_outputs }),
    ..ROTATION
};

pub(super) static BOFT: Algorithm = Algorithm {
    id: "boft",
    name: "BOFT",
    suffixes: &[("oft_blocks", "blocks"), ("rescale", "rescale")],
    recognizes: |parts| parts.shape("blocks").is_some_and(|shape| shape.len() == 4),
    apply: Some(Apply { fits: fits_stages, add_delta: turn_in_stages }),
    ..ROTATION
};

pub(super) static INPUT_OFT: Algorithm = Algorithm {
    id: "oft_input",
    name: "OFT of inputs",
    suffixes: &[
        ("oft_R.weight", "generator"),
        ("oft_R", "generator"),
        ("oft_R.scaled_oft", "scaled"),
    ],
    recognizes: |parts| parts.has("generator"),
    apply: Some(Apply { fits: fits_right, add_delta: turn_inputs }),
    ..ROTATION
};

pub(super) static HRA: Algorithm = Algorithm {
    id: "hra",
    name: "HRA",
    suffixes: &[("hra_u", "reflections")],
    recognizes: |parts| parts.has("reflections"),
    rank: |parts| parts.shape("reflections")?.get(1).copied(),
    apply: Some(Apply { fits: fits_reflections, add_delta: reflect }),
    ..ROTATION
};

/// A square matrix, row by row. Rotations are made in f64: an inverse doubles every error.
struct Square {
    side: usize,
    values: Vec<f64>,
}

impl Square {
    fn identity(side: usize) -> Square {
        let values = (0..side * side).map(|i| if i % side == i / side { 1.0 } else { 0.0 });
        Square { side, values: values.collect() }
    }

    /// `self + factor · other`
    fn plus(mut self, factor: f64, other: &Square) -> Square {
        for (sum, value) in self.values.iter_mut().zip(&other.values) {
            *sum += factor * value;
        }
        self
    }

    fn times(&self, other: &Square) -> Square {
        let n = self.side;
        let mut values = vec![0.0; n * n];
        for (row, out) in self.values.chunks_exact(n).zip(values.chunks_exact_mut(n)) {
            for (factor, other) in row.iter().zip(other.values.chunks_exact(n)) {
                out.iter_mut().zip(other).for_each(|(out, value)| *out += factor * value);
            }
        }
        Square { side: n, values }
    }

    /// By elimination with the largest pivot of each column. `I − Q` of a skew-symmetric `Q` always has an
    /// inverse: the eigenvalues of `Q` are imaginary.
    fn inverse(mut self) -> Square {
        let n = self.side;
        let mut inverse = Square::identity(n);
        for column in 0..n {
            let size = |row: &usize| self.values[row * n + column].abs();
            let pivot = (column..n).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(column);
            for matrix in [&mut self.values, &mut inverse.values] {
                for i in 0..n {
                    matrix.swap(column * n + i, pivot * n + i);
                }
            }
            let scale = self.values[column * n + column];
            for matrix in [&mut self.values, &mut inverse.values] {
                matrix[column * n..][..n].iter_mut().for_each(|value| *value /= scale);
            }
            for row in (0..n).filter(|row| *row != column) {
                let factor = self.values[row * n + column];
                if factor == 0.0 {
                    continue;
                }
                for matrix in [&mut self.values, &mut inverse.values] {
                    for i in 0..n {
                        matrix[row * n + i] -= factor * matrix[column * n + i];
                    }
                }
            }
        }
        inverse
    }

    fn norm_squared(&self) -> f64 {
        self.values.iter().map(|value| value * value).sum()
    }

    fn scale(&mut self, factor: f64) {
        self.values.iter_mut().for_each(|value| *value *= factor);
    }

    /// `m · (self − I)`
    fn change(&self, m: f64) -> Square {
        let mut change = Square { side: self.side, values: self.values.clone() };
        for (i, value) in change.values.iter_mut().enumerate() {
            let diagonal = i % self.side == i / self.side;
            *value = m * (*value - if diagonal { 1.0 } else { 0.0 });
        }
        change
    }
}

/// `(I + Q)(I − Q)⁻¹`
fn cayley(q: &Square) -> Square {
    let plus = Square::identity(q.side).plus(1.0, q);
    plus.times(&Square::identity(q.side).plus(-1.0, q).inverse())
}

/// The rotations of blocks that are stored as any matrices, of which the skew-symmetric part counts.
///
/// * `bound`: of the norm of all `Q` together; 0 is none
fn rotations(blocks: &[f32], side: usize, bound: f64) -> Vec<Square> {
    let mut all: Vec<Square> = blocks
        .chunks_exact(side * side)
        .map(|block| {
            let value = |row: usize, column: usize| f64::from(block[row * side + column]);
            let values = (0..side * side)
                .map(|i| value(i / side, i % side) - value(i % side, i / side))
                .collect();
            Square { side, values }
        })
        .collect();
    let norm = all.iter().map(Square::norm_squared).sum::<f64>().sqrt();
    if bound > 0.0 && norm > bound {
        all.iter_mut().for_each(|q| q.scale(bound / norm));
    }
    all.par_iter().map(cayley).collect()
}

/// Adds `w' − w` to a sum of changes.
fn add_difference(delta: &mut Delta, shape: &[usize], turned: &[f32], read: &[f32]) {
    let sums = delta.rest(shape).par_iter_mut();
    sums.zip(turned.par_iter().zip(read)).for_each(|(sum, (turned, read))| *sum += turned - read);
}

/// Multiplies each output, at a weight: with 1 as LyCORIS does, with 0 not at all.
fn rescale(parts: &Parts, weight: f64, turned: &mut [f32], width: usize) -> Result<()> {
    if parts.has("rescale") {
        let factors = parts.read("rescale")?;
        for (row, factor) in turned.chunks_exact_mut(width).zip(factors) {
            let factor = (1.0 + weight * (f64::from(factor) - 1.0)) as f32;
            row.iter_mut().for_each(|value| *value *= factor);
        }
    }
    Ok(())
}

fn rescale_fits(parts: &Parts, outputs: usize) -> bool {
    parts.elements("rescale").is_none_or(|count| count == outputs)
}

// --- outputs ---------------------------------------------------------------------------------

fn fits_left(parts: &Parts, shape: &[usize]) -> bool {
    let Some((outputs, ..)) = dimensions(shape) else { return false };
    let blocks = parts.shape("blocks").or(parts.shape("rotation"));
    matches!(blocks, Some(&[count, side, other])
        if side == other && side > 0 && count.checked_mul(side) == Some(outputs))
        && rescale_fits(parts, outputs)
}

fn turn_outputs(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let shape = base.shape();
    let (outputs, inputs, taps) = dimensions(shape).expect("checked by `fits`");
    let width = inputs * taps;
    let rotations = if parts.has("blocks") {
        let side = parts.shape("blocks").expect("it is there")[2];
        let bound = parts.alpha()?.unwrap_or(0.0) * outputs as f64;
        rotations(&parts.read("blocks")?, side, bound)
    } else {
        // The first files hold the rotations themselves.
        let side = parts.shape("rotation").expect("checked by `fits`")[2];
        let matrices = parts.read("rotation")?;
        let square = |block: &[f32]| Square {
            side,
            values: block.iter().map(|value| f64::from(*value)).collect(),
        };
        matrices.chunks_exact(side * side).map(square).collect()
    };
    let read = base.weight()?;
    let side = rotations.first().map_or(1, |rotation| rotation.side);
    let mut turned = read.to_vec();
    let blocks = turned.par_chunks_exact_mut(side * width).zip(read.par_chunks_exact(side * width));
    blocks.zip(&rotations).for_each(|((turned, read), rotation)| {
        let change = rotation.change(weight);
        for (p, turned) in turned.chunks_exact_mut(width).enumerate() {
            for (q, read) in read.chunks_exact(width).enumerate() {
                let factor = change.values[q * side + p] as f32;
                turned.iter_mut().zip(read).for_each(|(sum, value)| *sum += factor * value);
            }
        }
    });
    rescale(parts, weight, &mut turned, width)?;
    add_difference(delta, shape, &turned, read);
    Ok(())
}

// --- stages ----------------------------------------------------------------------------------

fn fits_stages(parts: &Parts, shape: &[usize]) -> bool {
    let Some((outputs, ..)) = dimensions(shape) else { return false };
    let Some(&[stages, count, side, other]) = parts.shape("blocks") else { return false };
    // The last stage brings outputs together that lie half of `2^stages · side` apart.
    let reach = u32::try_from(stages).ok().and_then(|stages| side.checked_shl(stages.max(1) - 1));
    side == other
        && side >= 2
        && side.is_multiple_of(2)
        && (1..32).contains(&stages)
        && count.checked_mul(side) == Some(outputs)
        && reach.is_some_and(|reach| reach > 0 && outputs.is_multiple_of(reach))
        && rescale_fits(parts, outputs)
}

fn turn_in_stages(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let shape = base.shape();
    let (outputs, inputs, taps) = dimensions(shape).expect("checked by `fits`");
    let width = inputs * taps;
    let &[_, count, side, _] = parts.shape("blocks").expect("checked by `fits`") else {
        unreachable!("checked by `fits`")
    };
    let bound = parts.alpha()?.unwrap_or(0.0) * outputs as f64;
    let rotations = rotations(&parts.read("blocks")?, side, bound);
    let read = base.weight()?;
    let mut turned = read.to_vec();
    for (stage, rotations) in rotations.chunks_exact(count).enumerate() {
        // Outputs `(c, 2, k)` become `(c, k, 2)`, so that partners are neighbors.
        let k = (side / 2) << stage;
        let place = |row: usize| {
            let (c, rest) = (row / (2 * k), row % (2 * k));
            2 * k * c + rest % 2 * k + rest / 2
        };
        let before = turned.clone();
        let mut after = vec![0.0; turned.len()];
        after.par_chunks_exact_mut(side * width).zip(rotations).enumerate().for_each(
            |(block, (after, rotation))| {
                let change = rotation.change(weight);
                for (p, after) in after.chunks_exact_mut(width).enumerate() {
                    let row = |i: usize| &before[place(block * side + i) * width..][..width];
                    after.copy_from_slice(row(p));
                    for q in 0..side {
                        let factor = change.values[p * side + q] as f32;
                        after.iter_mut().zip(row(q)).for_each(|(sum, v)| *sum += factor * v);
                    }
                }
            },
        );
        for (row, after) in after.chunks_exact(width).enumerate() {
            turned[place(row) * width..][..width].copy_from_slice(after);
        }
    }
    rescale(parts, weight, &mut turned, width)?;
    add_difference(delta, shape, &turned, read);
    Ok(())
}

// --- inputs ----------------------------------------------------------------------------------

/// What there is no configuration for.
const ONE_TRAINER: Rotation = Rotation { terms: Some(5), bound: None };

/// Blocks of a generator for so many inputs: how many are stored, and their side. One block may be shared by
/// all.
fn generators(parts: &Parts, inputs: usize) -> Option<(usize, usize)> {
    let &[stored, count] = parts.shape("generator")? else { return None };
    // `count` is side · (side − 1) / 2.
    let side = (1.0 + (1.0 + 8.0 * count as f64).sqrt()).round() as usize / 2;
    let whole = side >= 2 && side * (side - 1) / 2 == count && inputs.is_multiple_of(side);
    (whole && (stored == inputs / side || stored == 1)).then_some((stored, side))
}

fn fits_right(parts: &Parts, shape: &[usize]) -> bool {
    let Some((_, inputs, taps)) = dimensions(shape) else { return false };
    (shape.len() == 2 || parts.settings.rotation.is_some() || is_one_trainers(parts))
        && generators(parts, inputs * taps).is_some()
}

/// Whether OneTrainer wrote a file: it notes its branch and revision, and has a form of its own.
fn is_one_trainers(parts: &Parts) -> bool {
    parts.has("scaled") || parts.file.metadata().keys().any(|key| key.starts_with("ot_"))
}

/// So many terms of Cayley's series, the last with half of its factor.
fn series(q: &Square, terms: u64) -> Square {
    let mut sum = Square::identity(q.side);
    if terms > 1 {
        sum = sum.plus(2.0, q);
    }
    if terms > 2 {
        let mut power = q.times(q);
        sum = sum.plus(2.0, &power);
        for _ in 3..terms - 1 {
            power = power.times(q);
            sum = sum.plus(2.0, &power);
        }
        // As in PEFT, three are four as well.
        sum = sum.plus(1.0, &power.times(q));
    }
    sum
}

fn turn_inputs(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let shape = base.shape();
    let (_, inputs, taps) = dimensions(shape).expect("checked by `fits`");
    let width = inputs * taps;
    let (stored, side) = generators(parts, width).expect("checked by `fits`");
    let values = parts.read("generator")?;
    let Rotation { terms, bound } = parts.settings.rotation.unwrap_or(ONE_TRAINER);
    // OneTrainer's other form.
    let divisor = if parts.has("scaled") { 2.0 * ((side - 1) as f64).sqrt() } else { 1.0 };
    // The other sign makes it the transpose: where PEFT solves for the matrix, and where OneTrainer turns
    // weights rather than inputs.
    let is_other_way = terms.is_none() || shape.len() > 2 && parts.settings.rotation.is_none();
    let divisor = if is_other_way { -divisor } else { divisor };
    let changes: Vec<Square> = values
        .par_chunks_exact(side * (side - 1) / 2)
        .map(|upper| {
            let mut q = Square { side, values: vec![0.0; side * side] };
            let places = (0..side).flat_map(|row| (row + 1..side).map(move |column| (row, column)));
            for ((row, column), value) in places.zip(upper) {
                q.values[row * side + column] = f64::from(*value) / divisor;
                q.values[column * side + row] = -f64::from(*value) / divisor;
            }
            let norm = q.norm_squared().sqrt();
            if let Some(bound) = bound.map(|bound| bound / (stored as f64).sqrt())
                && norm > bound
            {
                q.scale(bound / norm);
            }
            terms.map_or_else(|| cayley(&q), |terms| series(&q, terms)).change(weight)
        })
        .collect();
    let read = base.weight()?;
    let rows = delta.rest(shape).par_chunks_exact_mut(width).zip(read.par_chunks_exact(width));
    rows.for_each(|(sums, row)| {
        for (block, (sums, row)) in
            sums.chunks_exact_mut(side).zip(row.chunks_exact(side)).enumerate()
        {
            let change = &changes[block % changes.len()];
            for (sum, factors) in sums.iter_mut().zip(change.values.chunks_exact(side)) {
                let turned = row.iter().zip(factors).map(|(v, factor)| f64::from(*v) * factor);
                *sum += turned.sum::<f64>() as f32;
            }
        }
    });
    Ok(())
}

// --- reflections -----------------------------------------------------------------------------

fn fits_reflections(parts: &Parts, shape: &[usize]) -> bool {
    let Some((_, inputs, taps)) = dimensions(shape) else { return false };
    matches!(parts.shape("reflections"), Some(&[length, count])
        if length == inputs * taps && count > 0)
}

fn reflect(parts: &Parts, base: &Base<'_>, weight: f64, delta: &mut Delta) -> Result<()> {
    let shape = base.shape();
    let &[width, count] = parts.shape("reflections").expect("checked by `fits`") else {
        unreachable!("checked by `fits`")
    };
    let values = parts.read("reflections")?;
    let mirrors: Vec<Vec<f64>> = (0..count)
        .map(|i| {
            let mirror = values[i..].iter().step_by(count).map(|value| f64::from(*value));
            let norm = mirror.clone().map(|value| value * value).sum::<f64>().sqrt();
            mirror.map(|value| value / norm.max(f64::MIN_POSITIVE)).collect()
        })
        .collect();
    let read = base.weight()?;
    let rows = delta.rest(shape).par_chunks_exact_mut(width).zip(read.par_chunks_exact(width));
    rows.for_each(|(sums, read)| {
        let mut row: Vec<f64> = read.iter().map(|value| f64::from(*value)).collect();
        for mirror in &mirrors {
            let along: f64 = row.iter().zip(mirror).map(|(value, mirror)| value * mirror).sum();
            row.iter_mut().zip(mirror).for_each(|(value, mirror)| *value -= 2.0 * along * mirror);
        }
        for ((sum, turned), read) in sums.iter_mut().zip(row).zip(read) {
            *sum += (weight * (turned - f64::from(*read))) as f32;
        }
    });
    Ok(())
}
