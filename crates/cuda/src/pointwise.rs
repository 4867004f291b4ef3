//! Functions of single numbers, and copies: activations, sums, concatenation, other orders and formats.

use crate::{
    Buffer, Format, Result, Size,
    launch::{Geometry, launch, narrow, params},
    product::Activation,
};

/// Threads of a block.
const THREADS: usize = 256;

params! {
    /// That of functions of single numbers.
    struct EachParams {
        input: u64,
        other: u64,
        output: u64,
        count: u64,
        factor: f32,
        offset: f32,
        function: u32,
        unused: u32,
    }
}

params! {
    /// That of the concatenation, in pieces of the kernel's size.
    struct ConcatParams {
        left: u64,
        right: u64,
        output: u64,
        rows: u32,
        left_channels: u32,
        right_channels: u32,
        unused: u32,
    }
}

params! {
    /// That of the ways to planes and back.
    struct PlanesParams {
        input: u64,
        output: u64,
        batch: u32,
        pixels: u32,
        channels: u32,
        unused: u32,
    }
}

params! {
    /// That of conversions.
    struct ConvertParams { input: u64, output: u64, count: u64, from: u32, unused: u32 }
}

params! {
    /// That of scaling columns.
    struct ScaleParams { input: u64, scales: u64, output: u64, count: u64, columns: u32, unused: u32 }
}

/// A thread for every eight numbers.
fn by_eight(count: usize) -> Geometry {
    Geometry::row(count.div_ceil(8), THREADS, THREADS)
}

/// `f(factor · x + offset)`, plus another number.
fn each(
    x: &Buffer,
    (factor, offset): (f32, f32),
    function: u32,
    other: Option<&Buffer>,
) -> Result<Buffer> {
    let out = Buffer::new(x.card(), x.len(), x.format())?;
    if !x.is_empty() {
        let params = EachParams {
            input: x.address(),
            other: other.map_or(0, Buffer::address),
            output: out.address(),
            count: x.len() as u64,
            factor,
            offset,
            function,
            unused: 0,
        };
        let kernel = format!("each_{}", x.format().suffix());
        launch(x.card(), &kernel, by_eight(x.len()), &params)?;
    }
    Ok(out)
}

/// What a function is given that is given the numbers themselves.
const SAME: (f32, f32) = (1.0, 0.0);

/// A function of each number, for any activation but the gated one.
///
/// # Panics
/// For [`Activation::Geglu`], which is one of two.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn activate(x: &Buffer, activation: Activation) -> Result<Buffer> {
    assert_ne!(activation, Activation::Geglu, "a function of one number");
    each(x, SAME, Activation::code(Some(activation)), None)
}

/// `3 tanh(x / 3)`: what TAESD does to latents.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn soft_clamp(x: &Buffer) -> Result<Buffer> {
    const SOFT_CLAMP: u32 = 6;
    each(x, SAME, SOFT_CLAMP, None)
}

/// `factor · x + offset`: what brings pictures from one range of numbers to another.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn affine(x: &Buffer, factor: f32, offset: f32) -> Result<Buffer> {
    each(x, (factor, offset), Activation::code(None), None)
}

/// The sums of the numbers at the same places.
///
/// # Panics
/// If the lengths or formats do not agree.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn add(a: &Buffer, b: &Buffer) -> Result<Buffer> {
    assert_eq!((a.len(), a.format()), (b.len(), b.format()), "numbers of the same kind");
    each(a, SAME, Activation::code(None), Some(b))
}

/// The rows of `b` behind those of `a`: `(rows, C)` and `(rows, D)` become `(rows, C + D)`.
///
/// # Panics
/// If there are no whole rows, not as many of both, or of different formats.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn concat(a: &Buffer, a_channels: usize, b: &Buffer, b_channels: usize) -> Result<Buffer> {
    let rows = a.len() / a_channels;
    assert_eq!((a.len(), b.len()), (rows * a_channels, rows * b_channels), "as many whole rows");
    assert_eq!(a.format(), b.format(), "one format");
    let out = Buffer::new(a.card(), a.len() + b.len(), a.format())?;
    let bytes = a.format().bytes();
    let divides = |piece: usize| {
        (a_channels * bytes).is_multiple_of(piece) && (b_channels * bytes).is_multiple_of(piece)
    };
    let piece = if divides(16) { 16 } else { bytes };
    if rows > 0 {
        let params = ConcatParams {
            left: a.address(),
            right: b.address(),
            output: out.address(),
            rows: narrow(rows),
            left_channels: narrow(a_channels * bytes / piece),
            right_channels: narrow(b_channels * bytes / piece),
            unused: 0,
        };
        let pieces = rows * (a_channels + b_channels) * bytes / piece;
        let geometry = Geometry::row(pieces, THREADS, THREADS);
        launch(a.card(), &format!("concat_{piece}"), geometry, &params)?;
    }
    Ok(out)
}

fn turn(kernel: &str, x: &Buffer, size: Size, to: Format) -> Result<Buffer> {
    /// Pixels and channels of a block.
    const TILE: usize = 32;
    assert_eq!(x.len(), size.len(), "an image of another size");
    let out = Buffer::new(x.card(), x.len(), to)?;
    if !x.is_empty() {
        let pixels = size.height * size.width;
        let params = PlanesParams {
            input: x.address(),
            output: out.address(),
            batch: narrow(size.batch),
            pixels: narrow(pixels),
            channels: narrow(size.channels),
            unused: 0,
        };
        let geometry = Geometry {
            grid: [pixels.div_ceil(TILE), size.channels.div_ceil(TILE), size.batch],
            threads: THREADS,
            shared: TILE * (TILE + 1) * 4,
        };
        launch(x.card(), kernel, geometry, &params)?;
    }
    Ok(out)
}

/// Images in planes, `(B, C, H, W)` in f32, as latents and pictures come, to pixels, `(B, H, W, C)`.
///
/// # Panics
/// If there are not as many numbers as the size says, or they are not in f32.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn from_planes(planes: &Buffer, size: Size, format: Format) -> Result<Buffer> {
    assert_eq!(planes.format(), Format::F32, "planes in f32");
    turn(&format!("from_planes_{}", format.suffix()), planes, size, format)
}

/// Images in pixels, `(B, H, W, C)`, to planes, `(B, C, H, W)` in f32.
///
/// # Panics
/// If there are not as many numbers as the size says.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn to_planes(x: &Buffer, size: Size) -> Result<Buffer> {
    turn(&format!("to_planes_{}", x.format().suffix()), x, size, Format::F32)
}

/// The same numbers, rounded to a format.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn convert(x: &Buffer, format: Format) -> Result<Buffer> {
    let out = Buffer::new(x.card(), x.len(), format)?;
    if !x.is_empty() {
        let params = ConvertParams {
            input: x.address(),
            output: out.address(),
            count: x.len() as u64,
            from: x.format() as u32,
            unused: 0,
        };
        let kernel = format!("convert_{}", format.suffix());
        launch(x.card(), &kernel, by_eight(x.len()), &params)?;
    }
    Ok(out)
}

/// A matrix whose columns are multiplied with a number each, rounded once.
///
/// * `x`: `(rows, columns)` in f32
/// * `scales`: one for each column
///
/// # Panics
/// If the sizes or formats do not agree.
///
/// # Errors
/// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
pub fn scale_columns(x: &Buffer, scales: &[f32], format: Format) -> Result<Buffer> {
    assert_eq!(x.format(), Format::F32, "a matrix in f32");
    assert!(!scales.is_empty() && x.len().is_multiple_of(scales.len()), "whole rows");
    let scales = Buffer::upload(x.card(), scales, Format::F32)?;
    let out = Buffer::new(x.card(), x.len(), format)?;
    if !x.is_empty() {
        let params = ScaleParams {
            input: x.address(),
            scales: scales.address(),
            output: out.address(),
            count: x.len() as u64,
            columns: narrow(scales.len()),
            unused: 0,
        };
        let kernel = format!("scale_columns_{}", format.suffix());
        launch(x.card(), &kernel, Geometry::row(x.len(), THREADS, THREADS), &params)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FORMATS, assert_close, cards, numbers, random, wide};

    #[test]
    fn columns_are_scaled() {
        for card in cards() {
            for (format, _) in FORMATS {
                for (rows, columns) in [(1, 1), (7, 3), (300, 5)] {
                    let (x, exact) = random(&card, rows * columns, 1, Format::F32);
                    let scales = numbers(columns, 2);
                    let exact: Vec<f64> = (exact.iter().enumerate())
                        .map(|(at, x)| x * f64::from(scales[at % columns]))
                        .collect();
                    let ours = scale_columns(&x, &scales, format).unwrap();
                    assert_close(&ours, &exact, 0.51, 0.5, &format!("{format:?} {rows}x{columns}"));
                }
            }
        }
    }

    #[test]
    fn functions_of_single_numbers_are_right() {
        for card in cards() {
            for (format, _) in FORMATS {
                for len in [1, 8, 2051] {
                    let x: Vec<f32> = numbers(len, 1).iter().map(|x| 6.0 * x).collect();
                    let x = Buffer::upload(&card, &x, format).unwrap();
                    let exact = |f: fn(f64) -> f64| wide(&x).into_iter().map(f).collect::<Vec<_>>();
                    let check = |out: Buffer, f: fn(f64) -> f64| {
                        let tolerance = if format == Format::F32 { 4.0 } else { 0.51 };
                        assert_close(&out, &exact(f), tolerance, 1.0, &format!("{format:?} {len}"));
                    };
                    check(activate(&x, Activation::Silu).unwrap(), |x| x / (1.0 + (-x).exp()));
                    check(activate(&x, Activation::Relu).unwrap(), |x| x.max(0.0));
                    check(activate(&x, Activation::Gelu).unwrap(), crate::product::tests::gelu);
                    check(activate(&x, Activation::QuickGelu).unwrap(), |x| {
                        x / (1.0 + (-1.702 * x).exp())
                    });
                    check(soft_clamp(&x).unwrap(), |x| 3.0 * (x / 3.0).tanh());
                    check(affine(&x, 0.5, 0.5).unwrap(), |x| (x + 1.0) / 2.0);
                    check(add(&x, &x).unwrap(), |x| x + x);
                }
            }
        }
    }

    #[test]
    fn concat_keeps_rows_together() {
        for card in cards() {
            for (format, _) in FORMATS {
                for (left, right) in [(2, 1), (8, 16), (3, 5), (320, 8)] {
                    let (a, a_exact) = random(&card, 5 * left, 1, format);
                    let (b, b_exact) = random(&card, 5 * right, 2, format);
                    let rows = a_exact.chunks(left).zip(b_exact.chunks(right));
                    let exact: Vec<f64> = rows.flat_map(|(a, b)| [a, b].concat()).collect();
                    assert_eq!(wide(&concat(&a, left, &b, right).unwrap()), exact);
                }
            }
        }
    }

    #[test]
    fn planes_and_pixels_turn_into_each_other() {
        for card in cards() {
            for (format, _) in FORMATS {
                for (height, width, channels) in [(1, 2, 3), (9, 5, 4), (33, 2, 70)] {
                    let size = Size { batch: 2, height, width, channels };
                    let planes: Vec<f32> = (0..size.len()).map(|i| (i % 251) as f32).collect();
                    let planes = Buffer::upload(&card, &planes, Format::F32).unwrap();
                    let pixels = from_planes(&planes, size, format).unwrap();
                    let expected: kernels::Values<f32> = kernels::pointwise::from_planes(
                        &planes.download().unwrap(),
                        kernels::conv::Size { batch: 2, height, width, channels },
                    );
                    assert_eq!(pixels.download().unwrap(), expected[..], "{format:?} {size:?}");
                    assert_eq!(wide(&to_planes(&pixels, size).unwrap()), wide(&planes));
                }
            }
        }
    }

    #[test]
    fn numbers_are_rounded_as_the_processor_does() {
        for card in cards() {
            let mut values: Vec<f32> = numbers(1000, 1);
            values.extend(numbers(1000, 2).iter().map(|x| x * 1e-5));
            values.extend(numbers(1000, 3).iter().map(|x| x * 3e-7));
            values.extend([65504.0, 65519.9, 65520.0, -1e6, 0.0, -0.0, f32::INFINITY, 1e-40]);
            let buffer = Buffer::upload(&card, &values, Format::F32).unwrap();
            for (format, _) in FORMATS {
                let expected = Buffer::upload(&card, &values, format).unwrap();
                let converted = convert(&buffer, format).unwrap();
                assert_eq!(wide(&converted), wide(&expected), "{format:?}");
                let back = convert(&converted, Format::F32).unwrap();
                assert_eq!(wide(&back), wide(&expected), "{format:?}");
            }
        }
    }
}
