//! The operations on the processor: calls into the crate `kernels`.
//!
//! A processor multiplies bf16 as it is; f16 it widens first, so those numbers are kept in 32 bits,
//! rounded to what f16 can hold.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use half::{bf16, f16};
use kernels::{
    Number, Operand, Values,
    attention::{Heads, attention as attention_kernel},
    conv::{self, Size, Window},
    norm, pointwise,
    product::{self, Extras, Factors, LowRank, Packed, Sampling},
};
use rayon::prelude::*;

use super::{Activation, Change, Extent, Function, Origin, Role};
use crate::{Error, Precision, Result};

/// Numbers in memory.
#[derive(Debug)]
pub(super) enum Numbers {
    F32(Values<f32>),
    Bf16(Values<bf16>),
    /// In 32 bits, each one a number of f16.
    F16(Values<f32>),
}

/// Runs an expression for numbers, whatever they are stored as, and makes numbers of the same precision
/// of its result.
macro_rules! map_numbers {
    ($numbers:expr, |$x:ident| $body:expr) => {
        match $numbers {
            Numbers::F32($x) => Numbers::F32($body),
            Numbers::Bf16($x) => Numbers::Bf16($body),
            Numbers::F16($x) => Numbers::in_f16($body),
        }
    };
}

impl Numbers {
    pub(super) fn new(values: &[f32], precision: Precision) -> Numbers {
        match precision {
            Precision::F32 => Numbers::F32(values.into()),
            Precision::Bf16 => Numbers::Bf16(pointwise::narrow(values)),
            Precision::F16 => Numbers::in_f16(values.into()),
        }
    }

    /// From values in `(B, C, H, W)` order.
    pub(super) fn from_planes(planes: &[f32], size: Size, precision: Precision) -> Numbers {
        match precision {
            Precision::F32 => Numbers::F32(pointwise::from_planes(planes, size)),
            Precision::Bf16 => Numbers::Bf16(pointwise::from_planes(planes, size)),
            Precision::F16 => Numbers::in_f16(pointwise::from_planes(planes, size)),
        }
    }

    /// The values in `(B, C, H, W)` order.
    pub(super) fn planes(&self, size: Size) -> Vec<f32> {
        match self {
            Numbers::F32(values) | Numbers::F16(values) => pointwise::to_planes(values, size),
            Numbers::Bf16(values) => pointwise::to_planes(values, size),
        }
    }

    fn in_f16(mut values: Values<f32>) -> Numbers {
        round_to_f16(&mut values);
        Numbers::F16(values)
    }

    pub(super) fn precision(&self) -> Precision {
        match self {
            Numbers::F32(_) => Precision::F32,
            Numbers::Bf16(_) => Precision::Bf16,
            Numbers::F16(_) => Precision::F16,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Numbers::F32(values) | Numbers::F16(values) => values.len(),
            Numbers::Bf16(values) => values.len(),
        }
    }

    /// The values in f32, borrowed where they are stored so.
    pub(super) fn widen(&self) -> Cow<'_, [f32]> {
        match self {
            Numbers::F32(values) | Numbers::F16(values) => Cow::Borrowed(values),
            Numbers::Bf16(values) => Cow::Owned(pointwise::widen(values).to_vec()),
        }
    }
}

/// Rounds numbers to a precision that holds less than what they are stored as.
type Round = fn(&mut [f32]);

fn round_to_f16(values: &mut [f32]) {
    for value in values {
        *value = f16::from_f32(*value).to_f32();
    }
}

/// Maps with a border of zeros.
#[derive(Debug)]
pub(crate) enum Padded {
    F32(conv::Padded<f32>),
    Bf16(conv::Padded<bf16>),
    F16(conv::Padded<f32>),
}

/// A number as it is stored: the way from a generic kernel to the variants.
trait Stored: Operand {
    fn of(numbers: &Numbers) -> &[Self];
    fn packed(packs: &Packs) -> &Packed<Self>;
    fn packs(packed: Packed<Self>) -> Packs;
}

const ONE_PRECISION: &str = "a network and what it works on are stored alike";

impl Stored for f32 {
    fn of(numbers: &Numbers) -> &[f32] {
        match numbers {
            Numbers::F32(values) | Numbers::F16(values) => values,
            Numbers::Bf16(_) => unreachable!("{ONE_PRECISION}"),
        }
    }

    fn packed(packs: &Packs) -> &Packed<f32> {
        match packs {
            Packs::F32(packed) => packed,
            Packs::Bf16(_) => unreachable!("{ONE_PRECISION}"),
        }
    }

    fn packs(packed: Packed<f32>) -> Packs {
        Packs::F32(packed)
    }
}

impl Stored for bf16 {
    fn of(numbers: &Numbers) -> &[bf16] {
        match numbers {
            Numbers::Bf16(values) => values,
            _ => unreachable!("{ONE_PRECISION}"),
        }
    }

    fn packed(packs: &Packs) -> &Packed<bf16> {
        match packs {
            Packs::Bf16(packed) => packed,
            Packs::F32(_) => unreachable!("{ONE_PRECISION}"),
        }
    }

    fn packs(packed: Packed<bf16>) -> Packs {
        Packs::Bf16(packed)
    }
}

/// A layer's weights, packed.
#[derive(Debug)]
pub(super) enum Packs {
    F32(Packed<f32>),
    Bf16(Packed<bf16>),
}

/// What weights become.
#[derive(Debug)]
pub(super) enum Form {
    Layer {
        packs: Arc<Packs>,
        /// A change that is not in the weights.
        beside: Option<Beside>,
        /// The 3 × 3 kernel of a [`Role::Doubling`], made when a map of odd size first needs it.
        undoubled: OnceLock<Box<Packs>>,
    },
    /// Factors and offsets of a normalization. They are few, and rounding them would cost accuracy for
    /// nothing.
    Norm(Vec<f32>, Vec<f32>),
    Table(Numbers),
}

/// A change of low rank beside a layer, `up · down · x`. Where all adapters weigh nothing it has no factors.
#[derive(Debug)]
pub(super) struct Beside(Option<(Down, Packs)>);

/// The right factors of all adapters below each other, a layer of their ranks, with what they are.
type Down = (Vec<Origin>, Arc<Packs>);

/// What a layer was made of that had its change beside it.
#[derive(Debug, Clone)]
pub(super) struct Remains {
    /// The unchanged weights.
    bare: Arc<Packs>,
    down: Option<Down>,
}

const KINDS: &str = "layers, normalizations and tables are known by their names and shapes";

impl Form {
    /// A normalization.
    pub(super) fn norm(
        outputs: usize,
        bias: Option<&[f32]>,
        rows: impl Fn(usize, &mut [f32]) -> Result<()>,
    ) -> Result<Form> {
        let mut gamma = vec![0.0; outputs];
        rows(0, &mut gamma)?;
        Ok(Form::Norm(gamma, bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec)))
    }

    /// A linear layer, a convolution, or a table.
    pub(super) fn layer(
        extent: Extent,
        bias: Option<&[f32]>,
        (role, precision): (Role, Precision),
        change: &Change<'_>,
        remains: Option<&Remains>,
        rows: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Form> {
        if change.beside {
            return match precision {
                Precision::Bf16 => beside::<bf16>(extent, bias, change, remains, (rows, None)),
                Precision::F32 => beside::<f32>(extent, bias, change, remains, (rows, None)),
                Precision::F16 => {
                    beside::<f32>(extent, bias, change, remains, (rows, Some(round_to_f16)))
                }
            };
        }
        let factors = change.factors;
        match precision {
            Precision::F32 => form(extent, bias, role, factors, (rows, None), Numbers::F32),
            Precision::Bf16 => form(extent, bias, role, factors, (rows, None), Numbers::Bf16),
            Precision::F16 => {
                form(extent, bias, role, factors, (rows, Some(round_to_f16)), Numbers::F16)
            }
        }
    }

    /// What saves work when a layer that has its change beside it gets another one.
    pub(super) fn remains(&self) -> Option<Remains> {
        let Form::Layer { packs, beside: Some(Beside(factors)), .. } = self else { return None };
        let down = factors.as_ref().map(|(down, _)| down.clone());
        Some(Remains { bare: packs.clone(), down })
    }

    pub(super) fn number_bytes(&self) -> usize {
        let is_bf16 = match self {
            Form::Layer { packs, .. } => matches!(**packs, Packs::Bf16(_)),
            Form::Table(numbers) => matches!(numbers, Numbers::Bf16(_)),
            Form::Norm(..) => false,
        };
        if is_bf16 { size_of::<bf16>() } else { size_of::<f32>() }
    }

    pub(super) fn rest(&self) {
        if let Form::Layer { packs, .. } = self {
            match &**packs {
                Packs::F32(packed) => packed.rest(),
                Packs::Bf16(packed) => packed.rest(),
            }
        }
    }

    /// Every number, to the last bit.
    #[cfg(test)]
    pub(super) fn bits(&self) -> Vec<u32> {
        let bits = |values: &mut dyn Iterator<Item = f32>| values.map(f32::to_bits).collect();
        match self {
            Form::Layer { packs, beside, .. } => {
                let factors = beside.iter().flat_map(|beside| &beside.0);
                let all = factors.flat_map(|((_, down), up)| [&**down, up]);
                let values = [&**packs].into_iter().chain(all).map(|packs| match packs {
                    Packs::F32(packed) => packed.values().collect::<Vec<_>>(),
                    Packs::Bf16(packed) => packed.values().collect(),
                });
                bits(&mut values.flatten())
            }
            Form::Norm(factors, offsets) => bits(&mut factors.iter().chain(offsets).copied()),
            Form::Table(values) => bits(&mut values.widen().iter().copied()),
        }
    }

    /// A row of a table of so many columns.
    pub(super) fn row(&self, index: usize, columns: usize) -> Vec<f32> {
        let range = index * columns..(index + 1) * columns;
        match self {
            Form::Table(Numbers::F32(values) | Numbers::F16(values)) => values[range].to_vec(),
            Form::Table(Numbers::Bf16(values)) => {
                values[range].iter().map(|value| Number::to_f32(*value)).collect()
            }
            _ => unreachable!("{KINDS}"),
        }
    }

    /// Its weights, and the factors beside them: the lower and the upper one.
    fn layers(&self) -> (&Packs, Option<(&Packs, &Packs)>) {
        match self {
            Form::Layer { packs, beside, .. } => {
                let factors = beside.as_ref().and_then(|beside| beside.0.as_ref());
                (packs, factors.map(|((_, down), up)| (&**down, up)))
            }
            _ => unreachable!("{KINDS}"),
        }
    }

    fn factors(&self) -> (&[f32], &[f32]) {
        match self {
            Form::Norm(factors, offsets) => (factors, offsets),
            _ => unreachable!("{KINDS}"),
        }
    }
}

/// Weights of two or four dimensions: of a layer, or a table.
///
/// * `rows`: with what rounds sums to the precision, where that holds less than what is stored
fn form<T: Stored>(
    Extent { outputs, inputs, kernel }: Extent,
    bias: Option<&[f32]>,
    role: Role,
    factors: &[Factors<'_>],
    (rows, round): (impl Fn(usize, &mut [f32]) -> Result<()> + Sync, Option<Round>),
    table: fn(Values<T>) -> Numbers,
) -> Result<Form> {
    let low_rank = (!factors.is_empty()).then(|| LowRank::<T>::new(factors));
    let sums = |first: usize, to: &mut [f32]| {
        rows(first, to)?;
        low_rank.iter().for_each(|change| change.add_to(first, to));
        round.iter().for_each(|round| round(to));
        Ok::<_, Error>(())
    };
    if role == Role::Table {
        const ROWS: usize = 64;
        let mut values = Values::zeros(outputs * inputs);
        values.par_chunks_mut(ROWS * inputs).enumerate().try_for_each(
            |(part, values)| -> Result<()> {
                let mut wide = vec![0.0; values.len()];
                sums(part * ROWS, &mut wide)?;
                for (to, value) in values.iter_mut().zip(wide) {
                    *to = T::from_f32(value);
                }
                Ok(())
            },
        )?;
        return Ok(Form::Table(table(values)));
    }
    let sampling = match role {
        Role::Doubling if kernel == 3 => Sampling::Double,
        _ => Sampling::Same,
    };
    let (taps, change) = (kernel * kernel, low_rank.as_ref());
    let packed = match round {
        None => Packed::from_rows(outputs, inputs, taps, bias, sampling, (&rows, change)),
        Some(_) => Packed::from_rows(outputs, inputs, taps, bias, sampling, (&sums, None)),
    }?;
    Ok(Form::Layer { packs: Arc::new(T::packs(packed)), beside: None, undoubled: OnceLock::new() })
}

/// A layer with its change beside it. What remains of an earlier one is used as far as it is the same.
fn beside<T: Stored>(
    Extent { outputs, inputs, kernel }: Extent,
    bias: Option<&[f32]>,
    change: &Change<'_>,
    remains: Option<&Remains>,
    (rows, round): (impl Fn(usize, &mut [f32]) -> Result<()> + Sync, Option<Round>),
) -> Result<Form> {
    let taps = kernel * kernel;
    let packed =
        |outputs, inputs, taps, bias, rows: &(dyn Fn(usize, &mut [f32]) -> Result<()> + Sync)| {
            let rows = |first: usize, to: &mut [f32]| {
                rows(first, to)?;
                round.iter().for_each(|round| round(to));
                Ok::<_, Error>(())
            };
            let packed =
                Packed::<T>::from_rows(outputs, inputs, taps, bias, Sampling::Same, (rows, None));
            Ok::<_, Error>(T::packs(packed?))
        };
    let bare = match remains {
        Some(remains) => remains.bare.clone(),
        None => Arc::new(packed(outputs, inputs, taps, bias, &rows)?),
    };
    let ranks: usize = change.factors.iter().map(|pair| pair.rank).sum();
    let factors = (ranks > 0).then(|| {
        let down = match remains.and_then(|remains| remains.down.as_ref()) {
            Some(down) if down.0 == change.key => down.clone(),
            _ => {
                let width = inputs * taps;
                let right: Vec<f32> =
                    change.factors.iter().flat_map(|pair| pair.right).copied().collect();
                let rows = |first: usize, to: &mut [f32]| {
                    to.copy_from_slice(&right[first * width..][..to.len()]);
                    Ok(())
                };
                (change.key.to_vec(), Arc::new(packed(ranks, inputs, taps, None, &rows)?))
            }
        };
        let left = |first: usize, to: &mut [f32]| {
            product::put_left(change.factors, first, to);
            Ok(())
        };
        Ok::<_, Error>((down, packed(outputs, ranks, 1, None, &left)?))
    });
    Ok(Form::Layer {
        packs: bare,
        beside: Some(Beside(factors.transpose()?)),
        undoubled: OnceLock::new(),
    })
}

pub(super) fn linear(
    form: &Form,
    x: &Numbers,
    activation: Option<Activation>,
    residual: Option<&Numbers>,
) -> Numbers {
    fn run<T: Stored>(
        form: &Form,
        x: &[T],
        activation: Option<Activation>,
        residual: Option<&Numbers>,
    ) -> Values<T> {
        let (packs, beside) = form.layers();
        let packed = T::packed(packs);
        let beside = beside.map(|(down, up)| {
            (product::linear(x, T::packed(down), &Extras::none()), T::packed(up))
        });
        let beside = beside.as_ref().map(|(x, up)| (&x[..], *up));
        if activation == Some(Activation::Geglu) && !packed.outputs().is_multiple_of(32) {
            // The kernels gate whole panels only; networks so narrow are no burden.
            let h = product::linear(x, packed, &Extras { beside, ..Extras::none() });
            return pointwise::geglu(&h, packed.outputs() / 2);
        }
        let residual = residual.map(T::of);
        product::linear(x, packed, &Extras { activation, residual, beside, ..Extras::none() })
    }
    map_numbers!(x, |x| run(form, x, activation, residual))
}

pub(super) fn silu(x: &Numbers) -> Numbers {
    let values: Vec<f32> = x.widen().iter().map(|x| x / (1.0 + libm::expf(-x))).collect();
    Numbers::new(&values, x.precision())
}

/// * `added`: a row for each image, and a map
pub(super) fn conv(
    form: &Form,
    x: &Padded,
    window: Window,
    added: (Option<&Numbers>, Option<&Numbers>),
) -> (Numbers, Size) {
    fn run<T: Stored>(
        form: &Form,
        x: &conv::Padded<T>,
        window: Window,
        (rows, residual): (Option<&Numbers>, Option<&Numbers>),
    ) -> (Values<T>, Size) {
        let (packs, beside) = form.layers();
        let beside = beside.map(|(down, up)| {
            (product::conv(x, T::packed(down), window, &Extras::none()).0, T::packed(up))
        });
        let beside = beside.as_ref().map(|(x, up)| (&x[..], *up));
        let (image_rows, residual) = (rows.map(T::of), residual.map(T::of));
        let extras = Extras { beside, image_rows, residual, ..Extras::none() };
        product::conv(x, T::packed(packs), window, &extras)
    }
    match x {
        Padded::F32(x) => {
            let (out, size) = run(form, x, window, added);
            (Numbers::F32(out), size)
        }
        Padded::Bf16(x) => {
            let (out, size) = run(form, x, window, added);
            (Numbers::Bf16(out), size)
        }
        Padded::F16(x) => {
            let (out, size) = run(form, x, window, added);
            (Numbers::in_f16(out), size)
        }
    }
}

pub(super) fn conv_doubled(
    form: &Form,
    (x, from): (&Numbers, Size),
    window: Window,
    to: Size,
) -> Numbers {
    fn run<T: Stored>(form: &Form, x: &[T], from: Size, window: Window, to: Size) -> Values<T> {
        let Form::Layer { packs, undoubled, .. } = form else { unreachable!("{KINDS}") };
        let packed = T::packed(packs);
        if (to.height, to.width) == (2 * from.height, 2 * from.width) {
            let x = conv::Padded::new(x, from);
            return product::conv(&x, packed, window, &Extras::none()).0;
        }
        // An edge that is cut off lies within a pixel's repetitions, so the image itself is doubled.
        let x = pointwise::doubled(x, from, to.height, to.width);
        let whole = undoubled.get_or_init(|| Box::new(T::packs(packed.undoubled())));
        product::conv(&x, T::packed(whole), window, &Extras::none()).0
    }
    map_numbers!(x, |x| run(form, x, from, window, to))
}

pub(super) fn each(x: &Numbers, function: Function) -> Numbers {
    fn run<T: Stored>(x: &[T], f: impl Fn(f32) -> f32 + Sync) -> Values<T> {
        const PART: usize = 1 << 14;
        let mut out = Values::zeros(x.len());
        out.par_chunks_mut(PART).zip(x.par_chunks(PART)).for_each(|(out, x)| {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = T::from_f32(f(x.to_f32())));
        });
        out
    }
    match function {
        Function::Relu => map_numbers!(x, |x| run(x, |x| x.max(0.0))),
        Function::SoftClamp => map_numbers!(x, |x| run(x, |x| 3.0 * libm::tanhf(x / 3.0))),
        Function::Affine(scale, offset) => map_numbers!(x, |x| run(x, |x| x * scale + offset)),
    }
}

pub(super) fn padded(x: &Numbers, size: Size) -> Padded {
    match x {
        Numbers::F32(values) => Padded::F32(conv::Padded::new(values, size)),
        Numbers::Bf16(values) => Padded::Bf16(conv::Padded::new(values, size)),
        Numbers::F16(values) => Padded::F16(conv::Padded::new(values, size)),
    }
}

pub(super) fn group_norm(form: &Form, eps: f32, groups: usize, x: &Numbers, size: Size) -> Numbers {
    let (gamma, beta) = form.factors();
    map_numbers!(x, |x| norm::group_norm(x, size, gamma, beta, groups, eps))
}

pub(super) fn group_norm_silu(
    form: &Form,
    eps: f32,
    groups: usize,
    x: &Numbers,
    size: Size,
) -> Padded {
    fn run<T: Number>(
        form: &Form,
        eps: f32,
        groups: usize,
        x: &[T],
        size: Size,
    ) -> conv::Padded<T> {
        let (gamma, beta) = form.factors();
        norm::group_norm_padded(x, size, gamma, beta, groups, eps, true)
    }
    match x {
        Numbers::F32(x) => Padded::F32(run(form, eps, groups, x, size)),
        Numbers::Bf16(x) => Padded::Bf16(run(form, eps, groups, x, size)),
        Numbers::F16(x) => Padded::F16(run(form, eps, groups, x, size)),
    }
}

pub(super) fn layer_norm(form: &Form, eps: f32, x: &Numbers) -> Numbers {
    let (gamma, beta) = form.factors();
    map_numbers!(x, |x| norm::layer_norm(x, gamma, beta, eps))
}

pub(super) fn attention(
    q: &Numbers,
    k: &Numbers,
    v: &Numbers,
    heads: Heads,
    causal: bool,
) -> Numbers {
    fn run<T: Stored>(q: &[T], k: &Numbers, v: &Numbers, heads: Heads, causal: bool) -> Values<T> {
        attention_kernel(q, T::of(k), T::of(v), heads, causal)
    }
    map_numbers!(q, |q| run(q, k, v, heads, causal))
}

pub(super) fn concat(
    a: &Numbers,
    b: &Numbers,
    (a_channels, b_channels): (usize, usize),
) -> Numbers {
    fn run<T: Stored>(a: &[T], a_channels: usize, b: &Numbers, b_channels: usize) -> Values<T> {
        pointwise::concat(a, a_channels, T::of(b), b_channels)
    }
    map_numbers!(a, |a| run(a, a_channels, b, b_channels))
}
