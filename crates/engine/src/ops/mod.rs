//! What the networks are written in: feature maps, tokens, layers, and the operations on them.
//!
//! This is the seam between the networks and the devices. A network sees [`Map`], [`Padded`],
//! [`Tokens`], [`Linear`], [`Conv`] and [`Norm`], all opaque, and calls nothing but the functions here;
//! how the numbers are stored and who computes is decided behind it: [`host`] calls the crate `kernels`,
//! [`card`] the crate `cuda`.
//!
//! Everything is channels-last: a map is `(B, H, W, C)`, tokens are `(B, T, C)`, and one turns into
//! the other without moving a byte.
//!
//! # Precision
//!
//! Weights and activations are stored in the [`Precision`] of the generation; each operation sums in
//! f32 and rounds its result once.
//!
//! # Errors
//!
//! On the processor no operation fails. A card may have no memory left, or its driver may give up: every
//! operation says so.

mod card;
mod host;

use std::{borrow::Cow, sync::Arc};

use kernels::{
    attention::Heads,
    conv::{Size, Window},
    product::Factors,
};

pub(crate) use kernels::product::Activation;

use crate::{Precision, Result, device};

/// What computes.
#[derive(Debug, Clone)]
pub(crate) enum Device {
    /// The processor.
    Host,
    /// A card.
    Card(cuda::Card),
}

impl Device {
    /// All of its memory in bytes, where that is known.
    pub(crate) fn memory(&self) -> Option<u64> {
        match self {
            Device::Host => device::memory(),
            Device::Card(card) => card.memory().ok().map(|(_, all)| all),
        }
    }

    /// Bytes that can still be taken, where that is known.
    pub(crate) fn available_memory(&self) -> Option<u64> {
        match self {
            Device::Host => device::available_memory(),
            Device::Card(card) => card.memory().ok().map(|(free, _)| free),
        }
    }

    /// The most bytes of a card's memory that were in use at once.
    pub(crate) fn peak_card_bytes(&self) -> Option<u64> {
        match self {
            Device::Host => None,
            Device::Card(card) => Some(card.peak_bytes()),
        }
    }

    /// Gives back the memory that is kept for intermediate results.
    pub(crate) fn give_back(&self) {
        match self {
            Device::Host => kernels::memory::give_back(),
            Device::Card(card) => card.give_back(),
        }
    }
}

/// Where numbers are, and how they are stored.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub(crate) device: Device,
    pub(crate) precision: Precision,
}

impl Storage {
    /// Bytes of a number of a layer's weights.
    pub(crate) fn number_bytes(&self) -> u64 {
        match (&self.device, self.precision) {
            (_, Precision::Bf16) | (Device::Card(_), Precision::F16) => 2,
            _ => 4,
        }
    }
}

/// Numbers as they are stored.
#[derive(Debug)]
enum Buffer {
    Host(host::Numbers),
    Card(cuda::Buffer),
}

impl Buffer {
    fn new(values: &[f32], storage: &Storage) -> Result<Arc<Buffer>> {
        Ok(Arc::new(match &storage.device {
            Device::Host => Buffer::Host(host::Numbers::new(values, storage.precision)),
            Device::Card(card) => {
                let format = card::format(storage.precision);
                Buffer::Card(cuda::Buffer::upload(card, values, format)?)
            }
        }))
    }

    fn len(&self) -> usize {
        match self {
            Buffer::Host(numbers) => numbers.len(),
            Buffer::Card(numbers) => numbers.len(),
        }
    }

    /// The values in f32, borrowed where they are stored so.
    fn values(&self) -> Result<Cow<'_, [f32]>> {
        Ok(match self {
            Buffer::Host(numbers) => numbers.widen(),
            Buffer::Card(numbers) => Cow::Owned(numbers.download()?),
        })
    }

    fn storage(&self) -> Storage {
        match self {
            Buffer::Host(numbers) => {
                Storage { device: Device::Host, precision: numbers.precision() }
            }
            Buffer::Card(numbers) => Storage {
                device: Device::Card(numbers.card().clone()),
                precision: card::precision(numbers.format()),
            },
        }
    }

    fn host(&self) -> &host::Numbers {
        match self {
            Buffer::Host(numbers) => numbers,
            Buffer::Card(_) => unreachable!("{ONE_PLACE}"),
        }
    }

    fn card(&self) -> &cuda::Buffer {
        match self {
            Buffer::Card(numbers) => numbers,
            Buffer::Host(_) => unreachable!("{ONE_PLACE}"),
        }
    }
}

const ONE_PLACE: &str = "a network and what it works on are in one place";

/// Gives an operation to what its first operand is on.
macro_rules! on_device {
    ($buffer:expr, |$host:ident| $on_host:expr, |$card:ident| $on_card:expr) => {
        Arc::new(match &*$buffer {
            Buffer::Host($host) => Buffer::Host($on_host),
            Buffer::Card($card) => Buffer::Card($on_card?),
        })
    };
}

/// A batch of feature maps, `(B, H, W, C)`.
#[derive(Debug, Clone)]
pub(crate) struct Map {
    size: Size,
    data: Arc<Buffer>,
}

/// A batch of feature maps with zeros around them: what a convolution reads.
#[derive(Debug)]
pub(crate) enum Padded {
    /// With a border.
    Host(host::Padded),
    /// The kernels of a card know where an image ends.
    Card(Map),
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
    pub(crate) fn from_planes(planes: &[f32], size: Size, storage: &Storage) -> Result<Map> {
        assert_eq!(planes.len(), size.len(), "a value for every place");
        let data = match &storage.device {
            Device::Host => {
                Buffer::Host(host::Numbers::from_planes(planes, size, storage.precision))
            }
            Device::Card(card) => {
                let planes = cuda::Buffer::upload(card, planes, cuda::Format::F32)?;
                let format = card::format(storage.precision);
                Buffer::Card(cuda::pointwise::from_planes(&planes, size, format)?)
            }
        };
        Ok(Map { size, data: Arc::new(data) })
    }

    /// From values in `(B, H, W, C)` order.
    pub(crate) fn new(values: &[f32], size: Size, storage: &Storage) -> Result<Map> {
        assert_eq!(values.len(), size.len(), "a value for every place");
        Ok(Map { size, data: Buffer::new(values, storage)? })
    }

    /// The values in `(B, C, H, W)` order.
    pub(crate) fn planes(&self) -> Result<Vec<f32>> {
        Ok(match &*self.data {
            Buffer::Host(numbers) => numbers.planes(self.size),
            Buffer::Card(numbers) => cuda::pointwise::to_planes(numbers, self.size)?.download()?,
        })
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
        values: &[f32],
        batch: usize,
        channels: usize,
        storage: &Storage,
    ) -> Result<Tokens> {
        assert_eq!(values.len() % (batch * channels), 0, "whole rows");
        Ok(Tokens { batch, channels, data: Buffer::new(values, storage)? })
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

    pub(crate) fn storage(&self) -> Storage {
        self.data.storage()
    }

    /// The values in `(B, T, C)` order.
    pub(crate) fn values(&self) -> Result<Cow<'_, [f32]>> {
        self.data.values()
    }
}

/// Work on a map and tokens that a card repeats on other numbers, all of it at once: that costs the processor
/// nothing for each operation.
#[derive(Debug)]
pub(crate) struct Recorded {
    size: Size,
    /// `(B, C, H, W)` in f32.
    planes: cuda::Buffer,
    tokens: Tokens,
    /// As the planes, of the result.
    result: cuda::Buffer,
    graph: cuda::Graph,
}

impl Recorded {
    /// Records work that was done once before. `None` where nothing can be recorded.
    ///
    /// * `planes`: what the map is made of, as [`Map::from_planes`] takes it
    ///
    /// # Errors
    /// No memory for another map.
    pub(crate) fn new(
        planes: &[f32],
        size: Size,
        tokens: Tokens,
        work: impl FnOnce(Map, &Tokens) -> Result<Map>,
    ) -> Result<Option<Recorded>> {
        let storage = tokens.storage();
        let Device::Card(card) = &storage.device else { return Ok(None) };
        let planes = cuda::Buffer::upload(card, planes, cuda::Format::F32)?;
        let recorded = card.capture(|| {
            let format = card::format(storage.precision);
            let data = cuda::pointwise::from_planes(&planes, size, format)?;
            let map = Map { size, data: Arc::new(Buffer::Card(data)) };
            let failed = |error: crate::Error| cuda::Error::Failed {
                doing: "recording".into(),
                reason: error.to_string(),
            };
            let result = work(map, &tokens).map_err(failed)?;
            cuda::pointwise::to_planes(result.data.card(), result.size)
        });
        Ok(match recorded {
            Ok((result, graph)) => Some(Recorded { size, planes, tokens, result, graph }),
            Err(reason) => {
                tracing::debug!("the step was not recorded: {reason}");
                None
            }
        })
    }

    /// Repeats the work. Gives the result's values in `(B, C, H, W)` order.
    ///
    /// # Errors
    /// Those of the driver.
    pub(crate) fn run(&self, planes: &[f32], tokens: &[f32]) -> Result<Vec<f32>> {
        assert_eq!(planes.len(), self.size.len(), "a map of the same size");
        self.planes.write(planes)?;
        self.tokens.data.card().write(tokens)?;
        self.graph.replay()?;
        Ok(self.result.download()?)
    }
}

/// Weights of a linear layer or convolution, or factors of a normalization, as the kernels take
/// them. Cheap to clone: layers share it.
#[derive(Debug, Clone)]
pub(crate) struct Weights(Arc<Stock>);

#[derive(Debug)]
struct Stock {
    form: Form,
    outputs: usize,
    inputs: usize,
    kernel: usize,
}

#[derive(Debug)]
enum Form {
    Host(host::Form),
    Card(card::Form),
}

/// What weights are for, which decides how they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A linear layer or convolution.
    Layer,
    /// A convolution behind a doubling of its input.
    Doubling,
    /// A table whose rows are looked up, always by the processor.
    Table,
}

/// Where the weights of a card's layers are between their uses. The processor has its own in its memory in any
/// case, and so has a card the little that normalizations and biases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    /// On the card.
    Always,
    /// On the card if a quarter of its memory is still free then; else in the processor's memory, and copied to
    /// the card for each use. So what is made first stays.
    WhileRoom,
    /// In the processor's memory, and copied to the card for each use.
    Never,
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

/// What adapters add to a weight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    /// Multiplied in the working precision.
    pub(crate) factors: &'a [Factors<'a>],
    /// All else, in the order of the weight.
    pub(crate) rest: Option<&'a [f32]>,
    /// What the factors are, their scales aside: equal factors have equal ones.
    pub(crate) key: &'a [Origin],
    /// Whether it is not added to the weight, but multiplied beside it: for a [`Role::Layer`] on the processor
    /// that nothing else changes.
    pub(crate) beside: bool,
}

/// Where factors are from: the content hash of an adapter, and a limit of their rank.
pub(crate) type Origin = ([u8; 32], Option<usize>);

/// What is left of a module's earlier weights, and saves work when they are made anew. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remains(Kept);

#[derive(Debug, Clone, Default)]
enum Kept {
    #[default]
    Nothing,
    Host(host::Remains),
    Card(Arc<card::Remains>),
}

/// The extent of a weight.
#[derive(Debug, Clone, Copy)]
struct Extent {
    outputs: usize,
    inputs: usize,
    /// Rows and columns of the kernel.
    kernel: usize,
}

impl Weights {
    /// Makes the weights of a module.
    ///
    /// * `shape`: `(outputs)`, `(outputs, inputs)` or `(outputs, inputs, kernel, kernel)`
    /// * `bias`: `(outputs)`
    /// * `stay`: where they are between their uses
    /// * `change`: what is added to `rows`
    /// * `remains`: of earlier weights of the same module
    /// * `rows`: writes the weights of some outputs, from the given one on, in the file's order
    ///
    /// # Errors
    /// The first of `rows`, or those of the device.
    pub(crate) fn new(
        shape: &[usize],
        bias: Option<&[f32]>,
        (role, stay, storage): (Role, Stay, &Storage),
        change: &Change<'_>,
        remains: Remains,
        rows: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Weights> {
        let (outputs, inputs, kernel) = match *shape {
            [outputs] => (outputs, 1, 1),
            [outputs, inputs] => (outputs, inputs, 1),
            [outputs, inputs, kernel, _] => (outputs, inputs, kernel),
            _ => unreachable!("the checkpoint admits weights of 1, 2 or 4 dimensions only"),
        };
        let (is_norm, extent) = (shape.len() == 1, Extent { outputs, inputs, kernel });
        let precision = storage.precision;
        let form = match &storage.device {
            Device::Card(device) if !is_norm && role != Role::Table => {
                let remains = match &remains.0 {
                    Kept::Card(remains) => Some(&**remains),
                    _ => None,
                };
                let on = (device, card::format(precision), stay);
                Form::Card(card::Form::layer(on, extent, bias, change, remains, rows)?)
            }
            device => {
                let width: usize = shape[1..].iter().product();
                let rows = |first: usize, to: &mut [f32]| {
                    rows(first, to)?;
                    if let Some(rest) = change.rest {
                        let rest = &rest[first * width..];
                        to.iter_mut().zip(rest).for_each(|(value, change)| *value += change);
                    }
                    Ok(())
                };
                match device {
                    Device::Card(card) if is_norm => {
                        Form::Card(card::Form::norm(card, outputs, bias, rows)?)
                    }
                    _ if is_norm => Form::Host(host::Form::norm(outputs, bias, rows)?),
                    _ => {
                        let form = (role, precision);
                        let remains = match &remains.0 {
                            Kept::Host(remains) => Some(remains),
                            _ => None,
                        };
                        Form::Host(host::Form::layer(extent, bias, form, change, remains, rows)?)
                    }
                }
            }
        };
        Ok(Weights(Arc::new(Stock { form, outputs, inputs, kernel })))
    }

    /// What saves work when the module's weights are made anew.
    pub(crate) fn remains(&self) -> Remains {
        Remains(match &self.0.form {
            Form::Card(form) => form.remains().map_or(Kept::Nothing, Kept::Card),
            Form::Host(form) => form.remains().map_or(Kept::Nothing, Kept::Host),
        })
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
            Form::Host(form) => form.number_bytes(),
            Form::Card(form) => form.number_bytes(),
        };
        let Stock { outputs, inputs, kernel, .. } = *self.0;
        (outputs * inputs * kernel * kernel * size) as u64
    }

    /// How many bytes of them are copied to the card for each use.
    pub(crate) fn streamed_bytes(&self) -> u64 {
        match &self.0.form {
            Form::Card(form) if form.is_stowed() => self.bytes(),
            _ => 0,
        }
    }

    /// Gives up what the kernels made of the weights for the maps so far: when none is to come soon.
    pub(crate) fn rest(&self) {
        if let Form::Host(form) = &self.0.form {
            form.rest();
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
        match &self.0.form {
            Form::Host(form) => form.bits(),
            Form::Card(form) => form.bits(),
        }
    }

    /// Row `index` of a table, as an embedding is.
    pub(crate) fn row(&self, index: usize) -> Vec<f32> {
        self.host().row(index, self.0.inputs)
    }

    fn host(&self) -> &host::Form {
        match &self.0.form {
            Form::Host(form) => form,
            Form::Card(_) => unreachable!("{ONE_PLACE}"),
        }
    }

    fn card(&self) -> &card::Form {
        match &self.0.form {
            Form::Card(form) => form,
            Form::Host(_) => unreachable!("{ONE_PLACE}"),
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

fn linear_with(
    layer: &Linear,
    x: &Tokens,
    activation: Option<Activation>,
    residual: Option<&Tokens>,
) -> Result<Tokens> {
    let residual = residual.map(|residual| &*residual.data);
    let gated = activation == Some(Activation::Geglu);
    let channels = if gated { layer.0.outputs() / 2 } else { layer.0.outputs() };
    let data = on_device!(
        x.data,
        |x| host::linear(layer.0.host(), x, activation, residual.map(Buffer::host)),
        |x| card::linear(layer.0.card(), x, activation, residual.map(Buffer::card))
    );
    Ok(Tokens { batch: x.batch, channels, data })
}

/// `x · wᵀ + bias`, token by token.
pub(crate) fn linear(layer: &Linear, x: &Tokens) -> Result<Tokens> {
    linear_with(layer, x, None, None)
}

/// A linear layer, then an activation. [`Activation::Geglu`] leaves half as many channels.
pub(crate) fn linear_then(layer: &Linear, activation: Activation, x: &Tokens) -> Result<Tokens> {
    linear_with(layer, x, Some(activation), None)
}

/// A linear layer, plus `residual`.
pub(crate) fn linear_plus(layer: &Linear, x: &Tokens, residual: &Tokens) -> Result<Tokens> {
    linear_with(layer, x, None, Some(residual))
}

/// A linear layer on each pixel.
pub(crate) fn linear_map(layer: &Linear, x: &Map) -> Result<Map> {
    Ok(linear(layer, &x.clone().into_tokens())?.into_map(x.size.height, x.size.width))
}

/// `x · sigmoid(x)`, for the few numbers of an embedding.
pub(crate) fn silu(x: &Tokens) -> Result<Tokens> {
    let data = on_device!(x.data, |x| host::silu(x), |x| card::silu(x));
    Ok(Tokens { data, ..*x })
}

/// A convolution.
pub(crate) fn conv(layer: &Conv, x: &Padded) -> Result<Map> {
    conv_plus(layer, x, None, None)
}

/// A convolution, plus one token for all pixels of its image, plus another map.
pub(crate) fn conv_plus(
    layer: &Conv,
    x: &Padded,
    token: Option<&Tokens>,
    residual: Option<&Map>,
) -> Result<Map> {
    let (token, residual) = (token.map(|token| &*token.data), residual.map(|map| &*map.data));
    let (data, size) = match x {
        Padded::Host(x) => {
            let added = (token.map(Buffer::host), residual.map(Buffer::host));
            let (data, size) = host::conv(layer.weights.host(), x, layer.window, added);
            (Buffer::Host(data), size)
        }
        Padded::Card(x) => {
            let added = (token.map(Buffer::card), residual.map(Buffer::card));
            let from = (x.data.card(), x.size);
            let (data, size) = card::conv(layer.weights.card(), from, layer.window, None, added)?;
            (Buffer::Card(data), size)
        }
    };
    Ok(Map { size, data: Arc::new(data) })
}

/// A convolution of a map whose pixels are repeated to twice its height and width, or up to one row
/// and column less.
pub(crate) fn conv_doubled(layer: &Conv, x: &Map, height: usize, width: usize) -> Result<Map> {
    let (size, window) = (x.size, layer.window);
    let to = Size { height, width, ..size };
    let data = on_device!(
        x.data,
        |x| host::conv_doubled(layer.weights.host(), (x, size), window, to),
        |x| {
            let to = Some((to.height, to.width));
            card::conv(layer.weights.card(), (x, size), window, to, (None, None)).map(|made| made.0)
        }
    );
    Ok(Map { size: Size { channels: layer.weights.outputs(), ..to }, data })
}

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Function {
    /// `max(x, 0)`.
    Relu,
    /// `3 tanh(x / 3)`.
    SoftClamp,
    /// `x · scale + offset`.
    Affine(f32, f32),
}

/// A function of each number.
pub(crate) fn each(x: &Map, function: Function) -> Result<Map> {
    let data = on_device!(x.data, |x| host::each(x, function), |x| card::each(x, function));
    Ok(Map { size: x.size, data })
}

/// A map with a border.
pub(crate) fn padded(x: &Map) -> Padded {
    match &*x.data {
        Buffer::Host(numbers) => Padded::Host(host::padded(numbers, x.size)),
        Buffer::Card(_) => Padded::Card(x.clone()),
    }
}

/// Group normalization over `groups` groups of channels.
pub(crate) fn group_norm(norm: &Norm, groups: usize, x: &Map) -> Result<Map> {
    let (weights, size) = (&norm.weights, x.size);
    let data =
        on_device!(x.data, |x| host::group_norm(weights.host(), norm.eps, groups, x, size), |x| {
            card::group_norm(weights.card(), norm.eps, groups, (x, size), false)
        });
    Ok(Map { size, data })
}

/// Group normalization, then SiLU, for a convolution.
pub(crate) fn group_norm_silu(norm: &Norm, groups: usize, x: &Map) -> Result<Padded> {
    let (weights, size) = (&norm.weights, x.size);
    Ok(match &*x.data {
        Buffer::Host(x) => {
            Padded::Host(host::group_norm_silu(weights.host(), norm.eps, groups, x, size))
        }
        Buffer::Card(x) => {
            let data = card::group_norm(weights.card(), norm.eps, groups, (x, size), true)?;
            Padded::Card(Map { size, data: Arc::new(Buffer::Card(data)) })
        }
    })
}

/// Layer normalization of each token.
pub(crate) fn layer_norm(norm: &Norm, x: &Tokens) -> Result<Tokens> {
    let weights = &norm.weights;
    let data =
        on_device!(
            x.data,
            |x| host::layer_norm(weights.host(), norm.eps, x),
            |x| card::layer_norm(weights.card(), norm.eps, x)
        );
    Ok(Tokens { data, ..*x })
}

/// Attention of `q` `(B, T, C)` over `k` and `v` `(B, S, C)` with the heads side by side in `C`.
pub(crate) fn attention(
    q: &Tokens,
    k: &Tokens,
    v: &Tokens,
    heads: usize,
    causal: bool,
) -> Result<Tokens> {
    let sizes = Heads { batch: q.batch, heads, width: q.channels };
    let data = on_device!(
        q.data,
        |x| host::attention(x, k.data.host(), v.data.host(), sizes, causal),
        |x| card::attention(x, k.data.card(), v.data.card(), sizes, causal)
    );
    Ok(Tokens { data, ..*q })
}

/// The channels of `b` behind those of `a`.
pub(crate) fn concat(a: &Map, b: &Map) -> Result<Map> {
    let channels = a.size.channels + b.size.channels;
    let widths = (a.size.channels, b.size.channels);
    let data = on_device!(a.data, |x| host::concat(x, b.data.host(), widths), |x| card::concat(
        x,
        b.data.card(),
        widths
    ));
    Ok(Map { size: Size { channels, ..a.size }, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recording is made where a card can, and gives what the work gives.
    #[test]
    fn recorded_work_is_the_work() {
        let size = Size { batch: 1, height: 2, width: 3, channels: 4 };
        let [first, second]: [Vec<f32>; 2] =
            [1.0, -0.5].map(|factor| (0..size.len()).map(|i| i as f32 * factor).collect());
        let work = |x: Map, row: &Tokens| {
            let row = row.clone().into_map(1, 1);
            assert_eq!(row.size().channels, 2);
            concat(&each(&x, Function::Affine(2.0, 1.0))?, &x)
        };
        for device in [Device::Host, Device::Card(cuda::Card::emulated())] {
            let storage = Storage { device, precision: Precision::Bf16 };
            let row = Tokens::new(&[0.0; 2], 1, 2, &storage).unwrap();
            let recorded = Recorded::new(&first, size, row.clone(), work).unwrap();
            assert_eq!(recorded.is_some(), matches!(storage.device, Device::Card(_)));
            for planes in recorded.iter().flat_map(|_| [&second, &first]) {
                let plain = work(Map::from_planes(planes, size, &storage).unwrap(), &row).unwrap();
                let recorded = recorded.as_ref().unwrap().run(planes, &[0.0; 2]).unwrap();
                assert_eq!(recorded, plain.planes().unwrap());
            }
        }
    }
}
