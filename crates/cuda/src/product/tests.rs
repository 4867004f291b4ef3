//! Products against the definition, and how they are shared out.

use std::sync::Arc;

use super::*;
use crate::{
    backend::{Backend, Launch},
    testing::{FORMATS, assert_close, cards, numbers, random, wide},
};

fn activated(activation: Option<Activation>, x: f64) -> f64 {
    match activation {
        None | Some(Activation::Geglu) => x,
        Some(Activation::Silu) => x / (1.0 + (-x).exp()),
        Some(Activation::Gelu) => gelu(x),
        Some(Activation::QuickGelu) => x / (1.0 + (-1.702 * x).exp()),
        Some(Activation::Relu) => x.max(0.0),
    }
}

/// By the error function's series.
pub(crate) fn gelu(x: f64) -> f64 {
    let z = x / std::f64::consts::SQRT_2;
    let (mut term, mut sum) = (z, z);
    for n in 1..200 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 * x * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
}

/// Weights in the processor's memory multiply as those on the card do, and take the card's only meanwhile.
#[test]
fn stowed_weights_are_on_the_card_only_while_they_are_used() {
    let card = Card::emulated_short(None, None);
    let (rows, inputs, outputs) = (5, 64, 72);
    for (format, _) in FORMATS {
        let (x, _) = random(&card, rows * inputs, 1, format);
        let bias = || Some(random(&card, outputs, 2, Format::F32).0);
        let values = || random(&card, outputs * inputs, 3, format).0;
        let kept = Weights::new(values(), bias(), outputs, inputs, 1);
        let expected = wide(&linear(&x, &kept, &Extras::default()).unwrap());
        let (free, _) = card.memory().unwrap();
        let stowed = kept.stow().unwrap();
        assert!(stowed.is_stowed() && stowed.format() == format);
        let bytes = (outputs * inputs * format.bytes()) as u64;
        assert_eq!(card.memory().unwrap().0, free + bytes, "{format:?}");
        card.reset_peak();
        let before = card.peak_bytes();
        for _ in 0..2 {
            let out = linear(&x, &stowed, &Extras::default()).unwrap();
            assert!(wide(&out) == expected, "{format:?}");
        }
        assert!(card.peak_bytes() >= before + bytes, "{format:?}");
        assert_eq!(card.memory().unwrap().0, free + bytes, "{format:?}");
    }
}

/// A layer with all that it is given, to be made by our kernels and by the definition.
struct Case {
    size: Size,
    window: Window,
    doubled: Option<(usize, usize)>,
    outputs: usize,
    activation: Option<Activation>,
    /// Whether it has a bias, rows for images, a residual.
    with: (bool, bool, bool),
}

impl Case {
    fn linear(rows: usize, inputs: usize, outputs: usize) -> Case {
        Case {
            size: Size { batch: 1, height: 1, width: rows, channels: inputs },
            window: Window::PIXEL,
            doubled: None,
            outputs,
            activation: None,
            with: (true, false, false),
        }
    }

    fn conv(batch: usize, (height, width): (usize, usize), inputs: usize, outputs: usize) -> Case {
        Case {
            size: Size { batch, height, width, channels: inputs },
            window: Window { kernel: 3, stride: 1, before: 1, after: 1 },
            doubled: None,
            outputs,
            activation: None,
            with: (true, false, false),
        }
    }

    /// The exact result.
    fn exact(
        &self,
        x: &[f64],
        w: &[f64],
        bias: &[f64],
        rows: &[f64],
        residual: &[f64],
    ) -> Vec<f64> {
        let Case { size, window, outputs, .. } = *self;
        let (height, width) = self.doubled.unwrap_or((size.height, size.width));
        let halved = |at: usize| if self.doubled.is_some() { at / 2 } else { at };
        let taps = window.kernel;
        let mut sums = vec![];
        for b in 0..size.batch {
            for y in 0..window.outputs(height) {
                for x_at in 0..window.outputs(width) {
                    for o in 0..outputs {
                        let mut sum = if self.with.0 { bias[o] } else { 0.0 };
                        for tap in 0..taps * taps {
                            let y = (y * window.stride + tap / taps).wrapping_sub(window.before);
                            let x_at = x_at * window.stride + tap % taps;
                            let x_at = x_at.wrapping_sub(window.before);
                            if y >= height || x_at >= width {
                                continue;
                            }
                            let pixel = (b * size.height + halved(y)) * size.width + halved(x_at);
                            let x = &x[pixel * size.channels..][..size.channels];
                            let w = &w[(o * taps * taps + tap) * size.channels..];
                            sum += x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
                        }
                        if self.with.1 {
                            sum += rows[b * outputs + o];
                        }
                        sums.push(activated(self.activation, sum));
                    }
                }
            }
        }
        if self.activation == Some(Activation::Geglu) {
            let gated = sums.chunks_exact(outputs).flat_map(|row| {
                let (values, gates) = row.split_at(outputs / 2);
                values.iter().zip(gates).map(|(value, gate)| value * gelu(*gate))
            });
            sums = gated.collect();
        }
        if self.with.2 {
            sums.iter_mut().zip(residual).for_each(|(sum, residual)| *sum += residual);
        }
        sums
    }

    /// Makes it with each given tile, or with that of its plan, and as many splits as are allowed.
    fn check(&self, card: &Card, format: Format, tiles: &[Tile], most_splits: usize) {
        let Case { size, window, outputs, .. } = *self;
        let depth = window.kernel * window.kernel * size.channels;
        let (x, x_exact) = random(card, size.len(), 1, format);
        let weights: Vec<f32> =
            numbers(outputs * depth, 2).iter().map(|w| 2.0 * w / (depth as f32).sqrt()).collect();
        let values = Buffer::upload(card, &weights, format).unwrap();
        let w_exact = wide(&values);
        let (bias, bias_exact) = random(card, outputs, 3, Format::F32);
        let w = Weights::new(
            values,
            self.with.0.then_some(bias),
            outputs,
            size.channels,
            window.kernel,
        );
        let (height, width) = self.doubled.unwrap_or((size.height, size.width));
        let channels =
            if self.activation == Some(Activation::Geglu) { outputs / 2 } else { outputs };
        let len = size.batch * window.outputs(height) * window.outputs(width) * channels;
        let (rows, rows_exact) = random(card, size.batch * outputs, 4, format);
        let (residual, residual_exact) = random(card, len, 5, format);
        let extras = Extras {
            image_rows: self.with.1.then_some(&rows),
            activation: self.activation,
            residual: self.with.2.then_some(&residual),
        };
        let exact = self.exact(&x_exact, &w_exact, &bias_exact, &rows_exact, &residual_exact);
        let what = format!("{format:?} {size:?} {window:?} {outputs} {:?}", self.activation);
        let (out, to) = conv(&x, size, &w, window, self.doubled, &extras).unwrap();
        // Half a step, and the sums' own error.
        let tolerance = if format == Format::F32 { 16.0 } else { 0.55 };
        assert_close(&out, &exact, tolerance, 1.0, &what);
        for tile in tiles {
            let job = ProductJob {
                format,
                input: x.address(),
                size,
                doubled: self.doubled,
                window,
                weights: w.values().unwrap().address(),
                outputs,
                bias: w.bias.as_ref().map(Buffer::address),
                image_rows: extras.image_rows.map(Buffer::address),
                activation: self.activation,
                residual: extras.residual.map(Buffer::address),
                output: out.address(),
                output_size: to,
            };
            let plan = Plan::with(&job, *tile, most_splits);
            own(card, &job, &plan).unwrap();
            assert_close(&out, &exact, tolerance, 1.0, &format!("{what} {plan:?}"));
        }
    }
}

#[test]
fn linear_layers_are_right_in_every_format() {
    for card in cards() {
        for (format, _) in FORMATS {
            for (rows, inputs, outputs) in [(1, 8, 8), (5, 40, 24), (77, 64, 136), (3, 9, 5)] {
                Case::linear(rows, inputs, outputs).check(&card, format, &[], 1);
            }
        }
    }
}

#[test]
fn every_tile_makes_all_of_the_result() {
    for card in cards() {
        for (format, _) in &FORMATS[1..] {
            Case::linear(150, 72, 200).check(&card, *format, &TILES, 1);
            Case::conv(2, (9, 8), 24, 72).check(&card, *format, &TILES, 1);
        }
        Case::linear(150, 72, 200).check(&card, Format::F32, &EXACT_TILES, 1);
        Case::conv(2, (9, 8), 20, 70).check(&card, Format::F32, &EXACT_TILES, 1);
    }
}

#[test]
fn the_depth_is_shared_out_and_summed_up() {
    for card in cards() {
        for (format, _) in FORMATS {
            let tiles = if format == Format::F32 { &EXACT_TILES[..] } else { &TILES[1..] };
            for activation in [None, Some(Activation::Silu), Some(Activation::Geglu)] {
                let case = Case { activation, ..Case::linear(70, 1048, 24) };
                case.check(&card, format, tiles, 3);
            }
            let extras = Case { with: (false, true, true), ..Case::conv(2, (3, 4), 88, 12) };
            extras.check(&card, format, tiles, 4);
        }
    }
}

#[test]
fn windows_stride_and_reach_over_borders() {
    for card in cards() {
        for (format, _) in FORMATS {
            for (kernel, stride, before, after) in
                [(3, 2, 1, 1), (3, 2, 0, 1), (1, 1, 0, 0), (3, 1, 0, 0)]
            {
                let window = Window { kernel, stride, before, after };
                Case { window, ..Case::conv(2, (7, 6), 16, 24) }.check(&card, format, &[], 1);
            }
        }
    }
}

#[test]
fn an_image_is_doubled_while_it_is_read() {
    for card in cards() {
        for (format, _) in FORMATS {
            for doubled in [(6, 8), (5, 8), (5, 7)] {
                let case = Case { doubled: Some(doubled), ..Case::conv(2, (3, 4), 16, 24) };
                case.check(&card, format, &[], 1);
            }
        }
    }
}

#[test]
fn channels_need_not_be_multiples_of_anything() {
    for card in cards() {
        for (format, _) in FORMATS {
            for (inputs, outputs) in [(4, 32), (9, 8), (3, 3), (12, 20), (20, 12), (32, 4), (1, 1)]
            {
                let all = (true, true, true);
                Case { with: all, ..Case::conv(2, (5, 4), inputs, outputs) }.check(
                    &card,
                    format,
                    &[],
                    1,
                );
            }
        }
    }
}

#[test]
fn results_are_activated_and_added_to() {
    for card in cards() {
        for (format, _) in FORMATS {
            for activation in
                [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::Relu]
            {
                let case = Case {
                    activation: Some(activation),
                    with: (true, true, true),
                    ..Case::conv(2, (4, 3), 8, 40)
                };
                case.check(&card, format, &[], 1);
            }
            for outputs in [16, 24, 12, 208] {
                let activation = Some(Activation::Geglu);
                let with = (true, false, outputs == 24);
                let tiles = if format == Format::F32 { &EXACT_TILES[..] } else { &TILES[..] };
                Case { activation, with, ..Case::linear(35, 40, outputs) }
                    .check(&card, format, tiles, 1);
            }
        }
    }
}

/// A card with a library that does sums, and nothing besides.
#[derive(Debug)]
struct WithLibrary(Card);

impl Backend for WithLibrary {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.0.0.allocate(bytes)
    }

    fn release(&self, address: u64, bytes: usize) {
        self.0.0.release(address, bytes);
    }

    fn copy_in(&self, to: u64, from: &[u8]) -> Result<()> {
        self.0.0.copy_in(to, from)
    }

    fn copy_out(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.0.0.copy_out(from, to)
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.0.0.copy(to, from, bytes)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.0.0.launch(launch)
    }

    fn product(&self, job: &ProductJob) -> Option<Result<()>> {
        let is_bare =
            job.image_rows.is_none() && job.activation.is_none() && job.residual.is_none();
        is_bare.then(|| own(&self.0, job, &Plan::of(job)))
    }

    fn memory(&self) -> Result<(u64, u64)> {
        self.0.0.memory()
    }
}

#[test]
fn what_a_library_leaves_is_done_behind_it() {
    let card = Card(Arc::new(WithLibrary(Card::emulated())));
    let all = Case {
        activation: Some(Activation::Silu),
        with: (true, true, true),
        ..Case::conv(2, (4, 3), 8, 40)
    };
    all.check(&card, Format::F32, &[], 1);
    let gated = Case { activation: Some(Activation::Geglu), ..Case::linear(35, 40, 48) };
    gated.check(&card, Format::F32, &[], 1);
    Case::linear(5, 8, 8).check(&card, Format::Bf16, &[], 1);
}

/// All kinds of products of SD 1.5 at 512², SDXL at 1024², and the VAE: pixels, channels, kernel, outputs.
const PRODUCTS: [(usize, usize, usize, usize); 16] = [
    (2 * 64 * 64, 4, 3, 320),
    (2 * 64 * 64, 320, 3, 320),
    (2 * 64 * 64, 960, 3, 320),
    (2 * 32 * 32, 640, 3, 640),
    (2 * 16 * 16, 1280, 3, 1280),
    (2 * 8 * 8, 2560, 3, 1280),
    (2, 1280, 1, 1280),
    (2 * 77, 768, 1, 320),
    (2 * 4096, 320, 1, 2560),
    (2 * 128 * 128, 320, 3, 320),
    (2 * 1024, 1280, 1, 10240),
    (2 * 77, 2048, 1, 1280),
    (2 * 1024 * 1024, 256, 3, 128),
    (2 * 1024 * 1024, 128, 3, 3),
    (2 * 512 * 512, 512, 3, 256),
    (2 * 4096, 512, 1, 512),
];

#[test]
fn plans_are_within_a_cards_limits_and_leave_nothing_out() {
    for (pixels, channels, kernel, outputs) in PRODUCTS {
        for (format, _) in FORMATS {
            let size = Size { batch: 1, height: 1, width: pixels, channels };
            let job = ProductJob {
                format,
                input: 0,
                size,
                doubled: None,
                window: Window { kernel, stride: 1, before: kernel / 2, after: kernel / 2 },
                weights: 0,
                outputs,
                bias: None,
                image_rows: None,
                activation: None,
                residual: None,
                output: 0,
                output_size: Size { channels: outputs, ..size },
            };
            let plan = Plan::of(&job);
            let what = format!("{size:?} {kernel} {outputs}: {plan:?}");
            let Plan { tile, splits, split_depth, .. } = plan;
            assert!(tile.threads <= 1024 && tile.shared <= 48 << 10, "{what}");
            assert!(i32::try_from(plan.tiles).is_ok() && (1..=MOST_SPLITS).contains(&splits));
            assert_eq!(plan.tiles, pixels.div_ceil(tile.rows) * outputs.div_ceil(tile.columns));
            let depth = kernel * kernel * channels;
            assert!(splits * split_depth >= depth && (splits - 1) * split_depth < depth, "{what}");
            assert!(split_depth.is_multiple_of(tile.step), "{what}");
            // All others read 16 bytes of a tap at once.
            let fits = (channels * format.bytes()).is_multiple_of(16);
            assert!(tile.kernel == PLAIN.kernel || fits, "{what}");
            let blocks = plan.tiles * splits;
            assert!(blocks >= 100 || depth < 4096 || pixels < 128, "idle: {blocks}, {what}");
        }
    }
}
