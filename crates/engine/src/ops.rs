//! What the networks are written in: feature maps, tokens, layers, and the operations on them.
//!
//! This is the seam between the networks and the devices. A network sees [`Map`], [`Tokens`],
//! [`Linear`], [`Conv`] and [`Norm`], all opaque, and calls nothing but the functions here; how the
//! numbers are stored and who computes is decided behind it. On the CPU that is the crate `kernels`;
//! a GPU becomes a second kind of [`Buffer`].
//!
//! Everything is channels-last: a map is `(B, H, W, C)`, tokens are `(B, T, C)`, and one turns into
//! the other without moving a byte.
//!
//! # Precision
//!
//! Weights and activations are stored in the [`Precision`] of the generation; each operation widens
//! them to f32, computes, and rounds its result once.

use std::{borrow::Cow, sync::Arc};

use half::{bf16, f16};
use kernels::{
    Element,
    attention::attention as attention_kernel,
    conv::{Size, Window, conv2d},
    math, matmul, norm, pointwise,
};
use rayon::prelude::*;

use crate::Precision;

/// Numbers as they are stored.
#[derive(Debug, Clone)]
enum Buffer {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Buffer {
    fn store(values: Vec<f32>, precision: Precision) -> Buffer {
        match precision {
            Precision::F32 => Buffer::F32(values),
            Precision::Bf16 => Buffer::Bf16(
                values.into_par_iter().with_min_len(1 << 14).map(bf16::from_f32).collect(),
            ),
            Precision::F16 => Buffer::F16(
                values.into_par_iter().with_min_len(1 << 14).map(f16::from_f32).collect(),
            ),
        }
    }

    fn precision(&self) -> Precision {
        match self {
            Buffer::F32(_) => Precision::F32,
            Buffer::Bf16(_) => Precision::Bf16,
            Buffer::F16(_) => Precision::F16,
        }
    }

    fn len(&self) -> usize {
        match self {
            Buffer::F32(values) => values.len(),
            Buffer::Bf16(values) => values.len(),
            Buffer::F16(values) => values.len(),
        }
    }

    /// The values in f32, borrowed where they are stored so.
    fn widen(&self) -> Cow<'_, [f32]> {
        match self {
            Buffer::F32(values) => Cow::Borrowed(values),
            Buffer::Bf16(values) => values
                .par_iter()
                .with_min_len(1 << 14)
                .map(|x| x.to_f32())
                .collect::<Vec<_>>()
                .into(),
            Buffer::F16(values) => values
                .par_iter()
                .with_min_len(1 << 14)
                .map(|x| x.to_f32())
                .collect::<Vec<_>>()
                .into(),
        }
    }

    fn into_widened(self) -> Vec<f32> {
        match self {
            Buffer::F32(values) => values,
            other => other.widen().into_owned(),
        }
    }
}

/// A batch of feature maps, `(B, H, W, C)`.
#[derive(Debug, Clone)]
pub(crate) struct Map {
    size: Size,
    data: Buffer,
}

/// A batch of token sequences, `(B, T, C)`.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    batch: usize,
    channels: usize,
    data: Buffer,
}

impl Map {
    /// From values in `(B, H, W, C)` order.
    pub(crate) fn new(values: Vec<f32>, size: Size, precision: Precision) -> Map {
        assert_eq!(values.len(), size.len(), "a value for every place");
        Map { size, data: Buffer::store(values, precision) }
    }

    /// From values in `(B, C, H, W)` order, as latents and pictures come.
    pub(crate) fn from_planes(planes: &[f32], size: Size, precision: Precision) -> Map {
        let (pixels, channels) = (size.height * size.width, size.channels);
        let mut values = vec![0.0; size.len()];
        for (values, planes) in
            values.chunks_exact_mut(pixels * channels).zip(planes.chunks_exact(pixels * channels))
        {
            for (pixel, values) in values.chunks_exact_mut(channels).enumerate() {
                for (channel, value) in values.iter_mut().enumerate() {
                    *value = planes[channel * pixels + pixel];
                }
            }
        }
        Map::new(values, size, precision)
    }

    /// The values in `(B, C, H, W)` order.
    pub(crate) fn planes(&self) -> Vec<f32> {
        let (pixels, channels) = (self.size.height * self.size.width, self.size.channels);
        let values = self.data.widen();
        let mut planes = vec![0.0; values.len()];
        for (planes, values) in
            planes.chunks_exact_mut(pixels * channels).zip(values.chunks_exact(pixels * channels))
        {
            for (pixel, values) in values.chunks_exact(channels).enumerate() {
                for (channel, value) in values.iter().enumerate() {
                    planes[channel * pixels + pixel] = *value;
                }
            }
        }
        planes
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// The same numbers as tokens, one per pixel.
    pub(crate) fn into_tokens(self) -> Tokens {
        Tokens { batch: self.size.batch, channels: self.size.channels, data: self.data }
    }
}

impl Tokens {
    /// From values in `(B, T, C)` order.
    pub(crate) fn new(
        values: Vec<f32>,
        batch: usize,
        channels: usize,
        precision: Precision,
    ) -> Tokens {
        assert_eq!(values.len() % (batch * channels), 0, "whole rows");
        Tokens { batch, channels, data: Buffer::store(values, precision) }
    }

    /// The same numbers as a feature map.
    pub(crate) fn into_map(self, height: usize, width: usize) -> Map {
        let size = Size { batch: self.batch, height, width, channels: self.channels };
        assert_eq!(self.data.len(), size.len(), "one token per pixel");
        Map { size, data: self.data }
    }

    /// The values in `(B, T, C)` order.
    pub(crate) fn values(&self) -> Cow<'_, [f32]> {
        self.data.widen()
    }
}

/// Weights of a linear layer or convolution, or factors of a normalization, as the kernels take
/// them. Cheap to clone: layers share it.
#[derive(Debug, Clone)]
pub(crate) struct Weights(Arc<Stored>);

#[derive(Debug)]
struct Stored {
    /// `(outputs, kernel · kernel · inputs)`; for a normalization or a table as in the file.
    weight: Buffer,
    bias: Option<Vec<f32>>,
    outputs: usize,
    inputs: usize,
    kernel: usize,
}

impl Weights {
    /// From a weight in the file's order: `(outputs)`, `(outputs, inputs)` or
    /// `(outputs, inputs, kernel, kernel)`, and its bias.
    pub(crate) fn new(
        weight: Vec<f32>,
        shape: &[usize],
        bias: Option<Vec<f32>>,
        precision: Precision,
    ) -> Weights {
        let (outputs, inputs, kernel) = match *shape {
            [outputs] => (outputs, 1, 1),
            [outputs, inputs] => (outputs, inputs, 1),
            [outputs, inputs, kernel, _] => (outputs, inputs, kernel),
            _ => unreachable!("the checkpoint admits weights of 1, 2 or 4 dimensions only"),
        };
        let taps = kernel * kernel;
        let weight = if taps == 1 {
            weight
        } else {
            // (outputs, inputs, taps) -> (outputs, taps, inputs)
            let mut last = vec![0.0; weight.len()];
            last.par_chunks_mut(taps * inputs).zip(weight.par_chunks(taps * inputs)).for_each(
                |(to, from)| {
                    for tap in 0..taps {
                        for input in 0..inputs {
                            to[tap * inputs + input] = from[input * taps + tap];
                        }
                    }
                },
            );
            last
        };
        // Factors of a normalization are few, and rounding them would cost accuracy for nothing.
        let precision = if shape.len() == 1 { Precision::F32 } else { precision };
        Weights(Arc::new(Stored {
            weight: Buffer::store(weight, precision),
            bias,
            outputs,
            inputs,
            kernel,
        }))
    }

    pub(crate) fn outputs(&self) -> usize {
        self.0.outputs
    }

    pub(crate) fn inputs(&self) -> usize {
        self.0.inputs
    }

    pub(crate) fn kernel(&self) -> usize {
        self.0.kernel
    }

    /// Whether two are the very same weights in memory, not merely equal ones.
    #[cfg(test)]
    pub(crate) fn is(&self, other: &Weights) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Every number, to the last bit.
    #[cfg(test)]
    pub(crate) fn bits(&self) -> Vec<u32> {
        let weight = self.0.weight.widen();
        weight.iter().chain(self.0.bias.iter().flatten()).map(|value| value.to_bits()).collect()
    }

    /// Row `index` of a table, as an embedding is.
    pub(crate) fn row(&self, index: usize) -> Vec<f32> {
        let range = index * self.0.inputs..(index + 1) * self.0.inputs;
        match &self.0.weight {
            Buffer::F32(values) => values[range].to_vec(),
            Buffer::Bf16(values) => bf16::widen(&values[range]).into_owned(),
            Buffer::F16(values) => f16::widen(&values[range]).into_owned(),
        }
    }
}

/// A linear layer. A 1 × 1 convolution is one too.
#[derive(Debug, Clone)]
pub(crate) struct Linear(pub(crate) Weights);

/// A convolution.
#[derive(Debug, Clone)]
pub(crate) struct Conv {
    pub(crate) weights: Weights,
    pub(crate) window: Window,
}

/// A group or layer normalization.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub(crate) weights: Weights,
    pub(crate) eps: f32,
}

impl Norm {
    fn factors(&self) -> (Cow<'_, [f32]>, &[f32]) {
        let bias = self.weights.0.bias.as_deref();
        (self.weights.0.weight.widen(), bias.expect("the checkpoint gives every norm its bias"))
    }
}

fn linear_f32(layer: &Weights, x: &[f32]) -> Vec<f32> {
    let (bias, inputs) = (layer.0.bias.as_deref(), layer.0.inputs);
    match &layer.0.weight {
        Buffer::F32(w) => matmul::linear(x, w, bias, inputs),
        Buffer::Bf16(w) => matmul::linear(x, w, bias, inputs),
        Buffer::F16(w) => matmul::linear(x, w, bias, inputs),
    }
}

/// `x · wᵀ + bias`, token by token.
pub(crate) fn linear(layer: &Linear, x: &Tokens) -> Tokens {
    let out = linear_f32(&layer.0, &x.data.widen());
    Tokens::new(out, x.batch, layer.0.0.outputs, x.data.precision())
}

/// A linear layer on each pixel.
pub(crate) fn linear_map(layer: &Linear, x: &Map) -> Map {
    let out = linear_f32(&layer.0, &x.data.widen());
    let size = Size { channels: layer.0.0.outputs, ..x.size };
    Map::new(out, size, x.data.precision())
}

/// A convolution.
pub(crate) fn conv(layer: &Conv, x: &Map) -> Map {
    let (values, bias) = (x.data.widen(), layer.weights.0.bias.as_deref());
    let (out, size) = match &layer.weights.0.weight {
        Buffer::F32(w) => conv2d(&values, x.size, w, bias, layer.window),
        Buffer::Bf16(w) => conv2d(&values, x.size, w, bias, layer.window),
        Buffer::F16(w) => conv2d(&values, x.size, w, bias, layer.window),
    };
    Map::new(out, size, x.data.precision())
}

/// Group normalization over `groups` groups of channels.
pub(crate) fn group_norm(norm: &Norm, groups: usize, x: &Map) -> Map {
    group_norm_then(norm, groups, x, false)
}

/// Group normalization, then SiLU.
pub(crate) fn group_norm_silu(norm: &Norm, groups: usize, x: &Map) -> Map {
    group_norm_then(norm, groups, x, true)
}

fn group_norm_then(norm: &Norm, groups: usize, x: &Map, activate: bool) -> Map {
    let (gamma, beta) = norm.factors();
    let out = norm::group_norm(&x.data.widen(), x.size, &gamma, beta, groups, norm.eps, activate);
    Map::new(out, x.size, x.data.precision())
}

/// Layer normalization of each token.
pub(crate) fn layer_norm(norm: &Norm, x: &Tokens) -> Tokens {
    let (gamma, beta) = norm.factors();
    let out = norm::layer_norm(&x.data.widen(), &gamma, beta, norm.eps);
    Tokens::new(out, x.batch, x.channels, x.data.precision())
}

/// Attention of `q` `(B, T, C)` over `k` and `v` `(B, S, C)` with the heads side by side in `C`.
pub(crate) fn attention(q: &Tokens, k: &Tokens, v: &Tokens, heads: usize, causal: bool) -> Tokens {
    let out = attention_kernel(
        &q.data.widen(),
        &k.data.widen(),
        &v.data.widen(),
        q.batch,
        heads,
        q.channels,
        causal,
    );
    Tokens::new(out, q.batch, q.channels, q.data.precision())
}

/// `value · gelu(gate)` where each token holds its values before its gates.
pub(crate) fn geglu(x: &Tokens) -> Tokens {
    let n = x.channels / 2;
    Tokens::new(pointwise::geglu(&x.data.widen(), n), x.batch, n, x.data.precision())
}

/// The activations that text encoders and time embeddings use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Silu,
    Gelu,
    QuickGelu,
}

/// An activation of every number.
pub(crate) fn activate(x: Tokens, activation: Activation) -> Tokens {
    let f = match activation {
        Activation::Silu => math::silu,
        Activation::Gelu => math::gelu,
        Activation::QuickGelu => math::quick_gelu,
    };
    let (batch, channels, precision) = (x.batch, x.channels, x.data.precision());
    let mut values = x.data.into_widened();
    pointwise::apply(&mut values, f);
    Tokens::new(values, batch, channels, precision)
}

fn add_buffers(x: Buffer, y: &Buffer) -> Buffer {
    let precision = x.precision();
    let mut values = x.into_widened();
    pointwise::add(&mut values, &y.widen());
    Buffer::store(values, precision)
}

/// `x + y`.
pub(crate) fn add(x: Map, y: &Map) -> Map {
    assert_eq!(x.size, y.size, "maps of the same size");
    Map { size: x.size, data: add_buffers(x.data, &y.data) }
}

/// `x + y`.
pub(crate) fn add_tokens(x: Tokens, y: &Tokens) -> Tokens {
    assert_eq!((x.batch, x.channels), (y.batch, y.channels), "tokens of the same size");
    Tokens { batch: x.batch, channels: x.channels, data: add_buffers(x.data, &y.data) }
}

/// Adds to every pixel of a map the one token that belongs to its image.
pub(crate) fn add_to_pixels(x: Map, rows: &Tokens) -> Map {
    let precision = x.data.precision();
    let mut values = x.data.into_widened();
    pointwise::add_rows(&mut values, x.size, &rows.data.widen());
    Map::new(values, x.size, precision)
}

/// The channels of `b` behind those of `a`.
pub(crate) fn concat(a: &Map, b: &Map) -> Map {
    let (channels, precision) = (a.size.channels + b.size.channels, a.data.precision());
    let out = pointwise::concat(&a.data.widen(), a.size.channels, &b.data.widen(), b.size.channels);
    Map::new(out, Size { channels, ..a.size }, precision)
}

/// Twice the height and width, by repeating pixels.
pub(crate) fn double(x: &Map) -> Map {
    let size = Size { height: 2 * x.size.height, width: 2 * x.size.width, ..x.size };
    Map::new(pointwise::double(&x.data.widen(), x.size), size, x.data.precision())
}

/// The first `height` rows and `width` columns of each image.
pub(crate) fn crop(x: &Map, height: usize, width: usize) -> Map {
    let size = Size { height, width, ..x.size };
    let values = x.data.widen();
    let mut out = Vec::with_capacity(size.len());
    for image in values.chunks_exact(x.size.height * x.size.width * x.size.channels) {
        for row in image.chunks_exact(x.size.width * x.size.channels).take(height) {
            out.extend_from_slice(&row[..width * x.size.channels]);
        }
    }
    Map::new(out, size, x.data.precision())
}
