//! Textual-inversion embeddings: a few vectors that stand for a word in the prompt, in each of the forms in
//! which trainers store them.
//!
//! | Stored as | By |
//! | --- | --- |
//! | `string_to_param` with one entry, `*` | A1111 and the first trainer (`.pt`) |
//! | `emb_params`, or `emp_params` | kohya, OneTrainer |
//! | `clip_l` and `clip_g` | everyone, for SDXL's two text encoders |
//! | one tensor, called as the word | diffusers (`learned_embeds`) |
//! | a list of such dictionaries; `emb` and `emb2` | others |
//!
//! An adapter's file may hold some as well, under `bundle_emb.NAME.`, or as vectors that its metadata calls
//! `<embed>` (cloneofsimo/lora): see [`bundled`].
//!
//! Where no name says which text encoder the vectors are for, their width does.

use std::{collections::BTreeMap, path::Path};

use crate::{
    Error, Result,
    checkpoint::header::{TensorFile, TensorInfo},
    inspect,
};

/// Vectors of more tokens than this are no embedding; a chunk of the prompt has 75.
const MAX_VECTORS: usize = 1024;
/// No text encoder is wider.
const MAX_WIDTH: usize = 8192;
/// The widths of the text encoders of SD 1.x and SDXL, of SD 2.x, and of SDXL's second one.
const WIDTHS: &[usize] = &[768, 1024, SECOND_WIDTH];
const SECOND_WIDTH: usize = 1280;

/// Names of tensors, and the text encoder that they are for if the name says it.
const NAMES: &[(&str, Option<Place>)] = &[
    ("emb_params", None),
    ("emp_params", None),
    ("emb", None),
    ("emb2", None),
    ("clip_l", Some(Place::First)),
    ("clip_g", Some(Place::Second)),
];
/// What training leaves beside them.
const IGNORED: &[&str] =
    &["string_to_token.", "optimizer", "emp_params_out", "clip_l_out", "clip_g_out"];
/// The tensors of A1111's form are called by the word that they were trained with, behind this.
const A1111: &str = "string_to_param.";

const ADVICE: &str =
    "Embeddings hold vectors of 768 (SD 1.x), 1024 (SD 2.x), or 768 and 1280 numbers (SDXL)";

/// How the names of an adapter's tensors begin that belong to an embedding, with its name behind it.
const BUNDLE: &str = "bundle_emb.";

/// What the metadata of an adapter says of a tensor that is an embedding.
const EMBED: &str = "<embed>";

/// A textual-inversion embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// The file's name without its ending: the word that calls for it.
    pub name: String,
    /// The word that it was trained with, as the file says it: `*`, `<cat>`; empty if it does not.
    pub tokens: Vec<String>,
    /// The vectors for the first or only text encoder, one for each token.
    pub first: Option<Vec<Vec<f32>>>,
    /// Those for SDXL's second text encoder; as many, if there are both.
    pub second: Option<Vec<Vec<f32>>>,
}

/// A text encoder of the base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Second,
}

/// A tensor with vectors of an embedding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    /// As the file calls it.
    pub(crate) name: &'a str,
    /// Its place in a list, if the file has one.
    entry: u32,
    /// The word that it is called by.
    token: Option<&'a str>,
    place: Place,
    pub(crate) vectors: usize,
    pub(crate) width: usize,
}

/// The tensors of an embedding, if these are one: at least one, and nothing else.
pub(crate) fn parts<'a>(
    tensors: impl IntoIterator<Item = (&'a String, &'a TensorInfo)>,
) -> Option<Vec<Part<'a>>> {
    const MOST: usize = 64;
    let relevant = tensors.into_iter().filter(|(name, _)| {
        let (_, name) = without_entry(name);
        !IGNORED.iter().any(|start| name.starts_with(start))
    });
    let mut parts = Vec::new();
    for (name, info) in relevant {
        parts.push(part(name, info)?);
        (parts.len() <= MOST).then_some(())?;
    }
    parts.sort_by_key(|part| part.entry);
    (!parts.is_empty()).then_some(parts)
}

fn part<'a>(name: &'a str, info: &TensorInfo) -> Option<Part<'a>> {
    let (vectors, width) = match *info.shape {
        [width] => (1, width),
        [vectors, width] => (vectors, width),
        _ => return None,
    };
    let (entry, bare) = without_entry(name);
    let row = NAMES.iter().find(|(known, _)| *known == bare);
    let token = match row {
        Some(_) => None,
        None => Some(bare.strip_prefix(A1111).unwrap_or(bare)),
    };
    // Any tensor may be called by a word, but few words look like one, and few tensors are so wide.
    let is_word = |token: &str| {
        let bracketed = token.starts_with('<') && token.ends_with('>');
        let plain = !token.is_empty() && !token.contains('.') && WIDTHS.contains(&width);
        bare.starts_with(A1111) || bracketed || plain
    };
    if !token.is_none_or(is_word) || vectors == 0 || !(1..=MAX_WIDTH).contains(&width) {
        return None;
    }
    let by_width = if width == SECOND_WIDTH { Place::Second } else { Place::First };
    let place = row.and_then(|row| row.1).unwrap_or(by_width);
    Some(Part { name, entry, token, place, vectors, width })
}

/// The place in a list that stands in front of a name, and the rest of it.
fn without_entry(name: &str) -> (u32, &str) {
    let split = name.split_once('.').and_then(|(entry, rest)| Some((entry.parse().ok()?, rest)));
    split.unwrap_or((0, name))
}

impl Embedding {
    /// What calls for it in a prompt.
    pub(super) fn spellings(&self) -> impl Iterator<Item = String> + '_ {
        // `*` and the like are what trainers call everything.
        let trained = self.tokens.iter().filter(|token| token.chars().any(char::is_alphanumeric));
        let named = [self.name.clone(), format!("embedding:{}", self.name)];
        named.into_iter().chain(trained.cloned())
    }

    /// How many vectors it has for each text encoder.
    #[must_use]
    pub fn vectors(&self) -> usize {
        self.first.as_ref().or(self.second.as_ref()).map_or(0, Vec::len)
    }

    /// Its vectors for the text encoder at a place, if they are of its width.
    pub(crate) fn rows(&self, place: Place, width: usize) -> Option<&[Vec<f32>]> {
        let rows = match place {
            Place::First => self.first.as_deref(),
            Place::Second => self.second.as_deref(),
        };
        rows.filter(|rows| rows.iter().all(|row| row.len() == width))
    }

    /// Makes one of its tensors.
    fn of_parts(file: &TensorFile, parts: &[Part<'_>], name: String) -> Result<Embedding> {
        let wrong = |found: String| Error::WrongKind {
            path: file.path().to_owned(),
            wanted: "an embedding",
            found,
            advice: ADVICE.into(),
        };
        let mut tokens: Vec<&str> = parts.iter().filter_map(|part| part.token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        if tokens.len() > 1 {
            let tokens: Vec<_> = tokens.iter().map(|token| format!("`{token}`")).collect();
            return Err(wrong(format!("several embeddings in one file ({})", tokens.join(", "))));
        }
        let of = |place| {
            vectors(file, parts, place).map_err(|problem| match problem {
                Problem::Shape(found) => wrong(found),
                Problem::Read(error) => error,
            })
        };
        let (first, second) = (of(Place::First)?, of(Place::Second)?);
        if let (Some(first), Some(second)) = (&first, &second)
            && first.len() != second.len()
        {
            return Err(wrong(format!(
                "one with {} vectors for the first text encoder and {} for the second",
                first.len(),
                second.len()
            )));
        }
        let tokens = tokens.into_iter().map(str::to_owned).collect();
        Ok(Embedding { name, tokens, first, second })
    }

    /// Reads an embedding, as safetensors or PyTorch file.
    ///
    /// # Errors
    /// [`Error::WrongKind`] says what the file is instead, [`Error::NotFinite`] that a number is none;
    /// otherwise those of [`TensorFile::open`].
    pub fn open(path: &Path) -> Result<Embedding> {
        let file = TensorFile::open(path)?;
        let parts = parts(file.tensors()).ok_or_else(|| Error::WrongKind {
            path: path.to_owned(),
            wanted: "an embedding",
            found: other(&file),
            advice: ADVICE.into(),
        })?;
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into());
        Embedding::of_parts(&file, &parts, name)
    }

    /// How many tokens of a prompt it takes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.as_ref().or(self.second.as_ref()).map_or(0, Vec::len)
    }

    /// Never true of an embedding that was opened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The name of the embedding that a tensor of an adapter belongs to, and what the tensor is called in it.
pub(crate) fn in_bundle<'a>(file: &'a TensorFile, tensor: &'a str) -> Option<(&'a str, &'a str)> {
    match tensor.strip_prefix(BUNDLE) {
        // A name may have dots in it, the rest does not but for A1111's.
        Some(rest) => rest.split_once(&format!(".{A1111}")).map_or_else(
            || rest.rsplit_once('.'),
            |(name, _)| Some((name, &rest[name.len() + 1..])),
        ),
        None => {
            let marked = file.metadata().get(tensor).is_some_and(|kind| kind == EMBED);
            marked.then_some((tensor, tensor))
        }
    }
}

/// The embeddings that lie in an adapter's file, each by its name, in the order of these.
pub(crate) fn bundled(file: &TensorFile) -> Vec<(String, Result<Embedding>)> {
    let mut bundles: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for tensor in file.tensors().keys() {
        if let Some((name, inside)) = in_bundle(file, tensor)
            && !IGNORED.contains(&inside)
        {
            bundles.entry(name).or_default().push((tensor, inside));
        }
    }
    let read = |(name, tensors): (&str, Vec<(&str, &str)>)| {
        let parts: Option<Vec<Part<'_>>> = tensors
            .into_iter()
            .map(|(tensor, inside)| {
                Some(Part { name: tensor, ..part(inside, &file.tensors()[tensor])? })
            })
            .collect();
        let embedding = match parts {
            Some(parts) => Embedding::of_parts(file, &parts, name.to_owned()),
            None => Err(Error::WrongKind {
                path: file.path().to_owned(),
                wanted: "an embedding",
                found: format!("something else called `{name}`"),
                advice: ADVICE.into(),
            }),
        };
        (name.to_owned(), embedding)
    };
    bundles.into_iter().map(read).collect()
}

/// Why vectors cannot be had.
enum Problem {
    /// What the file is instead, with the article.
    Shape(String),
    Read(Error),
}

/// The vectors for a text encoder, one behind another.
fn vectors(
    file: &TensorFile,
    parts: &[Part<'_>],
    place: Place,
) -> Result<Option<Vec<Vec<f32>>>, Problem> {
    let parts: Vec<_> = parts.iter().filter(|part| part.place == place).collect();
    let Some(first) = parts.first() else { return Ok(None) };
    let widths: BTreeMap<usize, &str> = parts.iter().map(|part| (part.width, part.name)).collect();
    if widths.len() > 1 {
        let widths: Vec<_> =
            widths.iter().map(|(width, name)| format!("{width} in `{name}`")).collect();
        return Err(Problem::Shape(format!("one with vectors of {}", widths.join(" and "))));
    }
    let count = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.vectors));
    if count > MAX_VECTORS {
        return Err(Problem::Shape(format!("a table of {count} vectors")));
    }
    let mut vectors = Vec::with_capacity(count);
    for part in &parts {
        let mut values = vec![0.0; part.vectors * part.width];
        file.reader(part.name)
            .and_then(|tensor| tensor.read_finite(0, &mut values, "use another embedding"))
            .map_err(Problem::Read)?;
        vectors.extend(values.chunks_exact(first.width).map(<[f32]>::to_vec));
    }
    Ok(Some(vectors))
}

/// What a file is that is no embedding.
fn other(file: &TensorFile) -> String {
    if let Some(info) = file.tensors().get("") {
        return format!("a bare tensor {:?} without a name", info.shape);
    }
    match inspect::foreign(std::iter::once(file.tensors())) {
        Some(found) => found.to_owned(),
        None => match file.tensors().iter().next() {
            Some((name, info)) => format!("a file with tensors like `{name}` {:?}", info.shape),
            None => "a file without tensors".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::PathBuf};

    use candle_core::{Device, Tensor};

    use super::*;
    use crate::testing::{repository, write};

    fn fixture(name: &str) -> Result<Embedding> {
        Embedding::open(&repository("tests/fixtures/pickles").join(name))
    }

    /// Widths of the vectors for each text encoder.
    fn widths(embedding: &Embedding) -> (Vec<usize>, Vec<usize>) {
        let of = |vectors: &Option<Vec<Vec<f32>>>| vectors.iter().flatten().map(Vec::len).collect();
        (of(&embedding.first), of(&embedding.second))
    }

    fn saved(tensors: &[(&str, &[usize], f32)]) -> Result<Embedding> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("word.safetensors");
        let tensors: HashMap<_, _> = tensors
            .iter()
            .map(|(name, shape, value)| {
                let tensor = Tensor::full(*value, *shape, &Device::Cpu).unwrap();
                ((*name).to_owned(), tensor)
            })
            .collect();
        write(&tensors, &path);
        Embedding::open(&path)
    }

    #[test]
    fn every_form_is_read() {
        let a1111 = fixture("a1111.pt").unwrap();
        assert_eq!((&*a1111.name, a1111.tokens.as_slice()), ("a1111", &["*".to_owned()][..]));
        assert_eq!(widths(&a1111), (vec![768; 2], vec![]));
        assert_eq!(a1111.first.as_ref().unwrap()[0][..3], [-1.0, -0.75, -0.5]);
        assert_eq!(a1111.len(), 2);

        let diffusers = fixture("learned_embeds.bin").unwrap();
        assert_eq!(diffusers.tokens, ["<cat>"]);
        assert_eq!(widths(&diffusers), (vec![768], vec![]));

        let list = fixture("list.pt").unwrap();
        assert_eq!(widths(&list), (vec![8; 3], vec![]));
        assert_eq!(list.first.unwrap()[2][0], -1.0);

        assert_eq!(widths(&fixture("emb2.pt").unwrap()), (vec![768], vec![1280]));

        let kohya = saved(&[("emb_params", &[4, 768], 1.0)]).unwrap();
        assert_eq!((&*kohya.name, widths(&kohya)), ("word", (vec![768; 4], vec![])));
        let one_trainer =
            saved(&[("emp_params", &[1, 1024], 1.0), ("emp_params_out", &[1, 9], 1.0)]).unwrap();
        assert_eq!(widths(&one_trainer), (vec![1024], vec![]));
        let sdxl = saved(&[("clip_l", &[2, 768], 1.0), ("clip_g", &[2, 1280], 2.0)]).unwrap();
        assert_eq!(widths(&sdxl), (vec![768; 2], vec![1280; 2]));
        // The refiner has the second text encoder alone; tiny models are as wide as they like.
        assert_eq!(widths(&saved(&[("clip_g", &[64], 1.0)]).unwrap()), (vec![], vec![64]));
        assert_eq!(widths(&saved(&[("cat-toy", &[768], 1.0)]).unwrap()), (vec![768], vec![]));
    }

    #[test]
    fn other_files_are_told_what_they_are() {
        let refusal = |embedding: Result<Embedding>| embedding.unwrap_err().to_string();
        for (embedding, reason) in [
            (fixture("bare.pt"), "a bare tensor [1, 7, 8] without a name"),
            (fixture("hostile_system.pt"), "asks for `posix.system`"),
            (fixture("zip.pt"), "a file with tensors like `nothing` [0]"),
            (saved(&[("emb_params", &[2000, 8], 1.0)]), "a table of 2000 vectors"),
            (saved(&[("emb_params", &[1, 77, 768], 1.0)]), "`emb_params` [1, 77, 768]"),
            (saved(&[("<a>", &[8], 1.0), ("<b>", &[8], 1.0)]), "several embeddings in one file"),
            (saved(&[("emb", &[8], 1.0), ("emb2", &[9], 1.0)]), "8 in `emb` and 9 in `emb2`"),
            (
                saved(&[("clip_l", &[2, 768], 1.0), ("clip_g", &[1, 1280], 2.0)]),
                "2 vectors for the first text encoder and 1 for the second",
            ),
            (saved(&[("emb_params", &[1, 8], f32::NAN)]), "not a number"),
        ] {
            let refusal = refusal(embedding);
            assert!(refusal.contains(reason), "{reason}: {refusal}");
        }
    }

    /// Third parties' files, which lie beside the project, if at all.
    #[test]
    fn third_party_embeddings_are_read() {
        let folder: PathBuf = repository("../shared/files/embeddings");
        if !folder.exists() {
            return;
        }
        for (name, width, count, token) in [
            ("EasyNegative.safetensors", 768, 8, None),
            ("a1111_sd21_charturner.pt", 1024, 4, Some("*")),
            ("diffusers_birb_learned_embeds.bin", 768, 1, Some("<birb-style>")),
            ("diffusers_frida_10vec_learned_embeds.bin", 768, 10, Some("<frida>")),
            ("invoke_test_embedding.safetensors", 768, 5, None),
            ("simo_sd15_lora_kiriko2.ti.pt", 768, 1, Some("<krk>")),
        ] {
            let embedding = Embedding::open(&folder.join(name)).unwrap();
            assert_eq!(widths(&embedding), (vec![width; count], vec![]), "{name}");
            assert_eq!(embedding.tokens.first().map(String::as_str), token, "{name}");
        }
        let bare = Embedding::open(&folder.join("reject_prompt_embeds_1x77x768_cat.pt"));
        assert!(bare.unwrap_err().to_string().contains("a bare tensor [1, 77, 768]"));
    }
}
