//! Every rung against the definition, in f64.

use super::*;
use crate::testing::{narrow, numbers, rungs};

/// A convolution by its definition, in f64. `w`: `(outputs, inputs, taps)`.
fn naive(x: &[f32], size: Size, w: &[f32], outputs: usize, window: Window) -> Vec<f64> {
    let (kernel, channels) = (window.kernel, size.channels);
    let (height, width) = (window.outputs(size.height), window.outputs(size.width));
    let mut out = Vec::new();
    for b in 0..size.batch {
        for y in 0..height {
            for column in 0..width {
                for output in 0..outputs {
                    let mut sum = 0.0;
                    for tap in 0..kernel * kernel {
                        let sy = (y * window.stride + tap / kernel).wrapping_sub(window.before);
                        let sx =
                            (column * window.stride + tap % kernel).wrapping_sub(window.before);
                        if sy >= size.height || sx >= size.width {
                            continue;
                        }
                        for c in 0..channels {
                            let x = x[((b * size.height + sy) * size.width + sx) * channels + c];
                            let w = w[(output * channels + c) * kernel * kernel + tap];
                            sum += f64::from(x) * f64::from(w);
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

fn wide<T: Number>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// How far a result may be from the exact one: the sum's rounding, and that of the result.
fn tolerance<T: Number>(exact: f64) -> f64 {
    match T::GROUP {
        1 => 5e-5,
        _ => 2e-4 + exact.abs() * 4e-3,
    }
}

/// What lies beside a layer: as many rows as it makes, and weights.
fn beside<T: Number>(rows: usize, ranks: usize, outputs: usize) -> (Vec<T>, Vec<T>) {
    let [h, up] = [numbers(rows * ranks, 8), numbers(outputs * ranks, 9)].map(|v| narrow(&v));
    (h, up)
}

fn linear_agrees<T: Operand>() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (3, 7, 5),
        (77, 64, 65),
        (1025, 33, 70),
        (50, 700, 48),
        (17, 1300, 16),
        (130, 96, 640),
    ] {
        let x: Vec<T> = narrow(&numbers(rows * inputs, 1));
        let w: Vec<T> = narrow(&numbers(outputs * inputs, 2));
        let bias = numbers(outputs, 3);
        let residual: Vec<T> = narrow(&numbers(rows * outputs, 4));
        let packed = Packed::new(&wide(&w), outputs, inputs, 1, Some(&bias), Sampling::Same);
        let size = Size { batch: 1, height: 1, width: rows, channels: inputs };
        let window = Window { kernel: 1, stride: 1, before: 0, after: 0 };
        let exact = naive(&wide(&x), size, &wide(&w), outputs, window);
        // As wide as one adapter, or as many of them.
        let ranks = if rows % 2 == 0 { 5 } else { 600 };
        let (h, up) = beside::<T>(rows, ranks, outputs);
        let size = Size { channels: ranks, ..size };
        let changes = naive(&wide(&h), size, &wide(&up), outputs, window);
        let up = Packed::new(&wide(&up), outputs, ranks, 1, None, Sampling::Same);
        for isa in rungs() {
            let extras =
                Extras { residual: Some(&residual), beside: Some((&h, &up)), ..Extras::none() };
            let out = linear_with(isa, &x, &packed, &extras);
            for (i, (ours, exact)) in out.iter().zip(&exact).enumerate() {
                let exact = exact
                    + changes[i]
                    + f64::from(bias[i % outputs])
                    + f64::from(residual[i].to_f32());
                let error = (f64::from(ours.to_f32()) - exact).abs();
                assert!(
                    error < tolerance::<T>(exact),
                    "{isa} {rows}x{inputs}x{outputs} {i}: {error}"
                );
            }
        }
    }
}

#[test]
fn linear_is_a_sum_of_products_on_every_rung() {
    linear_agrees::<f32>();
    linear_agrees::<bf16>();
}

fn conv_agrees<T: Operand>() {
    let windows = [
        Window { kernel: 3, stride: 1, before: 1, after: 1 },
        Window { kernel: 3, stride: 2, before: 1, after: 1 },
        Window { kernel: 3, stride: 2, before: 0, after: 1 },
        Window { kernel: 1, stride: 1, before: 0, after: 0 },
    ];
    for (size, outputs) in [
        (Size { batch: 2, height: 5, width: 7, channels: 3 }, 4),
        (Size { batch: 1, height: 40, width: 33, channels: 2 }, 17),
        (Size { batch: 2, height: 8, width: 8, channels: 64 }, 48),
        (Size { batch: 2, height: 6, width: 32, channels: 192 }, 40),
        (Size { batch: 1, height: 3, width: 24, channels: 40 }, 32),
        // With enough tiles for Winograd: whole ones, and some that reach beyond the image.
        (Size { batch: 2, height: 16, width: 16, channels: 48 }, 32),
        (Size { batch: 2, height: 13, width: 18, channels: 16 }, 64),
    ] {
        for window in windows {
            let taps = window.kernel * window.kernel;
            let x: Vec<T> = narrow(&numbers(size.len(), 1));
            let w: Vec<T> = narrow(&numbers(outputs * taps * size.channels, 2));
            let packed = Packed::new(&wide(&w), outputs, size.channels, taps, None, Sampling::Same);
            let rows: Vec<T> = narrow(&numbers(size.batch * outputs, 5));
            let exact = naive(&wide(&x), size, &wide(&w), outputs, window);
            let padded = Padded::new(&x, size);
            let (h, up) = beside::<T>(exact.len() / outputs, 6, outputs);
            let whole = Size { batch: 1, height: 1, width: h.len() / 6, channels: 6 };
            let changes = naive(&wide(&h), whole, &wide(&up), outputs, windows[3]);
            let up = Packed::new(&wide(&up), outputs, 6, 1, None, Sampling::Same);
            // What cancels in Winograd's sums is as large as a sum usually is.
            let usual = ((taps * size.channels) as f64).sqrt() / 3.0;
            let lost = usual * if T::GROUP == 1 { 1e-5 } else { 6e-3 };
            for isa in rungs() {
                let extras = Extras { image_rows: Some(&rows), ..Extras::none() };
                let changed = Extras { beside: Some((&h, &up)), ..extras };
                let (out, _) = conv_with(isa, &padded, &packed, window, &changed);
                for (i, ours) in out.iter().enumerate() {
                    let row = rows[i / (out.len() / size.batch) * outputs + i % outputs];
                    let exact = exact[i] + changes[i] + f64::from(row.to_f32());
                    let error = (f64::from(ours.to_f32()) - exact).abs();
                    assert!(error < tolerance::<T>(exact), "{isa} {size:?} {i}, changed: {error}");
                }
                let (out, out_size) = conv_with(isa, &padded, &packed, window, &extras);
                assert_eq!((out.len(), out_size.len()), (exact.len(), exact.len()));
                let lost = match winograd::applies(isa, &packed, size, window) {
                    true => lost,
                    false => 0.0,
                };
                let image = out.len() / size.batch;
                for (i, (ours, exact)) in out.iter().zip(&exact).enumerate() {
                    let row = rows[i / image * outputs + i % outputs];
                    let exact = exact + f64::from(row.to_f32());
                    let error = (f64::from(ours.to_f32()) - exact).abs();
                    assert!(
                        error < tolerance::<T>(exact) + lost,
                        "{isa} {size:?} {window:?} {i}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn conv_agrees_with_the_definition_for_every_window_on_every_rung() {
    conv_agrees::<f32>();
    conv_agrees::<bf16>();
}

/// Four 2 × 2 kernels on the image are the 3 × 3 kernel on the doubled image.
#[test]
fn doubling_and_convolving_are_one() {
    let size = Size { batch: 2, height: 5, width: 16, channels: 32 };
    let window = Window { kernel: 3, stride: 1, before: 1, after: 1 };
    let (x, w) = (numbers(size.len(), 1), numbers(9 * 20 * 32, 2));
    let large = crate::pointwise::doubled(&x, size, 10, 32);
    let bias = numbers(20, 3);
    let same = Packed::<f32>::new(&w, 20, 32, 9, Some(&bias), Sampling::Same);
    let double = Packed::<f32>::new(&w, 20, 32, 9, Some(&bias), Sampling::Double);
    let half = Packed::<bf16>::new(&w, 20, 32, 9, Some(&bias), Sampling::Double);
    let undoubled: Vec<f32> = double.undoubled().values().collect();
    for (ours, original) in undoubled.iter().zip(same.values()) {
        assert!((ours - original).abs() < 1e-6);
    }
    let small = Padded::new(&x, size);
    let half_x = Padded::new(&narrow::<bf16>(&x), size);
    for isa in rungs() {
        let (expected, expected_size) = conv_with(isa, &large, &same, window, &Extras::none());
        let (out, out_size) = conv_with(isa, &small, &double, window, &Extras::none());
        assert_eq!(out_size, expected_size);
        let (half, _) = conv_with(isa, &half_x, &half, window, &Extras::none());
        for ((ours, half), expected) in out.iter().zip(&half[..]).zip(&expected[..]) {
            assert!((ours - expected).abs() < 2e-5, "{isa}");
            assert!((half.to_f32() - expected).abs() < 0.06 + 4e-3 * expected.abs(), "{isa}");
        }
    }
}

/// Equal but for the rounding of a product before it is added, in which the portable rung differs.
fn close(ours: &[f32], expected: &[f32], isa: Isa) {
    assert_eq!(ours.len(), expected.len());
    for (ours, expected) in ours.iter().zip(expected) {
        assert!((ours - expected).abs() <= 2e-6 * (1.0 + expected.abs()), "{isa}");
    }
}

#[test]
fn activations_are_those_of_single_numbers() {
    let (rows, inputs, outputs) = (40, 32, 64);
    let (x, w) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
    let packed = Packed::<f32>::new(&w, outputs, inputs, 1, None, Sampling::Same);
    for isa in rungs() {
        let with = |activation| {
            let extras = Extras { activation, ..Extras::none() };
            linear_with(isa, &x, &packed, &extras)
        };
        let plain = with(None);
        for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
            let mut expected = Values::from(&plain[..]);
            crate::pointwise::activate(&mut expected, activation);
            close(&with(Some(activation)), &expected, isa);
        }
        close(&with(Some(Activation::Geglu)), &crate::pointwise::geglu(&plain, outputs / 2), isa);
    }
}

/// The rungs that fuse product and sum add in the same order, so f32 is the same to the last bit.
#[test]
fn f32_has_the_same_bits_on_avx2_and_avx512() {
    let (x, w) = (numbers(50 * 1000, 1), numbers(70 * 1000, 2));
    let packed = Packed::<f32>::new(&w, 70, 1000, 1, None, Sampling::Same);
    let mut results = rungs()
        .filter(|isa| *isa >= Isa::Avx2)
        .map(|isa| linear_with(isa, &x, &packed, &Extras::none()));
    if let Some(first) = results.next() {
        assert!(results.all(|result| result == first));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (x, w) = (numbers(1500 * 96, 4), numbers(200 * 96, 5));
    let (f32s, half) = (
        Packed::<f32>::new(&w, 200, 96, 1, None, Sampling::Same),
        Packed::<bf16>::new(&w, 200, 96, 1, None, Sampling::Same),
    );
    let narrowed: Vec<bf16> = narrow(&x);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            (linear(&x, &f32s, &Extras::none()), linear(&narrowed, &half, &Extras::none()))
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3));
}

/// In f32 next to nothing is lost; in bf16 less than by rounding the result.
#[test]
fn winograd_loses_less_than_its_result_is_rounded() {
    let (inputs, outputs) = (160, 32);
    let size = Size { batch: 1, height: 24, width: 24, channels: inputs };
    let window = Window { kernel: 3, stride: 1, before: 1, after: 1 };
    let x: Vec<bf16> = narrow(&numbers(size.len(), 1));
    let w = wide::<bf16>(&narrow(&numbers(outputs * 9 * inputs, 2)));
    let exact = naive(&wide(&x), size, &w, outputs, window);
    let usual = |errors: &mut dyn Iterator<Item = f64>| {
        (errors.map(|error| error * error).sum::<f64>() / exact.len() as f64).sqrt()
    };
    let scale = usual(&mut exact.iter().copied());
    let rounding = usual(&mut exact.iter().map(|&exact| {
        let rounded: bf16 = Number::from_f32(exact as f32);
        f64::from(Number::to_f32(rounded)) - exact
    }));
    let whole = Packed::<f32>::new(&w, outputs, inputs, 9, None, Sampling::Same);
    let half = Packed::<bf16>::new(&w, outputs, inputs, 9, None, Sampling::Same);
    let wide_x = Padded::new(&wide(&x), size);
    let x = Padded::new(&x, size);
    for isa in rungs() {
        let (out, _) = conv_with(isa, &wide_x, &whole, window, &Extras::none());
        let error = usual(&mut out.iter().zip(&exact).map(|(ours, e)| f64::from(*ours) - e));
        assert!(error < 3e-6 * scale, "{isa} f32: {}", error / scale);
        let (out, _) = conv_with(isa, &x, &half, window, &Extras::none());
        let ours = out.iter().map(|ours| f64::from(Number::to_f32(*ours)));
        let error = usual(&mut ours.zip(&exact).map(|(ours, e)| ours - e));
        assert!(error < 1.25 * rounding, "{isa} bf16: {} of the rounding", error / rounding);
    }
}
