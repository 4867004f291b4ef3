//! Pictures as PNG files that carry their recipe.
//!
//! The recipe is written twice: as our versioned JSON under the keyword `impasto`, and as A1111's text
//! under `parameters`, for other programs. Both stand before the pixels. The texts are Latin-1 (`tEXt`)
//! where they can be, which every reader knows, and UTF-8 (`iTXt`) otherwise.

use std::{
    io::{self, BufReader, Write},
    path::Path,
};

use fs_err as fs;
use png::{BitDepth, ColorType, Decoder, Encoder, EncodingError};

use crate::{
    GenerationParams, Result,
    files::{self, Existing},
    infotext,
};

/// The keyword of our JSON.
pub const RECIPE: &str = "impasto";

/// The keyword of A1111's text.
pub const PARAMETERS: &str = "parameters";

/// The keyword of a sheet's axes, as JSON.
pub const SHEET: &str = "impasto-sheet";

/// More text than any recipe has; compressed text is not unpacked beyond it.
const MAX_TEXT: usize = 4 << 20;

/// Writes a picture with its recipe: the whole file or nothing.
///
/// # Errors
/// Names the file and the reason. [`io::ErrorKind::AlreadyExists`] if `existing` says to keep.
pub fn save(
    path: &Path,
    existing: Existing,
    image: &engine::Image,
    recipe: &GenerationParams,
) -> io::Result<()> {
    write(path, existing, image, &recipe_texts(recipe))
}

/// A recipe in both forms, by keyword.
pub(crate) fn recipe_texts(recipe: &GenerationParams) -> Vec<(&'static str, String)> {
    vec![(RECIPE, recipe.to_json().to_string()), (PARAMETERS, infotext::write(recipe))]
}

/// Writes a picture with texts, by keyword: the whole file or nothing.
pub(crate) fn write(
    path: &Path,
    existing: Existing,
    image: &engine::Image,
    texts: &[(&str, String)],
) -> io::Result<()> {
    files::write(path, existing, |writer| encode(writer, image, texts))
}

fn encode(
    writer: &mut dyn Write,
    image: &engine::Image,
    texts: &[(&str, String)],
) -> io::Result<()> {
    let encode = || -> Result<(), EncodingError> {
        let mut encoder = Encoder::new(writer, image.width, image.height);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        for (keyword, text) in texts {
            let (keyword, text) = ((*keyword).to_owned(), text.clone());
            if text.chars().all(|c| u8::try_from(c).is_ok()) {
                encoder.add_text_chunk(keyword, text)?;
            } else {
                encoder.add_itxt_chunk(keyword, text)?;
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&image.pixels)?;
        writer.finish()
    };
    encode().map_err(|error| match error {
        EncodingError::IoError(error) => error,
        other => io::Error::other(other),
    })
}

/// All texts of a PNG file by keyword, wherever they stand in it. Damaged pixels do no harm.
///
/// # Errors
/// Fails if the file cannot be read or is not a PNG.
pub fn read_texts(path: &Path) -> io::Result<Vec<(String, String)>> {
    let invalid = |error| {
        let message = format!("`{}` is not a PNG that can be read: {error}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    let decoder = Decoder::new(BufReader::new(fs::File::open(path)?));
    let mut reader = decoder.read_info().map_err(invalid)?;
    // Texts may also follow the pixels; those that came before an error are good.
    let _ = reader.finish();

    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter();
    let mut texts: Vec<_> =
        plain.map(|chunk| (chunk.keyword.clone(), chunk.text.clone())).collect();
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        if chunk.decompress_text_with_limit(MAX_TEXT).is_ok()
            && let Ok(text) = chunk.get_text()
        {
            texts.push((chunk.keyword, text));
        }
    }
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        if chunk.decompress_text_with_limit(MAX_TEXT).is_ok()
            && let Ok(text) = chunk.get_text()
        {
            texts.push((chunk.keyword, text));
        }
    }
    texts.retain(|(_, text)| text.len() <= MAX_TEXT);
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use png::text_metadata::{ITXtChunk, ZTXtChunk};

    use super::*;
    use crate::params;

    fn image() -> engine::Image {
        engine::Image { width: 3, height: 2, pixels: (0..18).map(|i| i * 14).collect() }
    }

    fn text_of(path: &Path, keyword: &str) -> String {
        let texts = read_texts(path).unwrap();
        texts.into_iter().find(|(found, _)| found == keyword).unwrap().1
    }

    #[test]
    fn pixels_and_both_recipes_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        // One that fits into Latin-1 and one that does not.
        let latin = GenerationParams { prompt: "ein Füchslein".into(), ..Default::default() };
        for recipe in [latin, params::elaborate()] {
            save(&path, Existing::Replace, &image(), &recipe).unwrap();
            assert_eq!(text_of(&path, RECIPE), recipe.to_json().to_string());
            assert_eq!(text_of(&path, PARAMETERS), infotext::write(&recipe));
            let pixels = image::open(&path).unwrap().into_rgb8();
            assert_eq!((pixels.dimensions(), pixels.into_raw()), ((3, 2), image().pixels));
        }
    }

    #[test]
    fn latin_1_text_is_written_for_every_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        save(&path, Existing::Keep, &image(), &GenerationParams::default()).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.windows(15).any(|window| window == b"tEXtparameters\0"));
    }

    #[test]
    fn compressed_texts_and_texts_behind_the_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let mut writer =
            Encoder::new(fs::File::create(&path).unwrap(), 1, 1).write_header().unwrap();
        writer.write_text_chunk(&ZTXtChunk::new("parameters", "zipped é")).unwrap();
        writer.write_image_data(&[0]).unwrap();
        let mut late = ITXtChunk::new("impasto", "late 猫");
        late.compressed = true;
        writer.write_text_chunk(&late).unwrap();
        // A bomb: far more than a recipe.
        writer.write_text_chunk(&ZTXtChunk::new("bomb", "0".repeat(64 << 20))).unwrap();
        writer.finish().unwrap();

        assert_eq!(text_of(&path, "parameters"), "zipped é");
        assert_eq!(text_of(&path, "impasto"), "late 猫");
        assert!(read_texts(&path).unwrap().iter().all(|(keyword, _)| keyword != "bomb"));
    }

    #[test]
    fn damaged_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        save(&path, Existing::Keep, &image(), &GenerationParams::default()).unwrap();
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            // Whatever is left, nothing panics.
            let _ = read_texts(&path);
        }
        // The recipes stand before the pixels, so they survive the loss of the pixels.
        fs::write(&path, &whole[..whole.len() - 30]).unwrap();
        assert!(text_of(&path, RECIPE).contains("dpmpp_2m"));
    }
}
