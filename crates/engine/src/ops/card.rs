//! The operations on a card: calls into the crate `cuda`.

use std::{iter, sync::Arc};

use cuda::{
    Buffer, Card, Format,
    low_rank::{self, Base},
    norm::Norm,
    pointwise,
    product::{self, Extras},
};
use kernels::{
    attention::Heads,
    conv::{Size, Window},
    product::{Factors, put_left},
};

use super::{Activation, Change, Extent, Function, Origin, Stay};
use crate::{Precision, Result};

/// A layer's weights, or a normalization's factors, in a card's memory, or ready to be copied there.
#[derive(Debug)]
pub(super) enum Form {
    Layer {
        weights: product::Weights,
        /// Where adapters changed them.
        remains: Option<Arc<Remains>>,
    },
    /// Factors and offsets, in f32.
    Norm(Buffer, Buffer),
}

/// What a layer's changed weights were made of.
#[derive(Debug)]
pub(super) struct Remains {
    /// The unchanged weights, in the file's order.
    bare: Arc<Buffer>,
    /// Of the adapters' factors, if there were any.
    factors: Option<Arc<Sides>>,
}

/// The factors of all adapters, without their scales.
#[derive(Debug)]
struct Sides {
    key: Vec<Origin>,
    /// `(outputs, all ranks)` in f32, the left factors side by side.
    left: Buffer,
    /// `(all ranks, width)`, the right factors below each other.
    right: Buffer,
}

/// The part of a card's memory that is left free of what only saves work: weights that could be elsewhere, and
/// what they were made of.
const RESERVE: u64 = 4;

pub(super) fn format(precision: Precision) -> Format {
    match precision {
        Precision::F32 => Format::F32,
        Precision::F16 => Format::F16,
        Precision::Bf16 => Format::Bf16,
    }
}

pub(super) fn precision(format: Format) -> Precision {
    match format {
        Format::F32 => Precision::F32,
        Format::F16 => Precision::F16,
        Format::Bf16 => Precision::Bf16,
    }
}

impl Form {
    /// A normalization.
    pub(super) fn norm(
        card: &Card,
        outputs: usize,
        bias: Option<&[f32]>,
        rows: impl Fn(usize, &mut [f32]) -> Result<()>,
    ) -> Result<Form> {
        let mut gamma = vec![0.0; outputs];
        rows(0, &mut gamma)?;
        let zeros = vec![0.0; outputs];
        let upload = |values: &[f32]| Buffer::upload(card, values, Format::F32);
        Ok(Form::Norm(upload(&gamma)?, upload(bias.unwrap_or(&zeros))?))
    }

    /// A linear layer or a convolution. Its weights go over in f32, as they are read; changes are added and
    /// the sums rounded there. What was changed once stays there as it was while there is room, so that a
    /// slider sends nothing but its scales; not so where weights themselves may have to leave.
    pub(super) fn layer(
        (card, format, stay): (&Card, Format, Stay),
        Extent { outputs, inputs, kernel }: Extent,
        bias: Option<&[f32]>,
        change: &Change<'_>,
        remains: Option<&Remains>,
        rows: impl Fn(usize, &mut [f32]) -> Result<()>,
    ) -> Result<Form> {
        let bare = match remains {
            Some(remains) => remains.bare.clone(),
            None => {
                let mut values = vec![0.0; outputs * inputs * kernel * kernel];
                rows(0, &mut values)?;
                Arc::new(Buffer::upload(card, &values, Format::F32)?)
            }
        };
        let sides = match remains.and_then(|remains| remains.factors.clone()) {
            _ if change.factors.is_empty() => None,
            Some(sides) if sides.key == change.key => Some(sides),
            _ => Some(Arc::new(Sides::new(card, outputs, change, format)?)),
        };
        let scales = change.factors.iter().flat_map(|pair| iter::repeat_n(pair.scale, pair.rank));
        let scales: Vec<f32> = scales.collect();
        let left = match &sides {
            Some(sides) => Some(pointwise::scale_columns(&sides.left, &scales, format)?),
            None => None,
        };
        let factors = sides.as_ref().zip(left.as_ref()).map(|(sides, left)| low_rank::Factors {
            left,
            right: &sides.right,
            ranks: scales.len(),
        });
        let rest = change.rest.map(|rest| Buffer::upload(card, rest, Format::F32)).transpose()?;
        let bias = bias.map(|bias| Buffer::upload(card, bias, Format::F32)).transpose()?;
        let base = Base { values: &bare, outputs, inputs, kernel };
        let weights =
            product::Weights::patched(&base, bias, rest.as_ref(), factors.as_ref(), format)?;
        let is_changed = remains.is_some() || sides.is_some() || rest.is_some();
        let has_room = || card.memory().is_ok_and(|(free, all)| free > all / RESERVE);
        if stay == Stay::Always {
            let remains = (is_changed && has_room())
                .then(|| Arc::new(Remains { bare, factors: sides.clone() }));
            return Ok(Form::Layer { weights, remains });
        }
        // What they were made of makes no room of its own.
        drop((bare, sides, left, rest));
        let stays = stay == Stay::WhileRoom && has_room();
        let weights = if stays { weights } else { weights.stow()? };
        Ok(Form::Layer { weights, remains: None })
    }

    /// Whether each use copies the weights to the card.
    pub(super) fn is_stowed(&self) -> bool {
        match self {
            Form::Layer { weights, .. } => weights.is_stowed(),
            Form::Norm(..) => false,
        }
    }

    /// What the weights were made of, as far as it is kept.
    pub(super) fn remains(&self) -> Option<Arc<Remains>> {
        match self {
            Form::Layer { remains, .. } => remains.clone(),
            Form::Norm(..) => None,
        }
    }

    pub(super) fn number_bytes(&self) -> usize {
        match self {
            Form::Layer { weights, .. } => weights.format().bytes(),
            Form::Norm(..) => Format::F32.bytes(),
        }
    }

    /// Every number, to the last bit.
    #[cfg(test)]
    pub(super) fn bits(&self) -> Vec<u32> {
        let numbers = match self {
            Form::Layer { weights, .. } => weights.values().unwrap().download().unwrap(),
            Form::Norm(gamma, beta) => {
                [gamma.download().unwrap(), beta.download().unwrap()].concat()
            }
        };
        numbers.into_iter().map(f32::to_bits).collect()
    }

    fn weights(&self) -> &product::Weights {
        match self {
            Form::Layer { weights, .. } => weights,
            Form::Norm(..) => unreachable!("{LAYERS}"),
        }
    }

    fn factors(&self, eps: f32) -> Norm<'_> {
        match self {
            Form::Norm(gamma, beta) => Norm { gamma, beta, eps },
            Form::Layer { .. } => unreachable!("{LAYERS}"),
        }
    }
}

impl Sides {
    fn new(card: &Card, outputs: usize, change: &Change<'_>, format: Format) -> Result<Sides> {
        let ranks: usize = change.factors.iter().map(|pair| pair.rank).sum();
        let mut left = vec![0.0; outputs * ranks];
        let unscaled = change.factors.iter().map(|pair| Factors { scale: 1.0, ..*pair });
        put_left(&unscaled.collect::<Vec<_>>(), 0, &mut left);
        let right: Vec<f32> = change.factors.iter().flat_map(|pair| pair.right).copied().collect();
        Ok(Sides {
            key: change.key.to_vec(),
            left: Buffer::upload(card, &left, Format::F32)?,
            right: Buffer::upload(card, &right, format)?,
        })
    }
}

const LAYERS: &str = "the checkpoint gives a normalization one factor per channel";

fn activation(activation: Activation) -> product::Activation {
    match activation {
        Activation::Silu => product::Activation::Silu,
        Activation::Gelu => product::Activation::Gelu,
        Activation::QuickGelu => product::Activation::QuickGelu,
        Activation::Geglu => product::Activation::Geglu,
    }
}

pub(super) fn linear(
    form: &Form,
    x: &Buffer,
    then: Option<Activation>,
    residual: Option<&Buffer>,
) -> Result<Buffer> {
    let extras = Extras { activation: then.map(activation), residual, image_rows: None };
    Ok(product::linear(x, form.weights(), &extras)?)
}

pub(super) fn silu(x: &Buffer) -> Result<Buffer> {
    Ok(pointwise::activate(x, product::Activation::Silu)?)
}

/// * `doubled`: see [`product::conv`]
/// * `added`: a row for each image, and a map
pub(super) fn conv(
    form: &Form,
    (x, from): (&Buffer, Size),
    window: Window,
    doubled: Option<(usize, usize)>,
    (image_rows, residual): (Option<&Buffer>, Option<&Buffer>),
) -> Result<(Buffer, Size)> {
    let extras = Extras { image_rows, activation: None, residual };
    Ok(product::conv(x, from, form.weights(), window, doubled, &extras)?)
}

pub(super) fn each(x: &Buffer, function: Function) -> Result<Buffer> {
    Ok(match function {
        Function::Relu => pointwise::activate(x, product::Activation::Relu)?,
        Function::SoftClamp => pointwise::soft_clamp(x)?,
        Function::Affine(scale, offset) => pointwise::affine(x, scale, offset)?,
    })
}

pub(super) fn group_norm(
    form: &Form,
    eps: f32,
    groups: usize,
    (x, of): (&Buffer, Size),
    silu: bool,
) -> Result<Buffer> {
    Ok(cuda::norm::group_norm(x, of, &form.factors(eps), groups, silu)?)
}

pub(super) fn layer_norm(form: &Form, eps: f32, x: &Buffer) -> Result<Buffer> {
    Ok(cuda::norm::layer_norm(x, &form.factors(eps))?)
}

pub(super) fn attention(
    q: &Buffer,
    k: &Buffer,
    v: &Buffer,
    heads: Heads,
    causal: bool,
) -> Result<Buffer> {
    Ok(cuda::attention::attention(q, k, v, heads, causal)?)
}

pub(super) fn concat(
    a: &Buffer,
    b: &Buffer,
    (a_channels, b_channels): (usize, usize),
) -> Result<Buffer> {
    Ok(pointwise::concat(a, a_channels, b, b_channels)?)
}
