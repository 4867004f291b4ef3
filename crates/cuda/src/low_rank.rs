//! The weights that a layer works with: those of a file, changed by adapters.
//!
//! A stack of adapters changes a weight by `Σ scaleₐ · leftₐ · rightₐ`, a sum of products of thin matrices.
//! With all left factors side by side and all right ones below each other it is one product, made while the
//! weight is brought from the file's order and format into those of the products.

use crate::{
    Buffer, Format, Result,
    launch::{Geometry, launch, narrow, params},
    pointwise,
    product::Weights,
};

params! {
    /// That of the kernels.
    struct LowRankParams {
        base: u64,
        rest: u64,
        left: u64,
        right: u64,
        output: u64,
        outputs: u32,
        inputs: u32,
        taps: u32,
        ranks: u32,
        block_inputs: u32,
        base_format: u32,
    }
}

/// A weight as a file has it.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// `(outputs, inputs, kernel, kernel)`, in the file's format.
    pub values: &'a Buffer,
    /// Rows.
    pub outputs: usize,
    /// Channels that they are multiplied with.
    pub inputs: usize,
    /// Rows and columns of the kernel: 1 for a linear layer, or a table.
    pub kernel: usize,
}

/// What is added to a weight: a product of two thin matrices, in the format of the result or f32.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a> {
    /// `(outputs, ranks)`, with all scales in it.
    pub left: &'a Buffer,
    /// `(ranks, inputs · kernel · kernel)`
    pub right: &'a Buffer,
    /// Columns of the one and rows of the other.
    pub ranks: usize,
}

/// A weight for the products: `base + rest + left · right`, rounded once.
///
/// The factors are rounded to `format` before they are multiplied; sums are f32.
///
/// * `rest`: in f32, in the order of the base
/// * returns `(outputs, kernel, kernel, inputs)`
///
/// # Panics
/// If the sizes or formats do not agree.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn low_rank(
    base: &Base<'_>,
    rest: Option<&Buffer>,
    factors: Option<&Factors<'_>>,
    format: Format,
) -> Result<Buffer> {
    let Base { values, outputs, inputs, kernel } = *base;
    let (card, taps) = (values.card(), kernel * kernel);
    let len = outputs * inputs * taps;
    assert_eq!(values.len(), len, "a weight for every input of every output");
    assert!(rest.is_none_or(|rest| (rest.len(), rest.format()) == (len, Format::F32)));
    let rounded = |x: &Buffer, len: usize| {
        assert_eq!(x.len(), len, "factors of the weight");
        match x.format() == format {
            true => Ok(None),
            false => pointwise::convert(x, format).map(Some),
        }
    };
    let out = Buffer::new(card, len, format)?;
    if len == 0 {
        return Ok(out);
    }
    let mut params = LowRankParams {
        base: values.address(),
        rest: rest.map_or(0, Buffer::address),
        output: out.address(),
        outputs: narrow(outputs),
        inputs: narrow(inputs),
        taps: narrow(taps),
        base_format: values.format() as u32,
        ..LowRankParams::default()
    };
    // Kept until the kernel is queued.
    let mut made = (None, None);
    if let Some(Factors { left, right, ranks }) = factors.filter(|factors| factors.ranks > 0) {
        made = (rounded(left, outputs * ranks)?, rounded(right, ranks * inputs * taps)?);
        params.left = made.0.as_ref().unwrap_or(left).address();
        params.right = made.1.as_ref().unwrap_or(right).address();
        params.ranks = narrow(*ranks);
    }
    let plan = Plan::of(outputs, inputs, taps, format);
    params.block_inputs = narrow(plan.inputs);
    launch(card, &format!("low_rank_{}", format.suffix()), plan.geometry, &params)?;
    drop(made);
    Ok(out)
}

/// How a weight is shared out among blocks.
#[derive(Debug)]
struct Plan {
    /// Inputs of a block.
    inputs: usize,
    geometry: Geometry,
}

impl Plan {
    fn of(outputs: usize, inputs: usize, taps: usize, format: Format) -> Plan {
        /// Numbers of a row that a block makes: at most, and of a linear layer, where 160 divide most rows.
        const MOST: usize = 288;
        const LINEAR: usize = 160;
        assert!(taps <= MOST, "a kernel of a common size");
        let block_inputs = match MOST / taps {
            MOST => LINEAR,
            // What is read and written 16 bytes at a time must begin at a multiple of them.
            many if many >= 8 => many / 8 * 8,
            few => few,
        };
        let (block_outputs, shared) = match format {
            Format::F32 => (16, (16 * 32 + 16 * MOST) * 4),
            Format::F16 | Format::Bf16 => (64, 64 * (MOST + 8) * 2),
        };
        let grid = [inputs.div_ceil(block_inputs), outputs.div_ceil(block_outputs), 1];
        Plan { inputs: block_inputs, geometry: Geometry { grid, threads: 256, shared } }
    }
}

impl Weights {
    /// The weights of a layer from those of a file, changed as [`low_rank`] says.
    ///
    /// * `bias`: `(outputs)` in f32
    ///
    /// # Panics
    /// As [`low_rank`], or if there are not as many offsets as outputs.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
    pub fn patched(
        base: &Base<'_>,
        bias: Option<Buffer>,
        rest: Option<&Buffer>,
        factors: Option<&Factors<'_>>,
        format: Format,
    ) -> Result<Weights> {
        let values = low_rank(base, rest, factors, format)?;
        Ok(Weights::new(values, bias, base.outputs, base.inputs, base.kernel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FORMATS, assert_close, cards, random};

    #[test]
    fn weights_are_changed_rounded_and_reordered() {
        for card in cards() {
            for (outputs, inputs, kernel, ranks) in [
                (1, 1, 1, 0),
                (70, 320, 1, 4),
                (24, 40, 3, 0),
                (66, 72, 3, 33),
                (20, 4, 3, 8),
                (12, 9, 3, 3),
                (8, 7, 1, 70),
                (3, 203, 1, 5),
                (5, 33, 2, 2),
            ] {
                for (format, _) in FORMATS {
                    for (file, _) in FORMATS {
                        let with_rest = file != Format::F16;
                        check(&card, (outputs, inputs, kernel, ranks), (format, file), with_rest);
                    }
                }
            }
        }
    }

    fn check(
        card: &crate::Card,
        (outputs, inputs, kernel, ranks): (usize, usize, usize, usize),
        (format, file): (Format, Format),
        with_rest: bool,
    ) {
        let (taps, width) = (kernel * kernel, inputs * kernel * kernel);
        let (base, base_exact) = random(card, outputs * width, 1, file);
        let (rest, rest_exact) = random(card, outputs * width, 2, Format::F32);
        // One of them already in the format, the other still to be rounded to it.
        let (left, left_exact) = random(card, outputs * ranks, 3, format);
        let (right, _) = random(card, ranks * width, 4, Format::F32);
        let (_, right_exact) = random(card, ranks * width, 4, format);
        let mut exact = vec![0.0; outputs * width];
        for o in 0..outputs {
            for i in 0..inputs {
                for tap in 0..taps {
                    let column = i * taps + tap;
                    let mut sum = base_exact[o * width + column];
                    if with_rest {
                        sum += rest_exact[o * width + column];
                    }
                    for r in 0..ranks {
                        sum += left_exact[o * ranks + r] * right_exact[r * width + column];
                    }
                    exact[(o * taps + tap) * inputs + i] = sum;
                }
            }
        }
        let base = Base { values: &base, outputs, inputs, kernel };
        let factors = Factors { left: &left, right: &right, ranks };
        let rest = with_rest.then_some(&rest);
        let weights = Weights::patched(&base, None, rest, Some(&factors), format).unwrap();
        let what = format!("{outputs} {inputs} {kernel} {ranks} {format:?} {file:?}");
        let tolerance = if format == Format::F32 { 16.0 } else { 0.51 };
        assert_close(&weights.values().unwrap(), &exact, tolerance, 1.0, &what);
        if ranks == 0 {
            let plain = low_rank(&base, rest, None, format).unwrap();
            assert_close(&plain, &exact, tolerance, 1.0, &what);
        }
    }

    #[test]
    fn plans_are_within_a_cards_limits() {
        for (outputs, inputs, taps) in [
            (49408, 1280, 1),
            (320, 4, 9),
            (1280, 2560, 9),
            (10240, 1280, 1),
            (512, 512, 9),
            (8, 3, 49),
        ] {
            for (format, _) in FORMATS {
                let Plan { inputs: block_inputs, geometry } =
                    Plan::of(outputs, inputs, taps, format);
                assert!(geometry.shared <= 48 << 10 && geometry.grid[1] <= 65535);
                assert!(block_inputs * taps <= 288 && block_inputs * geometry.grid[0] >= inputs);
            }
        }
    }
}
