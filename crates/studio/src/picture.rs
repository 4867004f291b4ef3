//! Pictures to start from: read, turned upright, scaled.

use std::{
    io::{BufReader, Cursor},
    path::Path,
};

use fs_err as fs;
use image::{
    DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage,
    imageops::{self, FilterType},
};

use crate::{Code, Error, Result};

/// No side of a picture that is read is longer, in pixels.
const MAX_SIDE: u32 = 32_768;

/// No picture takes more memory while it is read, in bytes.
const MAX_MEMORY: u64 = 1 << 30;

/// Reads a PNG, JPEG or WebP file, upright, over white where it is transparent.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn open(path: &Path) -> Result<RgbImage> {
    let explain = |error: ImageError| {
        let message = format!("cannot read the picture `{}`: {error}", path.display());
        Error::new(Code::Unknown, message)
            .hint("PNG, JPEG and WebP pictures can be used")
            .because(error)
    };
    let file = BufReader::new(fs::File::open(path)?);
    let mut reader = ImageReader::new(file).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);

    let mut decoder = reader.into_decoder().map_err(explain)?;
    let orientation = decoder.orientation().map_err(explain)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(explain)?;
    image.apply_orientation(orientation);
    Ok(over_white(image))
}

/// Width and height of a picture as it is stored, from its header.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(crate) fn size(path: &Path) -> Result<(u32, u32)> {
    let file = BufReader::new(fs::File::open(path)?);
    let reader = ImageReader::new(file).with_guessed_format()?;
    reader.into_dimensions().map_err(|error| {
        let message = format!("cannot read the picture `{}`: {error}", path.display());
        Error::new(Code::Unknown, message)
            .hint("PNG, JPEG and WebP pictures can be used")
            .because(error)
    })
}

/// The EXIF data of a picture, if it has any.
///
/// # Errors
/// Fails if the picture is in no format that can be read.
pub(crate) fn exif(bytes: &[u8]) -> Result<Option<Vec<u8>>, ImageError> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    reader.into_decoder()?.exif_metadata()
}

fn over_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let (width, height) = image.dimensions();
    let pixels = image
        .as_raw()
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|&[r, g, b, alpha]| {
            let alpha = u16::from(alpha);
            let over = |c: u8| (u16::from(c) * alpha + 255 * (255 - alpha) + 127) / 255;
            // At most 255, as a mean of two bytes.
            [r, g, b].map(|c| over(c) as u8)
        })
        .collect();
    RgbImage::from_raw(width, height, pixels).expect("three bytes for each pixel")
}

/// The size at which a picture is worked on if nobody says otherwise: its own, each side rounded to the
/// next multiple of 8, and scaled down if a side is longer than the engine allows.
#[must_use]
pub fn natural_size(image: &RgbImage) -> (u32, u32) {
    let (width, height) = image.dimensions();
    let scale = (f64::from(engine::MAX_SIDE) / f64::from(width.max(height))).min(1.0);
    let side = |side: u32| {
        let eighths = (f64::from(side) * scale / 8.0).round();
        // From 1 to 512: the scale bounds it.
        eighths.max(1.0) as u32 * 8
    };
    (side(width), side(height))
}

/// Scales a picture (Lanczos) until it just covers `width × height`, and cuts off what juts out, the
/// same on both sides: A1111's "crop and resize".
#[must_use]
pub fn cover(image: &RgbImage, width: u32, height: u32) -> engine::Image {
    let image = without_far_ends(image, width, height);
    let (from_width, from_height) = (u64::from(image.width()), u64::from(image.height()));
    let (to_width, to_height) = (u64::from(width), u64::from(height));
    // One side is exactly the target. The other is at least that, and bounded by `without_far_ends`.
    let (covering_width, covering_height) = if to_width * from_height > to_height * from_width {
        (width, (from_height * to_width / from_width) as u32)
    } else {
        ((from_width * to_height / from_height) as u32, height)
    };
    let scaled = if (covering_width, covering_height) == image.dimensions() {
        image
    } else {
        imageops::resize(&image, covering_width, covering_height, FilterType::Lanczos3)
    };
    let (left, top) = (covering_width / 2 - width / 2, covering_height / 2 - height / 2);
    let pixels = imageops::crop_imm(&scaled, left, top, width, height).to_image();
    engine::Image { width, height, pixels: pixels.into_raw() }
}

/// The brightness of each pixel, as ITU-R BT.601 weighs its colors.
#[must_use]
pub(crate) fn brightness(image: &engine::Image) -> Vec<u8> {
    let pixels = image.pixels.chunks(3);
    // The weights add up to 256.
    pixels
        .map(|c| ((u32::from(c[0]) * 77 + u32::from(c[1]) * 150 + u32::from(c[2]) * 29) >> 8) as u8)
        .collect()
}

/// Scales a picture (Lanczos) until it just fits into `width × height`, and fills what is left with the
/// mean color of its edges.
#[must_use]
pub fn contain(image: &RgbImage, width: u32, height: u32) -> engine::Image {
    let scale = (f64::from(width) / f64::from(image.width()))
        .min(f64::from(height) / f64::from(image.height()));
    let side = |length: u32, most: u32| ((f64::from(length) * scale).round() as u32).clamp(1, most);
    let (inner_width, inner_height) = (side(image.width(), width), side(image.height(), height));
    let inner = imageops::resize(image, inner_width, inner_height, FilterType::Lanczos3);
    let mut all = RgbImage::from_pixel(width, height, image::Rgb(edge_color(&inner)));
    let (left, top) = ((width - inner_width) / 2, (height - inner_height) / 2);
    imageops::replace(&mut all, &inner, i64::from(left), i64::from(top));
    engine::Image { width, height, pixels: all.into_raw() }
}

/// The mean of the outermost pixels.
fn edge_color(image: &RgbImage) -> [u8; 3] {
    let (right, bottom) = (image.width() - 1, image.height() - 1);
    let mut sums = [0u64; 3];
    let mut count = 0;
    for (x, y, pixel) in image.enumerate_pixels() {
        if x == 0 || y == 0 || x == right || y == bottom {
            count += 1;
            for (sum, value) in sums.iter_mut().zip(pixel.0) {
                *sum += u64::from(value);
            }
        }
    }
    // A mean of bytes is a byte.
    sums.map(|sum| (sum / count) as u8)
}

/// The middle of a strip that is more than eight times as long as it should be: scaling all of it could
/// take any amount of memory.
fn without_far_ends(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    const LONGEST: u64 = 8;
    let (from_width, from_height) = image.dimensions();
    let longest = |across: u32, to: u32, to_across: u32| {
        let side = LONGEST * u64::from(across) * u64::from(to) / u64::from(to_across);
        u32::try_from(side).unwrap_or(u32::MAX).max(1)
    };
    let keep_width = from_width.min(longest(from_height, width, height));
    let keep_height = from_height.min(longest(from_width, height, width));
    let (left, top) = ((from_width - keep_width) / 2, (from_height - keep_height) / 2);
    imageops::crop_imm(image, left, top, keep_width, keep_height).to_image()
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, 128])
        })
    }

    #[test]
    fn sizes_are_rounded_and_bounded() {
        for (size, expected) in [
            ((128, 64), (128, 64)),
            ((131, 133), (128, 136)),
            ((3, 5), (8, 8)),
            ((8192, 4096), (4096, 2048)),
            ((20_000, 7), (4096, 8)),
        ] {
            assert_eq!(natural_size(&RgbImage::new(size.0, size.1)), expected, "{size:?}");
        }
    }

    #[test]
    fn the_same_size_changes_no_pixel() {
        let image = gradient(40, 24);
        assert_eq!(cover(&image, 40, 24).pixels, image.into_raw());
    }

    #[test]
    fn the_middle_is_kept() {
        // Twice as wide as needed: the outer quarters go.
        let image = cover(&gradient(160, 80), 40, 40);
        let reds: Vec<u8> = image.pixels.chunks(3).take(40).map(|pixel| pixel[0]).collect();
        assert!(reds.is_sorted(), "{reds:?}");
        assert!((62..=67).contains(&reds[0]) && (187..=193).contains(&reds[39]), "{reds:?}");
        // Cropped without scaling.
        let image = cover(&gradient(48, 40), 40, 40);
        assert_eq!(image.pixels[..3], gradient(48, 40).get_pixel(4, 0).0);
    }

    #[test]
    fn a_picture_that_is_fitted_is_all_there() {
        let image = contain(&gradient(80, 40), 40, 40);
        assert_eq!(image.pixels.len(), 40 * 40 * 3);
        // Above and below it, one color.
        let row = |y: usize| &image.pixels[y * 120..(y + 1) * 120];
        assert_eq!(row(0), row(9));
        assert!(row(0).chunks(3).all(|pixel| pixel == &row(0)[..3]));
        assert!(row(20)[0] < 8 && row(20)[117] > 245, "{:?}", row(20));
        assert_eq!(contain(&gradient(40, 24), 40, 24).pixels, gradient(40, 24).into_raw());
    }

    #[test]
    fn long_strips_need_no_memory() {
        for (width, height) in [(20_000, 2), (1, 30_000), (1, 1), (7, 13)] {
            for (to_width, to_height) in [(512, 512), (64, 8), (8, 4096)] {
                let image = cover(&gradient(width, height), to_width, to_height);
                assert_eq!(image.pixels.len(), to_width as usize * to_height as usize * 3);
            }
        }
    }

    #[test]
    fn transparency_becomes_white() {
        let mut image = image::RgbaImage::new(2, 1);
        image.put_pixel(0, 0, image::Rgba([10, 20, 30, 255]));
        image.put_pixel(1, 0, image::Rgba([0, 0, 0, 51]));
        let image = over_white(DynamicImage::ImageRgba8(image));
        assert_eq!(image.into_raw(), [10, 20, 30, 204, 204, 204]);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for content in [&b""[..], b"hello", b"\x89PNG\r\n\x1a\n"] {
            fs::write(&path, content).unwrap();
            let error = open(&path).unwrap_err();
            assert!(error.message().contains("a.png"), "{error}");
        }
    }
}
