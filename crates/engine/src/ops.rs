//! What the networks are written in: feature maps, tokens, layers, and the operations on them.
//!
//! This is the seam between the networks and the devices. A network sees [`Map`], [`Padded`],
//! [`Tokens`], [`Linear`], [`Conv`] and [`Norm`], all opaque, and calls nothing but the functions here;
//! how the numbers are stored and who computes is decided behind it. On the CPU that is the crate
//! `kernels`; a GPU becomes another kind of [`Buffer`].
//!
//! Everything is channels-last: a map is `(B, H, W, C)`, tokens are `(B, T, C)`, and one turns into
//! the other without moving a byte.
//!
//! # Precision
//!
//! Weights and activations are stored in the [`Precision`] of the generation; each operation sums in
//! f32 and rounds its result once. A processor multiplies bf16 as it is; f16 it widens first, so there
//! those numbers are kept in 32 bits, rounded to what f16 can hold.

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

use crate::{Error, Precision, Result};
pub(crate) use kernels::product::Activation;

/// Numbers as they are stored.
#[derive(Debug)]
enum Buffer {
    F32(Values<f32>),
    Bf16(Values<bf16>),
    /// In 32 bits, each one a number of f16.
    F16(Values<f32>),
}

/// Runs an expression for the numbers of a buffer, whatever they are stored as, and makes a buffer of
/// the same precision of its result.
macro_rules! map_buffer {
    ($buffer:expr, |$x:ident| $body:expr) => {
        Arc::new(match &*$buffer {
            Buffer::F32($x) => Buffer::F32($body),
            Buffer::Bf16($x) => Buffer::Bf16($body),
            Buffer::F16($x) => Buffer::in_f16($body),
        })
    };
}

impl Buffer {
    fn store(values: &[f32], precision: Precision) -> Buffer {
        match precision {
            Precision::F32 => Buffer::F32(values.into()),
            Precision::Bf16 => Buffer::Bf16(pointwise::narrow(values)),
            Precision::F16 => Buffer::in_f16(values.into()),
        }
    }

    fn in_f16(mut values: Values<f32>) -> Buffer {
        round_to_f16(&mut values);
        Buffer::F16(values)
    }

    fn len(&self) -> usize {
        match self {
            Buffer::F32(values) | Buffer::F16(values) => values.len(),
            Buffer::Bf16(values) => values.len(),
        }
    }

    /// The values in f32, borrowed where they are stored so.
    fn widen(&self) -> Cow<'_, [f32]> {
        match self {
            Buffer::F32(values) | Buffer::F16(values) => Cow::Borrowed(values),
            Buffer::Bf16(values) => Cow::Owned(pointwise::widen(values).to_vec()),
        }
    }
}

fn round_to_f16(values: &mut [f32]) {
    for value in values {
        *value = f16::from_f32(*value).to_f32();
    }
}

/// A number of a buffer: the way from a generic kernel to the buffers' variants.
trait Stored: Operand {
    fn of(buffer: &Buffer) -> &[Self];
    fn packed(form: &Form) -> &Packed<Self>;
    fn form(packed: Packed<Self>) -> Form;
}

const ONE_PRECISION: &str = "a network and what it works on are stored alike";

impl Stored for f32 {
    fn of(buffer: &Buffer) -> &[f32] {
        match buffer {
            Buffer::F32(values) | Buffer::F16(values) => values,
            Buffer::Bf16(_) => unreachable!("{ONE_PRECISION}"),
        }
    }

    fn packed(form: &Form) -> &Packed<f32> {
        match form {
            Form::F32(packed) => packed,
            _ => unreachable!("{ONE_PRECISION}"),
        }
    }

    fn form(packed: Packed<f32>) -> Form {
        Form::F32(packed)
    }
}

impl Stored for bf16 {
    fn of(buffer: &Buffer) -> &[bf16] {
        match buffer {
            Buffer::Bf16(values) => values,
            _ => unreachable!("{ONE_PRECISION}"),
        }
    }

    fn packed(form: &Form) -> &Packed<bf16> {
        match form {
            Form::Bf16(packed) => packed,
            _ => unreachable!("{ONE_PRECISION}"),
        }
    }

    fn form(packed: Packed<bf16>) -> Form {
        Form::Bf16(packed)
    }
}

/// A batch of feature maps, `(B, H, W, C)`.
#[derive(Debug, Clone)]
pub(crate) struct Map {
    size: Size,
    data: Arc<Buffer>,
}

/// A batch of feature maps with a border of zeros: what a convolution reads.
#[derive(Debug)]
pub(crate) enum Padded {
    F32(conv::Padded<f32>),
    Bf16(conv::Padded<bf16>),
    F16(conv::Padded<f32>),
}

/// A batch of token sequences, `(B, T, C)`.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    batch: usize,
    channels: usize,
    data: Arc<Buffer>,
}

impl Map {
    /// From values in `(B, C, H, W)` order, as latents and pictures come.
    pub(crate) fn from_planes(planes: &[f32], size: Size, precision: Precision) -> Map {
        let data = match precision {
            Precision::F32 => Buffer::F32(pointwise::from_planes(planes, size)),
            Precision::Bf16 => Buffer::Bf16(pointwise::from_planes(planes, size)),
            Precision::F16 => Buffer::in_f16(pointwise::from_planes(planes, size)),
        };
        Map { size, data: Arc::new(data) }
    }

    /// From values in `(B, H, W, C)` order.
    pub(crate) fn new(values: Vec<f32>, size: Size, precision: Precision) -> Map {
        assert_eq!(values.len(), size.len(), "a value for every place");
        Map { size, data: Arc::new(Buffer::store(&values, precision)) }
    }

    /// The values in `(B, C, H, W)` order.
    pub(crate) fn planes(&self) -> Vec<f32> {
        match &*self.data {
            Buffer::F32(values) | Buffer::F16(values) => pointwise::to_planes(values, self.size),
            Buffer::Bf16(values) => pointwise::to_planes(values, self.size),
        }
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
        Tokens { batch, channels, data: Arc::new(Buffer::store(&values, precision)) }
    }

    /// The same numbers as a feature map.
    pub(crate) fn into_map(self, height: usize, width: usize) -> Map {
        let size = Size { batch: self.batch, height, width, channels: self.channels };
        assert_eq!(self.data.len(), size.len(), "one token per pixel");
        Map { size, data: self.data }
    }

    /// Numbers of a token.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    /// How the numbers are stored.
    pub(crate) fn precision(&self) -> Precision {
        match &*self.data {
            Buffer::F32(_) => Precision::F32,
            Buffer::Bf16(_) => Precision::Bf16,
            Buffer::F16(_) => Precision::F16,
        }
    }

    /// The values in `(B, T, C)` order.
    pub(crate) fn values(&self) -> Cow<'_, [f32]> {
        self.data.widen()
    }
}

/// Weights of a linear layer or convolution, or factors of a normalization, as the kernels take
/// them. Cheap to clone: layers share it.
#[derive(Debug, Clone)]
pub(crate) struct Weights(Arc<Stock>);

#[derive(Debug)]
struct Stock {
    form: Form,
    /// The 3 × 3 kernel of a [`Role::Doubling`], made when a map of odd size first needs it.
    undoubled: OnceLock<Form>,
    outputs: usize,
    inputs: usize,
    kernel: usize,
}

/// What weights are for, which decides how they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A linear layer or convolution.
    Layer,
    /// A convolution behind a doubling of its input.
    Doubling,
    /// A table whose rows are looked up.
    Table,
}

/// TAESD's layers behind a doubling, which have nothing but their numbers.
const TINY_UPSAMPLERS: [&str; 3] =
    ["vae.decoder.layers.6", "vae.decoder.layers.11", "vae.decoder.layers.16"];

impl Role {
    /// The role of a module, by its canonical name.
    pub(crate) fn of(module: &str) -> Role {
        if module.ends_with("_embedding") {
            Role::Table
        } else if module.contains(".upsamplers.") || TINY_UPSAMPLERS.contains(&module) {
            Role::Doubling
        } else {
            Role::Layer
        }
    }
}

#[derive(Debug)]
enum Form {
    F32(Packed<f32>),
    Bf16(Packed<bf16>),
    /// Factors and offsets of a normalization. They are few, and rounding them would cost accuracy for
    /// nothing.
    Norm(Vec<f32>, Vec<f32>),
    Table(Buffer),
}

/// Weights of two or four dimensions: of a layer, or a table.
///
/// * `round`: to what the precision can hold, where that is less than what is stored
fn form<T: Stored>(
    (outputs, inputs, kernel): (usize, usize, usize),
    bias: Option<&[f32]>,
    role: Role,
    factors: &[Factors<'_>],
    rows: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    round: fn(&mut [f32]),
    table: fn(Values<T>) -> Buffer,
) -> Result<Form> {
    let low_rank = (!factors.is_empty()).then(|| LowRank::<T>::new(factors));
    let rows = |first: usize, to: &mut [f32]| {
        rows(first, to)?;
        low_rank.iter().for_each(|change| change.add_to(first, to));
        round(to);
        Ok::<_, Error>(())
    };
    if role == Role::Table {
        const ROWS: usize = 64;
        let mut values = Values::zeros(outputs * inputs);
        values.par_chunks_mut(ROWS * inputs).enumerate().try_for_each(
            |(part, values)| -> Result<()> {
                let mut wide = vec![0.0; values.len()];
                rows(part * ROWS, &mut wide)?;
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
    Ok(T::form(Packed::from_rows(outputs, inputs, kernel * kernel, bias, sampling, rows)?))
}

impl Weights {
    /// Makes the weights of a module.
    ///
    /// * `shape`: `(outputs)`, `(outputs, inputs)` or `(outputs, inputs, kernel, kernel)`
    /// * `bias`: `(outputs)`
    /// * `factors`: what is added to `rows`, multiplied in the precision
    /// * `rows`: writes the weights of some outputs, from the given one on, in the file's order
    ///
    /// # Errors
    /// The first of `rows`.
    pub(crate) fn new(
        shape: &[usize],
        bias: Option<&[f32]>,
        (role, precision): (Role, Precision),
        factors: &[Factors<'_>],
        rows: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Weights> {
        let (outputs, inputs, kernel) = match *shape {
            [outputs] => (outputs, 1, 1),
            [outputs, inputs] => (outputs, inputs, 1),
            [outputs, inputs, kernel, _] => (outputs, inputs, kernel),
            _ => unreachable!("the checkpoint admits weights of 1, 2 or 4 dimensions only"),
        };
        let form = if shape.len() == 1 {
            let mut weight = vec![0.0; outputs];
            rows(0, &mut weight)?;
            Form::Norm(weight, bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec))
        } else {
            let size = (outputs, inputs, kernel);
            match precision {
                Precision::F32 => form(size, bias, role, factors, rows, |_| {}, Buffer::F32),
                Precision::Bf16 => form(size, bias, role, factors, rows, |_| {}, Buffer::Bf16),
                Precision::F16 => form(size, bias, role, factors, rows, round_to_f16, Buffer::F16),
            }?
        };
        Ok(Weights(Arc::new(Stock { form, undoubled: OnceLock::new(), outputs, inputs, kernel })))
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

    /// How many bytes they take, without what is kept between steps.
    pub(crate) fn bytes(&self) -> u64 {
        let size = match &self.0.form {
            Form::Bf16(_) | Form::Table(Buffer::Bf16(_)) => size_of::<bf16>(),
            _ => size_of::<f32>(),
        };
        let Stock { outputs, inputs, kernel, .. } = *self.0;
        (outputs * inputs * kernel * kernel * size) as u64
    }

    /// Gives up what the kernels made of the weights for the maps so far: when none is to come soon.
    pub(crate) fn rest(&self) {
        match &self.0.form {
            Form::F32(packed) => packed.rest(),
            Form::Bf16(packed) => packed.rest(),
            Form::Norm(..) | Form::Table(_) => {}
        }
    }

    /// Whether two are the very same weights in memory, not merely equal ones.
    #[cfg(test)]
    pub(crate) fn is(&self, other: &Weights) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Every number, to the last bit.
    #[cfg(test)]
    pub(crate) fn bits(&self) -> Vec<u32> {
        let bits = |values: &mut dyn Iterator<Item = f32>| values.map(f32::to_bits).collect();
        match &self.0.form {
            Form::F32(packed) => bits(&mut packed.values()),
            Form::Bf16(packed) => bits(&mut packed.values()),
            Form::Norm(factors, offsets) => bits(&mut factors.iter().chain(offsets).copied()),
            Form::Table(values) => bits(&mut values.widen().iter().copied()),
        }
    }

    /// Row `index` of a table, as an embedding is.
    pub(crate) fn row(&self, index: usize) -> Vec<f32> {
        let range = index * self.0.inputs..(index + 1) * self.0.inputs;
        match &self.0.form {
            Form::Table(Buffer::F32(values) | Buffer::F16(values)) => values[range].to_vec(),
            Form::Table(Buffer::Bf16(values)) => {
                values[range].iter().map(|value| Number::to_f32(*value)).collect()
            }
            _ => unreachable!("tables are known by their names"),
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
    fn factors(&self) -> (&[f32], &[f32]) {
        match &self.weights.0.form {
            Form::Norm(factors, offsets) => (factors, offsets),
            _ => unreachable!("the checkpoint gives a normalization one factor per channel"),
        }
    }
}

fn product<T: Stored>(
    layer: &Weights,
    x: &[T],
    activation: Option<Activation>,
    residual: Option<&Buffer>,
) -> Values<T> {
    let extras = Extras { activation, residual: residual.map(T::of), ..Extras::none() };
    product::linear(x, T::packed(&layer.0.form), &extras)
}

fn linear_with(
    layer: &Linear,
    x: &Tokens,
    activation: Option<Activation>,
    residual: Option<&Tokens>,
) -> Tokens {
    let residual = residual.map(|residual| &*residual.data);
    let gated = activation == Some(Activation::Geglu);
    let channels = if gated { layer.0.outputs() / 2 } else { layer.0.outputs() };
    let data = map_buffer!(x.data, |x| product(&layer.0, x, activation, residual));
    Tokens { batch: x.batch, channels, data }
}

/// `x · wᵀ + bias`, token by token.
pub(crate) fn linear(layer: &Linear, x: &Tokens) -> Tokens {
    linear_with(layer, x, None, None)
}

/// A linear layer, then an activation. [`Activation::Geglu`] leaves half as many channels.
pub(crate) fn linear_then(layer: &Linear, activation: Activation, x: &Tokens) -> Tokens {
    if activation == Activation::Geglu && !layer.0.outputs().is_multiple_of(32) {
        // The kernels gate whole panels only; networks so narrow are no burden.
        let (h, n) = (linear(layer, x), layer.0.outputs() / 2);
        let data = map_buffer!(h.data, |h| pointwise::geglu(h, n));
        return Tokens { channels: n, data, ..h };
    }
    linear_with(layer, x, Some(activation), None)
}

/// `x · sigmoid(x)`, for the few numbers of an embedding.
pub(crate) fn silu(x: &Tokens) -> Tokens {
    let values = x.values().iter().map(|x| x / (1.0 + libm::expf(-x))).collect();
    Tokens::new(values, x.batch, x.channels, x.precision())
}

/// A linear layer, plus `residual`.
pub(crate) fn linear_plus(layer: &Linear, x: &Tokens, residual: &Tokens) -> Tokens {
    linear_with(layer, x, None, Some(residual))
}

/// A linear layer on each pixel.
pub(crate) fn linear_map(layer: &Linear, x: &Map) -> Map {
    let size = Size { channels: layer.0.outputs(), ..x.size };
    Map { size, data: map_buffer!(x.data, |x| product(&layer.0, x, None, None)) }
}

/// A convolution.
pub(crate) fn conv(layer: &Conv, x: &Padded) -> Map {
    conv_plus(layer, x, None, None)
}

/// A convolution, plus one token for all pixels of its image, plus another map.
pub(crate) fn conv_plus(
    layer: &Conv,
    x: &Padded,
    token: Option<&Tokens>,
    residual: Option<&Map>,
) -> Map {
    fn run<T: Stored>(
        layer: &Conv,
        x: &conv::Padded<T>,
        token: Option<&Tokens>,
        residual: Option<&Map>,
    ) -> (Values<T>, Size) {
        let extras = Extras {
            image_rows: token.map(|token| T::of(&token.data)),
            residual: residual.map(|map| T::of(&map.data)),
            ..Extras::none()
        };
        product::conv(x, T::packed(&layer.weights.0.form), layer.window, &extras)
    }
    match x {
        Padded::F32(x) => {
            let (out, size) = run(layer, x, token, residual);
            Map { size, data: Arc::new(Buffer::F32(out)) }
        }
        Padded::Bf16(x) => {
            let (out, size) = run(layer, x, token, residual);
            Map { size, data: Arc::new(Buffer::Bf16(out)) }
        }
        Padded::F16(x) => {
            let (out, size) = run(layer, x, token, residual);
            Map { size, data: Arc::new(Buffer::in_f16(out)) }
        }
    }
}

/// A convolution of a map whose pixels are repeated to twice its height and width, or up to one row
/// and column less.
pub(crate) fn conv_doubled(layer: &Conv, x: &Map, height: usize, width: usize) -> Map {
    fn run<T: Stored>(layer: &Conv, x: &[T], from: Size, to: Size) -> Values<T> {
        let packed = T::packed(&layer.weights.0.form);
        if (to.height, to.width) == (2 * from.height, 2 * from.width) {
            let x = conv::Padded::new(x, from);
            return product::conv(&x, packed, layer.window, &Extras::none()).0;
        }
        // An edge that is cut off lies within a pixel's repetitions, so the image itself is doubled.
        let x = pointwise::doubled(x, from, to.height, to.width);
        let whole = layer.weights.0.undoubled.get_or_init(|| T::form(packed.undoubled()));
        product::conv(&x, T::packed(whole), layer.window, &Extras::none()).0
    }
    let to = Size { height, width, ..x.size };
    let data = map_buffer!(x.data, |values| run(layer, values, x.size, to));
    Map { size: Size { channels: layer.weights.outputs(), ..to }, data }
}

/// A function of each number.
pub(crate) fn each(x: &Map, f: impl Fn(f32) -> f32 + Sync) -> Map {
    fn run<T: Stored>(x: &[T], f: impl Fn(f32) -> f32 + Sync) -> Values<T> {
        const PART: usize = 1 << 14;
        let mut out = Values::zeros(x.len());
        out.par_chunks_mut(PART).zip(x.par_chunks(PART)).for_each(|(out, x)| {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = T::from_f32(f(x.to_f32())));
        });
        out
    }
    Map { size: x.size, data: map_buffer!(x.data, |x| run(x, &f)) }
}

/// A map with a border.
pub(crate) fn padded(x: &Map) -> Padded {
    match &*x.data {
        Buffer::F32(values) => Padded::F32(conv::Padded::new(values, x.size)),
        Buffer::Bf16(values) => Padded::Bf16(conv::Padded::new(values, x.size)),
        Buffer::F16(values) => Padded::F16(conv::Padded::new(values, x.size)),
    }
}

/// Group normalization over `groups` groups of channels.
pub(crate) fn group_norm(norm: &Norm, groups: usize, x: &Map) -> Map {
    let (gamma, beta) = norm.factors();
    let data = map_buffer!(x.data, |v| norm::group_norm(v, x.size, gamma, beta, groups, norm.eps));
    Map { size: x.size, data }
}

/// Group normalization, then SiLU, for a convolution.
pub(crate) fn group_norm_silu(norm: &Norm, groups: usize, x: &Map) -> Padded {
    fn run<T: Number>(norm: &Norm, groups: usize, x: &[T], size: Size) -> conv::Padded<T> {
        let (gamma, beta) = norm.factors();
        norm::group_norm_padded(x, size, gamma, beta, groups, norm.eps, true)
    }
    match &*x.data {
        Buffer::F32(values) => Padded::F32(run(norm, groups, values, x.size)),
        Buffer::Bf16(values) => Padded::Bf16(run(norm, groups, values, x.size)),
        Buffer::F16(values) => Padded::F16(run(norm, groups, values, x.size)),
    }
}

/// Layer normalization of each token.
pub(crate) fn layer_norm(norm: &Norm, x: &Tokens) -> Tokens {
    let (gamma, beta) = norm.factors();
    let data = map_buffer!(x.data, |v| norm::layer_norm(v, gamma, beta, norm.eps));
    Tokens { data, ..*x }
}

/// Attention of `q` `(B, T, C)` over `k` and `v` `(B, S, C)` with the heads side by side in `C`.
pub(crate) fn attention(q: &Tokens, k: &Tokens, v: &Tokens, heads: usize, causal: bool) -> Tokens {
    fn run<T: Stored>(q: &[T], k: &Tokens, v: &Tokens, heads: Heads, causal: bool) -> Values<T> {
        attention_kernel(q, T::of(&k.data), T::of(&v.data), heads, causal)
    }
    let sizes = Heads { batch: q.batch, heads, width: q.channels };
    Tokens { data: map_buffer!(q.data, |x| run(x, k, v, sizes, causal)), ..*q }
}

/// The channels of `b` behind those of `a`.
pub(crate) fn concat(a: &Map, b: &Map) -> Map {
    fn run<T: Stored>(a: &[T], a_channels: usize, b: &Map) -> Values<T> {
        pointwise::concat(a, a_channels, T::of(&b.data), b.size.channels)
    }
    let channels = a.size.channels + b.size.channels;
    let data = map_buffer!(a.data, |x| run(x, a.size.channels, b));
    Map { size: Size { channels, ..a.size }, data }
}
