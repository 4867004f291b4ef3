//! Recipes: reading back how a picture was made.
//!
//! From a PNG of ours the JSON is read, from others A1111's text or SwarmUI's JSON: a PNG's `parameters`, or
//! the user comment of a JPEG or WebP. A file may also hold one of them by itself.

use std::{io::Read, path::Path};

use fs_err as fs;
use serde_json::Value;

use crate::{Code, Error, Result, exif, infotext, params::Fields, picture, png, swarm};

/// No picture with a recipe is larger, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// What other programs write, and we do not read: keyword, and whose it is.
const FOREIGN: &[(&str, &str)] = &[
    ("workflow", "ComfyUI"),
    ("prompt", "ComfyUI"),
    ("invokeai_metadata", "InvokeAI"),
    ("sd-metadata", "InvokeAI"),
    ("Dream", "InvokeAI"),
    ("fooocus_scheme", "Fooocus"),
    ("Comment", "NovelAI"),
];

/// What a file tells of how a picture was made; what it does not tell is missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// For [`GenerationParams::apply`](crate::GenerationParams::apply).
    pub fields: Fields,
    /// What cannot be honored, as clauses.
    pub warnings: Vec<String>,
}

impl Recipe {
    /// Reads the recipe of a picture, or a file that is one.
    ///
    /// # Errors
    /// Fails if the file cannot be read or has no recipe that we understand; whose it is, is said.
    pub fn open(path: &Path) -> Result<Recipe> {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
        if bytes.starts_with(b"\x89PNG") {
            return from_texts(path, &png::read_texts(path)?);
        }
        if bytes.starts_with(b"\xFF\xD8") || bytes.starts_with(b"RIFF") {
            let exif = picture::exif(&bytes).map_err(|error| {
                Error::new(Code::Unknown, format!("cannot read `{}`: {error}", path.display()))
                    .because(error)
            })?;
            let comment = exif.as_deref().and_then(exif::user_comment);
            let texts = comment.map(|text| (png::PARAMETERS.to_owned(), text));
            return from_texts(path, texts.as_slice());
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => from_text(path, text),
            Err(_) => from_texts(path, &[]),
        }
    }

    /// Reads a text that is a recipe: our JSON, or A1111's.
    ///
    /// # Errors
    /// Fails if it is neither.
    pub fn parse(text: &str) -> Result<Recipe> {
        from_text(Path::new("the text"), text)
    }
}

fn from_text(path: &Path, text: &str) -> Result<Recipe> {
    let keyword = if text.trim_start().starts_with('{') { png::RECIPE } else { png::PARAMETERS };
    from_texts(path, &[(keyword.to_owned(), text.to_owned())])
}

fn from_texts(path: &Path, texts: &[(String, String)]) -> Result<Recipe> {
    let text = |keyword: &str| texts.iter().find(|(found, _)| found == keyword).map(|(_, t)| t);
    if let Some((fields, warnings)) = text(png::RECIPE).and_then(|text| swarm::read(text)) {
        return Ok(Recipe { fields, warnings });
    }
    if let Some(json) = text(png::RECIPE) {
        return match serde_json::from_str(json) {
            Ok(Value::Object(fields)) => Ok(Recipe { fields, warnings: Vec::new() }),
            Ok(_) => Err(without(path, "it is JSON, but no object")),
            Err(error) => Err(without(path, &format!("it is not valid JSON ({error})"))),
        };
    }
    let parameters = text(png::PARAMETERS);
    let read = parameters.and_then(|text| infotext::read(text).or_else(|| swarm::read(text)));
    if let Some((fields, warnings)) = read {
        return Ok(Recipe { fields, warnings });
    }
    let json_of_others = text(png::PARAMETERS).is_some_and(|text| text.starts_with('{'));
    let foreign = FOREIGN.iter().find(|(keyword, _)| text(keyword).is_some());
    Err(match foreign {
        _ if json_of_others => without(path, "what it has is in a form of another program"),
        Some((_, program)) => without(path, &format!("what it has is in {program}'s own form")),
        None => without(path, "it has none"),
    })
}

fn without(path: &Path, reason: &str) -> Error {
    let message = format!("cannot read a recipe from `{}`: {reason}", path.display());
    Error::new(Code::Unknown, message)
        .hint("recipes are read from our pictures, from those of A1111 and SwarmUI (PNG, JPEG, WebP), and from JSON")
}

#[cfg(test)]
mod tests {
    use image::{
        ExtendedColorType, ImageEncoder,
        codecs::{jpeg::JpegEncoder, webp::WebPEncoder},
    };

    use super::*;
    use crate::{GenerationParams, files::Existing, params};

    fn read(name: &str, content: &[u8]) -> Result<GenerationParams> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let recipe = Recipe::open(&path)?;
        let mut params = GenerationParams::default();
        params.apply(recipe.fields)?;
        Ok(params)
    }

    #[test]
    fn our_pictures_give_back_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let image = engine::Image { width: 1, height: 1, pixels: vec![0; 3] };
        png::save(&path, Existing::Keep, &image, &params::elaborate()).unwrap();
        let read = read("b.png", &fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, params::elaborate());
    }

    #[test]
    fn either_form_by_itself() {
        let json = params::elaborate().to_json().to_string();
        assert_eq!(read("a.json", json.as_bytes()).unwrap(), params::elaborate());
        let text = infotext::write(&params::elaborate());
        assert_eq!(read("a.txt", text.as_bytes()).unwrap().prompt, params::elaborate().prompt);
    }

    #[test]
    fn user_comments_of_jpeg_and_webp() {
        let text = "a fox\nSteps: 5, Seed: 77, Size: 64x32";
        let mut comment = b"UNICODE\0".to_vec();
        comment.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
        // A directory with a pointer to a directory with the comment.
        let mut exif = b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1A\0\0\0\0".to_vec();
        exif.extend(b"\0\x01\x92\x86\0\x07");
        exif.extend(u32::try_from(comment.len()).unwrap().to_be_bytes());
        exif.extend(b"\0\0\0\x2C\0\0\0\0");
        exif.extend(comment);

        let (mut jpeg, mut webp) = (Vec::new(), Vec::new());
        let mut encoder = JpegEncoder::new(&mut jpeg);
        encoder.set_exif_metadata(exif.clone()).unwrap();
        encoder.write_image(&[0; 3], 1, 1, ExtendedColorType::Rgb8).unwrap();
        let mut encoder = WebPEncoder::new_lossless(&mut webp);
        encoder.set_exif_metadata(exif).unwrap();
        encoder.write_image(&[0; 3], 1, 1, ExtendedColorType::Rgb8).unwrap();
        for (name, bytes) in [("a.jpg", jpeg), ("a.webp", webp)] {
            let params = read(name, &bytes).unwrap();
            assert_eq!((params.prompt.as_str(), params.seed), ("a fox", Some(77)), "{name}");
            assert_eq!((params.width, params.height), (64, 32));
        }
    }

    #[test]
    fn what_has_none_says_so() {
        for (content, reason) in [
            (&b""[..], "it has none"),
            (b"a fox", "it has none"),
            (b"\xFF\xFE\x00\xC0", "it has none"),
            (b"{\"steps\": ", "not valid JSON"),
        ] {
            let error = read("a.txt", content).unwrap_err();
            assert!(error.message().contains(reason), "{error}");
        }
        let mut png = Vec::new();
        let mut encoder = ::png::Encoder::new(&mut png, 1, 1);
        encoder.add_text_chunk("workflow".into(), "{}".into()).unwrap();
        encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
        let error = read("a.png", &png).unwrap_err();
        assert!(error.message().contains("ComfyUI"), "{error}");
    }
}
