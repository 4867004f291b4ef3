//! Matrix products: linear layers and convolutions.

use std::sync::Arc;

use crate::{
    Buffer, Card, Format, Result, Size, Stowed, Window,
    backend::ProductJob,
    launch::{Geometry, launch, narrow, params},
};

/// A function of each result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x Φ(x)`.
    Gelu,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// The gated linear unit of Shazeer (2020): the first half of the outputs are values, the second
    /// gates, and `value · gelu(gate)` is stored, half as wide.
    Geglu,
}

impl Activation {
    /// What it is called in `kernels/device.cuh`.
    pub(crate) fn code(activation: Option<Activation>) -> u32 {
        match activation {
            None => 0,
            Some(Activation::Silu) => 1,
            Some(Activation::Gelu) => 2,
            Some(Activation::QuickGelu) => 3,
            Some(Activation::Relu) => 4,
            Some(Activation::Geglu) => 5,
        }
    }
}

/// What is done to the sums besides adding the bias, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// One row of `outputs` numbers for each image, `(batch, outputs)`, added to all its pixels.
    pub image_rows: Option<&'a Buffer>,
    /// A function of each sum.
    pub activation: Option<Activation>,
    /// Numbers of the result's own size, added last.
    pub residual: Option<&'a Buffer>,
}

impl Extras<'_> {
    fn is_gated(&self) -> bool {
        self.activation == Some(Activation::Geglu)
    }

    fn is_empty(&self) -> bool {
        self.image_rows.is_none() && self.activation.is_none() && self.residual.is_none()
    }
}

/// The weights of a linear layer or convolution, and its bias.
#[derive(Debug)]
pub struct Weights {
    values: Values,
    bias: Option<Buffer>,
    outputs: usize,
    inputs: usize,
    kernel: usize,
}

/// Where the numbers of weights are between their uses.
#[derive(Debug)]
enum Values {
    /// In the card's memory.
    Kept(Arc<Buffer>),
    /// In the processor's.
    Stowed(Stowed),
}

impl Weights {
    /// * `values`: `(outputs, kernel, kernel, inputs)`
    /// * `bias`: `(outputs)` in f32
    ///
    /// # Panics
    /// If the lengths do not agree.
    #[must_use]
    pub fn new(
        values: Buffer,
        bias: Option<Buffer>,
        outputs: usize,
        inputs: usize,
        kernel: usize,
    ) -> Weights {
        assert_eq!(values.len(), outputs * kernel * kernel * inputs, "a weight for every tap");
        assert!(
            bias.as_ref().is_none_or(|b| b.len() == outputs && b.format() == Format::F32),
            "a bias in f32 for every output"
        );
        Weights { values: Values::Kept(Arc::new(values)), bias, outputs, inputs, kernel }
    }

    /// The same weights, which leave the card's memory: each use copies them to it and gives the copy back. The
    /// bias stays, a row of it is small.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn stow(self) -> Result<Weights> {
        let values = match self.values {
            Values::Kept(values) => Values::Stowed(values.stow()?),
            stowed => stowed,
        };
        Ok(Weights { values, ..self })
    }

    /// Whether each use copies them to the card.
    #[must_use]
    pub fn is_stowed(&self) -> bool {
        matches!(self.values, Values::Stowed(_))
    }

    /// The numbers on the card, `(outputs, kernel, kernel, inputs)`, for one use.
    ///
    /// # Errors
    /// Where they are copied: [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
    pub fn values(&self) -> Result<Arc<Buffer>> {
        match &self.values {
            Values::Kept(values) => Ok(values.clone()),
            Values::Stowed(values) => values.fetch().map(Arc::new),
        }
    }

    /// How the numbers are stored.
    #[must_use]
    pub fn format(&self) -> Format {
        match &self.values {
            Values::Kept(values) => values.format(),
            Values::Stowed(values) => values.format(),
        }
    }

    /// Rows.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Channels that they are multiplied with.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows and columns of the kernel.
    #[must_use]
    pub fn kernel(&self) -> usize {
        self.kernel
    }
}

/// A linear layer: `out[r, o] = bias[o] + Σᵢ x[r, i] · w[o, i]`, and what [`Extras`] adds.
///
/// * `x`: `(rows, inputs)`
/// * returns `(rows, outputs)`, or `(rows, outputs / 2)` if gated
///
/// # Panics
/// If the sizes or formats do not agree, or there are `image_rows`: rows are of no image.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn linear(x: &Buffer, w: &Weights, extras: &Extras<'_>) -> Result<Buffer> {
    assert_eq!((x.len() % w.inputs, w.kernel), (0, 1), "whole rows and a linear layer");
    assert!(extras.image_rows.is_none(), "rows of no image");
    let size = Size { batch: 1, height: 1, width: x.len() / w.inputs, channels: w.inputs };
    conv(x, size, w, Window::PIXEL, None, extras).map(|(out, _)| out)
}

/// A two-dimensional convolution (cross-correlation, as in every deep-learning library).
///
/// * `x`: `(B, H, W, C)`, beyond which are zeros
/// * `doubled`: the height and width, twice those of `x` or up to one less, of the image over which the kernel
///   moves: that of `x` with every pixel repeated in height and width
/// * returns `(B, H', W', outputs)` with its size
///
/// # Panics
/// If the sizes or formats do not agree.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn conv(
    x: &Buffer,
    size: Size,
    w: &Weights,
    window: Window,
    doubled: Option<(usize, usize)>,
    extras: &Extras<'_>,
) -> Result<(Buffer, Size)> {
    let (card, format) = (x.card(), x.format());
    assert_eq!(x.len(), size.len(), "an image of another size");
    assert_eq!((w.inputs, w.kernel), (size.channels, window.kernel), "weights of the window");
    assert_eq!(w.format(), format, "one format");
    let (height, width) = doubled.unwrap_or((size.height, size.width));
    assert!(
        doubled.is_none() || (height.div_ceil(2), width.div_ceil(2)) == (size.height, size.width),
        "twice as many rows and columns, or up to one less"
    );
    let channels = if extras.is_gated() { w.outputs / 2 } else { w.outputs };
    let (height, width) = (window.outputs(height), window.outputs(width));
    let to = Size { batch: size.batch, height, width, channels };
    let of = |given: Option<&Buffer>, len: usize| {
        given.map(|buffer| {
            assert_eq!((buffer.len(), buffer.format()), (len, format), "numbers for the result");
            buffer.address()
        })
    };
    assert!(!extras.is_gated() || w.outputs.is_multiple_of(2), "as many gates as values");
    assert!(!extras.is_gated() || extras.image_rows.is_none(), "gates of a linear layer");
    // Given back once the work is queued: what gets its memory next writes behind that.
    let values = w.values()?;
    let out = Buffer::new(card, to.len(), format)?;
    let job = ProductJob {
        format,
        input: x.address(),
        size,
        doubled,
        window,
        weights: values.address(),
        outputs: w.outputs,
        bias: w.bias.as_ref().map(Buffer::address),
        image_rows: of(extras.image_rows, size.batch * w.outputs),
        activation: extras.activation,
        residual: of(extras.residual, to.len()),
        output: out.address(),
        output_size: to,
    };
    if !to.is_empty() {
        multiply(card, &job, extras.is_empty())?;
    }
    Ok((out, to))
}

/// Does a job: with a library that does all of it, or with one that does the sums, or with our kernels.
fn multiply(card: &Card, job: &ProductJob, is_bare: bool) -> Result<()> {
    if let Some(done) = card.0.product(job) {
        return done;
    }
    if !is_bare {
        let sums = match job.activation {
            Some(Activation::Geglu) => {
                Some(Buffer::new(card, job.output_size.pixels() * job.outputs, job.format)?)
            }
            _ => None,
        };
        let output = sums.as_ref().map_or(job.output, Buffer::address);
        let bare = ProductJob {
            image_rows: None,
            activation: None,
            residual: None,
            output,
            output_size: Size { channels: job.outputs, ..job.output_size },
            ..*job
        };
        if let Some(done) = card.0.product(&bare) {
            done?;
            return finish(card, "product_finish", &ProductJob { bias: None, ..*job }, output, 1);
        }
    }
    own(card, job, &Plan::of(job))
}

params! {
    /// That of the products.
    struct ProductParams {
        input: u64,
        weights: u64,
        bias: u64,
        image_rows: u64,
        residual: u64,
        output: u64,
        partial: u64,
        batch: u32,
        height: u32,
        width: u32,
        channels: u32,
        out_height: u32,
        out_width: u32,
        outputs: u32,
        kernel: u32,
        stride: u32,
        before: u32,
        seen_height: u32,
        seen_width: u32,
        doubled: u32,
        function: u32,
        split_depth: u32,
        unused: u32,
    }
}

params! {
    /// That of the kernels that finish sums.
    struct FinishParams {
        sums: u64,
        bias: u64,
        image_rows: u64,
        residual: u64,
        output: u64,
        pixels: u32,
        image_pixels: u32,
        outputs: u32,
        splits: u32,
        function: u32,
        unused: u32,
    }
}

/// A product with our kernels.
fn own(card: &Card, job: &ProductJob, plan: &Plan) -> Result<()> {
    let partial = match plan.is_direct {
        true => None,
        false => {
            let len = plan.splits * job.output_size.pixels() * job.outputs;
            Some(Buffer::new(card, len, Format::F32)?)
        }
    };
    // Places within one image are 32 bits.
    narrow(job.size.height * job.size.width * job.size.channels);
    narrow(job.output_size.pixels());
    let (seen_height, seen_width) = job.doubled.unwrap_or((job.size.height, job.size.width));
    let params = ProductParams {
        input: job.input,
        weights: job.weights,
        bias: job.bias.unwrap_or(0),
        image_rows: job.image_rows.unwrap_or(0),
        residual: job.residual.unwrap_or(0),
        output: job.output,
        partial: partial.as_ref().map_or(0, Buffer::address),
        batch: narrow(job.size.batch),
        height: narrow(job.size.height),
        width: narrow(job.size.width),
        channels: narrow(job.size.channels),
        out_height: narrow(job.output_size.height),
        out_width: narrow(job.output_size.width),
        outputs: narrow(job.outputs),
        kernel: narrow(job.window.kernel),
        stride: narrow(job.window.stride),
        before: narrow(job.window.before),
        seen_height: narrow(seen_height),
        seen_width: narrow(seen_width),
        doubled: job.doubled.is_some().into(),
        function: Activation::code(job.activation),
        split_depth: narrow(plan.split_depth),
        unused: 0,
    };
    let kernel = format!("{}_{}", plan.tile.kernel, job.format.suffix());
    launch(card, &kernel, plan.geometry(), &params)?;
    match partial {
        Some(partial) => finish(card, "product_splits", job, partial.address(), plan.splits),
        None => Ok(()),
    }
}

/// Does to sums what a job wants besides.
fn finish(card: &Card, kernel: &str, job: &ProductJob, sums: u64, splits: usize) -> Result<()> {
    const THREADS: usize = 256;
    let to = job.output_size;
    let params = FinishParams {
        sums,
        bias: job.bias.unwrap_or(0),
        image_rows: job.image_rows.unwrap_or(0),
        residual: job.residual.unwrap_or(0),
        output: job.output,
        pixels: narrow(to.pixels()),
        image_pixels: narrow(to.height * to.width),
        outputs: narrow(job.outputs),
        splits: narrow(splits),
        function: Activation::code(job.activation),
        unused: 0,
    };
    let kernel = format!("{kernel}_{}", job.format.suffix());
    let threads = to.pixels() * to.channels.div_ceil(8);
    launch(card, &kernel, Geometry::row(threads, THREADS, THREADS), &params)
}

/// A kernel, and what a block of it makes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tile {
    kernel: &'static str,
    /// Pixels.
    rows: usize,
    /// Outputs.
    columns: usize,
    /// Numbers of the depth per step.
    step: usize,
    threads: usize,
    shared: usize,
    /// How fast it multiplies, in relation to the largest tile. Larger tiles read less per product.
    speed: f64,
    /// Whether it can finish gated sums, if there are a multiple of 8 gates.
    gates: bool,
}

impl Tile {
    /// A tile that copies ahead, three steps of four times 16 bytes of each row.
    ///
    /// * `row`: bytes of a row of a step in shared memory
    const fn copying(
        kernel: &'static str,
        (rows, columns): (usize, usize),
        (step, row): (usize, usize),
        threads: usize,
        speed: f64,
    ) -> Tile {
        const STAGES: usize = 3;
        let shared = (rows + columns) * row * STAGES;
        Tile { kernel, rows, columns, step, threads, shared, speed, gates: step == HALVES.0 }
    }

    fn blocks(&self, pixels: usize, outputs: usize) -> usize {
        pixels.div_ceil(self.rows) * outputs.div_ceil(self.columns)
    }
}

/// Steps of 16 bits, and of f32, whose rows are further apart.
const HALVES: (usize, usize) = (32, 64);
const SINGLES: (usize, usize) = (16, 80);

/// The tiles of products of 16 bits.
const TILES: [Tile; 3] = [
    Tile::copying("product_128x128", (128, 128), HALVES, 256, 1.0),
    Tile::copying("product_128x64", (128, 64), HALVES, 128, 0.9),
    Tile::copying("product_64x64", (64, 64), HALVES, 128, 0.75),
];

/// Those of products of f32.
const EXACT_TILES: [Tile; 2] =
    [Tile::copying("product_128x64", (128, 64), SINGLES, 256, 1.0), PLAIN];

/// The tile for channels that 16 bytes do not hold a whole number of.
const PLAIN: Tile = Tile {
    kernel: "product_plain",
    rows: 64,
    columns: 64,
    step: 16,
    threads: 256,
    shared: 2 * 16 * (64 + 4) * 4,
    speed: 0.6,
    gates: false,
};

/// Blocks that keep a large card busy. The same for every card, as its results should be.
const BUSY: usize = 128;

/// The most blocks that share the depth of one tile.
const MOST_SPLITS: usize = 16;

/// How a product is shared out among blocks. By the shapes alone, so that a result is the same on every card.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Plan {
    tile: Tile,
    tiles: usize,
    splits: usize,
    /// Numbers of the depth that a block sums up: whole steps.
    split_depth: usize,
    /// Whether the kernel finishes its sums itself.
    is_direct: bool,
}

impl Plan {
    fn of(job: &ProductJob) -> Plan {
        let (pixels, outputs) = (job.output_size.pixels(), job.outputs);
        let tiles: &[Tile] = match job.format {
            Format::F16 | Format::Bf16 if job.size.channels.is_multiple_of(8) => &TILES,
            Format::F32 if job.size.channels.is_multiple_of(4) => &EXACT_TILES,
            _ => &[PLAIN],
        };
        // Idle multiprocessors take as long as busy ones.
        let time = |tile: &Tile| {
            let blocks = tile.blocks(pixels, outputs).max(BUSY);
            (blocks * tile.rows * tile.columns) as f64 / tile.speed
        };
        let tile = tiles.iter().min_by(|a, b| time(a).total_cmp(&time(b)));
        Plan::with(job, *tile.unwrap_or(&PLAIN), MOST_SPLITS)
    }

    /// * `most_splits`: for tests
    fn with(job: &ProductJob, tile: Tile, most_splits: usize) -> Plan {
        let depth = job.window.kernel * job.window.kernel * job.size.channels;
        let tiles = tile.blocks(job.output_size.pixels(), job.outputs);
        let steps = depth.div_ceil(tile.step);
        // Two or more blocks in a multiprocessor wait in turn. Where there is work for all of them already,
        // only much depth is worth the sums' way through memory.
        let wanted = (2 * BUSY + tiles / 2) / tiles;
        let worth_a_block = if tiles < BUSY { 8 } else { 64 };
        let splits = wanted.min(steps / worth_a_block).min(most_splits).max(1);
        let per_split = steps.div_ceil(splits);
        let splits = steps.div_ceil(per_split);
        let gates = job.activation == Some(Activation::Geglu);
        let gates_itself = tile.gates && job.outputs.is_multiple_of(16);
        let is_direct = splits == 1 && (!gates || gates_itself);
        Plan { tile, tiles, splits, split_depth: per_split * tile.step, is_direct }
    }

    fn geometry(&self) -> Geometry {
        let grid = [self.tiles, 1, self.splits];
        Geometry { grid, threads: self.tile.threads, shared: self.tile.shared }
    }
}

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod times;
