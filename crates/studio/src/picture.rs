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
