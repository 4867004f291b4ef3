//! Times the layers of a Stable Diffusion 1.5 UNet at 512 × 512 with guidance, and of its VAE.
//!
//!     cargo run --release -p impasto-kernels --example layers [FILTER]
//!
//! Prints thousand millions of operations (2 per product) per second and per second of processor time,
//! the best of several runs. `IMPASTO_ISA` picks the rung, `RAYON_NUM_THREADS` the threads.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{hint::black_box, time::Instant};

use half::bf16;
use kernels::{
    Isa, Operand,
    attention::{Heads, attention},
    conv::{Padded, Size, Window},
    norm,
    product::{Activation, Extras, Packed, Sampling, conv, linear},
};

fn numbers<T: Operand>(count: usize) -> Vec<T> {
    let mut state = 1u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            T::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect()
}

/// Seconds of processor time of all threads of this process, from the kernel's own account.
fn processor_seconds() -> f64 {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1e9
}

fn wanted(name: &str) -> bool {
    std::env::args().nth(1).is_none_or(|filter| name.contains(&filter))
}

fn time<R>(name: &str, gflop: f64, mut f: impl FnMut() -> R) {
    let (mut wall, mut cpu) = (f64::MAX, f64::MAX);
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < 1.0 {
        let (begin, before) = (Instant::now(), processor_seconds());
        black_box(f());
        wall = wall.min(begin.elapsed().as_secs_f64());
        cpu = cpu.min(processor_seconds() - before);
    }
    println!(
        "{name:40} {:8.2} ms {:7.0} GFLOP/s {:8.2} ms of processor {:7.0} GFLOP/s",
        wall * 1e3,
        gflop / wall,
        cpu * 1e3,
        gflop / cpu
    );
}

fn run<T: Operand>(kind: &str) {
    let same = Window { kernel: 3, stride: 1, before: 1, after: 1 };
    for (batch, side, inputs, outputs) in [
        (2, 64, 4, 320),
        (2, 64, 320, 320),
        (2, 64, 640, 320),
        (2, 64, 960, 320),
        (2, 32, 640, 640),
        (2, 32, 1280, 640),
        (2, 16, 1280, 1280),
        (2, 16, 2560, 1280),
        (2, 8, 1280, 1280),
        (2, 8, 2560, 1280),
        (2, 64, 320, 4),
        (1, 64, 512, 512),
        (1, 128, 512, 512),
        (1, 256, 512, 256),
        (1, 256, 256, 256),
        (1, 512, 256, 128),
        (1, 512, 128, 128),
        (1, 512, 128, 3),
    ] {
        let name = format!("{kind} conv {batch}x{side}x{side} {inputs}>{outputs}");
        if !wanted(&name) {
            continue;
        }
        let size = Size { batch, height: side, width: side, channels: inputs };
        let x = Padded::new(&numbers::<T>(size.len()), size);
        let w = Packed::<T>::new(
            &numbers(9 * inputs * outputs),
            outputs,
            inputs,
            9,
            None,
            Sampling::Same,
        );
        let gflop = (size.pixels() * 9 * inputs * outputs * 2) as f64 / 1e9;
        time(&name, gflop, || conv(&x, &w, same, &Extras::none()));
    }
    for (rows, inputs, outputs, gated) in [
        (8192, 320, 320, false),
        (8192, 320, 2560, true),
        (8192, 1280, 320, false),
        (8192, 960, 320, false),
        (2048, 640, 640, false),
        (2048, 640, 5120, true),
        (2048, 2560, 640, false),
        (512, 1280, 1280, false),
        (512, 1280, 10240, true),
        (512, 5120, 1280, false),
        (128, 1280, 1280, false),
        (154, 768, 320, false),
    ] {
        let name =
            format!("{kind} linear {rows} {inputs}>{outputs}{}", if gated { " gated" } else { "" });
        if !wanted(&name) {
            continue;
        }
        let x = numbers::<T>(rows * inputs);
        let w =
            Packed::<T>::new(&numbers(inputs * outputs), outputs, inputs, 1, None, Sampling::Same);
        let gflop = (rows * inputs * outputs * 2) as f64 / 1e9;
        let extras = Extras { activation: gated.then_some(Activation::Geglu), ..Extras::none() };
        time(&name, gflop, || linear(&x, &w, &extras));
    }
    for (batch, queries, keys, heads, depth) in [
        (2, 4096, 4096, 8, 40),
        (2, 4096, 77, 8, 40),
        (2, 1024, 1024, 8, 80),
        (2, 1024, 77, 8, 80),
        (2, 256, 256, 8, 160),
        (1, 4096, 4096, 1, 512),
    ] {
        let name = format!("{kind} attention {batch}x{queries}x{keys} {heads}x{depth}");
        if !wanted(&name) {
            continue;
        }
        let sizes = Heads { batch, heads, width: heads * depth };
        let q = numbers::<T>(batch * queries * sizes.width);
        let k = numbers::<T>(batch * keys * sizes.width);
        let gflop = (batch * queries * keys * sizes.width * 4) as f64 / 1e9;
        time(&name, gflop, || attention(&q, &k, &k, sizes, false));
    }
    for (batch, side, channels) in [(2, 64, 320), (2, 32, 640), (2, 16, 1280), (1, 512, 128)] {
        if !wanted(&format!("{kind} group norm")) {
            continue;
        }
        let size = Size { batch, height: side, width: side, channels };
        let x = numbers::<T>(size.len());
        let (gamma, beta) = (vec![1.0; channels], vec![0.0; channels]);
        let giga = size.len() as f64 / 1e9;
        time(&format!("{kind} group norm {batch}x{side}x{side}x{channels} (G/s)"), giga, || {
            norm::group_norm_padded(&x, size, &gamma, &beta, 32, 1e-5, true)
        });
        time(&format!("{kind} layer norm {batch}x{side}x{side}x{channels} (G/s)"), giga, || {
            norm::layer_norm(&x, &gamma, &beta, 1e-5)
        });
    }
}

fn main() {
    println!("{} with {} threads", Isa::current(), rayon::current_num_threads());
    run::<bf16>("bf16");
    run::<f32>("f32");
}
