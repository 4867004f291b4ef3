//! How long the operations take on a real card, at the sizes of SD 1.5 and SDXL. Not a test:
//! `cargo test -p impasto-cuda --release --features nvidia times -- --ignored --nocapture`.

use std::time::Instant;

use super::*;
use crate::{
    attention::{Heads, attention},
    low_rank::{Base, Factors, low_rank},
    norm::{Norm, group_norm, layer_norm},
    pointwise,
    testing::{cards, numbers},
};

/// A buffer whose values do not matter, but are no NaNs and not all the same.
fn any(card: &Card, len: usize, format: Format) -> Buffer {
    const PERIOD: usize = 1 << 16;
    let some = numbers(PERIOD.min(len), 1);
    let values: Vec<f32> = some.iter().copied().cycle().take(len).collect();
    Buffer::upload(card, &values, format).unwrap()
}

/// Seconds of one run, when many are queued.
fn seconds<T>(card: &Card, mut run: impl FnMut() -> Result<T>) -> f64 {
    const LEAST: f64 = 0.03;
    let end = any(card, 1, Format::F32);
    let mut times = |count: usize| {
        let begin = Instant::now();
        for _ in 0..count {
            run().unwrap();
        }
        // Waits for all.
        end.download().unwrap();
        begin.elapsed().as_secs_f64()
    };
    times(3);
    let mut count = 5;
    loop {
        match times(count) {
            enough if enough > LEAST => return enough / count as f64,
            _ => count *= 4,
        }
    }
}

fn print(what: &str, seconds: f64, (work, unit): (f64, &str)) {
    println!("{what:<64} {:>9.1} µs {:>8.1} {unit}", seconds * 1e6, work / seconds / 1e12);
}

const FLOPS: &str = "TFLOP/s";
const BYTES: &str = "TB/s";

/// Batch, height, width, channels, kernel, outputs, whether gated.
const PRODUCTS: [(usize, usize, usize, usize, usize, usize, bool); 13] = [
    (2, 64, 64, 320, 3, 320, false),
    (2, 32, 32, 640, 3, 640, false),
    (2, 16, 16, 1280, 3, 1280, false),
    (2, 8, 8, 1280, 3, 1280, false),
    (2, 128, 128, 320, 3, 320, false),
    (2, 32, 32, 1280, 3, 1280, false),
    (1, 512, 512, 256, 3, 256, false),
    (1, 1, 8192, 320, 1, 320, false),
    (1, 1, 8192, 320, 1, 2560, true),
    (1, 1, 2048, 1280, 1, 1280, false),
    (1, 1, 2048, 1280, 1, 10240, true),
    (1, 1, 2048, 5120, 1, 1280, false),
    (1, 1, 154, 2048, 1, 1280, false),
];

fn products(card: &Card, format: Format) {
    for (batch, height, width, channels, kernel, outputs, gated) in PRODUCTS {
        let size = Size { batch, height, width, channels };
        let pad = kernel / 2;
        let window = Window { kernel, stride: 1, before: pad, after: pad };
        let values = any(card, outputs * kernel * kernel * channels, format);
        let w = Weights::new(values, None, outputs, channels, kernel);
        let x = any(card, size.len(), format);
        let activation = gated.then_some(Activation::Geglu);
        let extras = Extras { activation, ..Extras::default() };
        let (out, to) = conv(&x, size, &w, window, None, &extras).unwrap();
        let flops = 2.0 * (size.len() * kernel * kernel * outputs) as f64;
        let what = format!("{format:?} {batch}×{height}×{width}×{channels} k{kernel} → {outputs}");
        let whole = seconds(card, || conv(&x, size, &w, window, None, &extras));
        print(&format!("{what} as it is done"), whole, (flops, FLOPS));
        let job = ProductJob {
            format,
            input: x.address(),
            size,
            doubled: None,
            window,
            weights: w.values().unwrap().address(),
            outputs,
            bias: None,
            image_rows: None,
            activation,
            residual: None,
            output: out.address(),
            output_size: to,
        };
        let chosen = Plan::of(&job).tile;
        let tiles: &[Tile] = if format == Format::F32 { &EXACT_TILES } else { &TILES };
        for tile in tiles {
            let plan = Plan::with(&job, *tile, MOST_SPLITS);
            let mark = if *tile == chosen { " (chosen)" } else { "" };
            let time = seconds(card, || own(card, &job, &plan));
            let what = format!("{what} {}, {} parts{mark}", tile.kernel, plan.splits);
            print(&what, time, (flops, FLOPS));
        }
    }
}

fn attentions(card: &Card, format: Format) {
    for (batch, heads, queries, keys, depth) in [
        (2, 8, 4096, 4096, 40),
        (2, 8, 1024, 1024, 80),
        (2, 8, 256, 256, 160),
        (2, 8, 4096, 77, 40),
        (2, 10, 4096, 4096, 64),
        (2, 20, 1024, 1024, 64),
        (1, 1, 4096, 4096, 512),
        (1, 1, 16384, 16384, 512),
    ] {
        let width = heads * depth;
        let rows = |count: usize| any(card, batch * count * width, format);
        let (q, k, v) = (rows(queries), rows(keys), rows(keys));
        let sizes = Heads { batch, heads, width };
        let time = seconds(card, || attention(&q, &k, &v, sizes, false));
        let flops = 4.0 * (batch * queries * keys * width) as f64;
        let what =
            format!("{format:?} attention {batch}×{heads} {queries} × {keys}, depth {depth}");
        print(&what, time, (flops, FLOPS));
    }
}

/// What takes as long as memory does.
fn passes(card: &Card, format: Format) {
    let per_number = 2.0 * format.bytes() as f64;
    let ones = |channels: usize| any(card, channels, Format::F32);
    for (batch, side, channels) in
        [(2, 64, 320), (2, 8, 1280), (2, 128, 320), (1, 512, 256), (1, 1024, 128)]
    {
        let size = Size { batch, height: side, width: side, channels };
        let (x, gamma, beta) = (any(card, size.len(), format), ones(channels), ones(channels));
        let norm = Norm { gamma: &gamma, beta: &beta, eps: 1e-5 };
        let time = seconds(card, || group_norm(&x, size, &norm, 32, true));
        let bytes = per_number * size.len() as f64;
        print(&format!("{format:?} group_norm {batch}×{side}²×{channels}"), time, (bytes, BYTES));
    }
    for (rows, channels) in [(8192, 320), (2048, 1280)] {
        let (x, gamma, beta) = (any(card, rows * channels, format), ones(channels), ones(channels));
        let norm = Norm { gamma: &gamma, beta: &beta, eps: 1e-5 };
        let time = seconds(card, || layer_norm(&x, &norm));
        let bytes = per_number * x.len() as f64;
        print(&format!("{format:?} layer_norm {rows}×{channels}"), time, (bytes, BYTES));
        let time = seconds(card, || pointwise::concat(&x, channels, &x, channels));
        print(&format!("{format:?} concat {rows}×{channels}"), time, (2.0 * bytes, BYTES));
        let time = seconds(card, || pointwise::add(&x, &x));
        print(&format!("{format:?} add {rows}×{channels}"), time, (1.5 * bytes, BYTES));
    }
    for (outputs, inputs, kernel, ranks) in
        [(320, 320, 3, 0), (1280, 1280, 3, 16), (1280, 1280, 3, 128), (10240, 1280, 1, 64)]
    {
        let width = inputs * kernel * kernel;
        let values = any(card, outputs * width, Format::F16);
        let (left, right) = (any(card, outputs * ranks, format), any(card, ranks * width, format));
        let base = Base { values: &values, outputs, inputs, kernel };
        let factors = Factors { left: &left, right: &right, ranks };
        let time = seconds(card, || low_rank(&base, None, Some(&factors), format));
        let bytes = (2 + format.bytes()) as f64 * values.len() as f64;
        let what = format!("{format:?} low_rank {outputs}×{width}, rank {ranks}");
        print(&what, time, (bytes, BYTES));
    }
}

#[test]
#[ignore = "takes times, on a real card only"]
fn times() {
    // The first card is no card.
    for card in cards().into_iter().skip(1) {
        for format in [Format::F16, Format::Bf16, Format::F32] {
            products(&card, format);
            attentions(&card, format);
            passes(&card, format);
        }
    }
}
