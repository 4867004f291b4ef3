//! Tensor files: names, shapes and metadata of a safetensors file, and safe access to its data.
//!
//! The header is checked completely before a byte of data is read: its length against the file, each
//! tensor's extent against its type and shape, all extents against each other. Reading data after
//! that can only fail because the file changed.
//!
//! # Why the data is read, not mapped
//!
//! A mapped file that shrinks (a download restarted over it, a network drive gone) kills the program
//! with `SIGBUS`, and no check beforehand can rule that out. Positioned reads through a small buffer
//! return an error instead, use the same page cache, need no `unsafe`, and convert to f32 while the
//! chunk is still in the processor's cache, which costs less than taking page faults.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use candle_core::{Device, Tensor};
use fs_err as fs;
use half::{bf16, f16};
use serde_json::Value;

use crate::{Error, Result};

/// The longest header that is read, as in the reference reader. Real ones reach a few megabytes.
const MAX_HEADER: u64 = 100_000_000;

/// How many bytes are read and converted at a time: a few of these fit a second-level cache.
const CHUNK: usize = 256 * 1024;

/// The element types that model files use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum DType {
    F64,
    F32,
    F16,
    Bf16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl DType {
    const TABLE: &[(&str, DType, usize)] = &[
        ("F64", DType::F64, 8),
        ("F32", DType::F32, 4),
        ("F16", DType::F16, 2),
        ("BF16", DType::Bf16, 2),
        ("F8_E4M3", DType::F8E4M3, 1),
        ("F8_E5M2", DType::F8E5M2, 1),
        ("I64", DType::I64, 8),
        ("I32", DType::I32, 4),
        ("I16", DType::I16, 2),
        ("I8", DType::I8, 1),
        ("U8", DType::U8, 1),
        ("BOOL", DType::Bool, 1),
    ];

    fn parse(name: &str) -> Option<DType> {
        Self::TABLE.iter().find(|row| row.0 == name).map(|row| row.1)
    }

    fn row(self) -> &'static (&'static str, DType, usize) {
        Self::TABLE.iter().find(|row| row.1 == self).expect("every type has its row")
    }

    /// The name that safetensors gives it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes per element.
    #[must_use]
    pub fn size(self) -> usize {
        self.row().2
    }
}

/// What the header says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first; empty for a single number.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    begin: u64,
}

impl TensorInfo {
    /// Number of elements. Fits: the header was checked against the file's size.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One open safetensors file: its header, and its data on demand.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: fs::File,
    len: u64,
    modified: Option<SystemTime>,
    data_begin: u64,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Opens a file and checks its whole header.
    ///
    /// # Errors
    /// [`Error::NotSafetensors`] says what the file is instead; [`Error::Damaged`] what is wrong.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let file = fs::File::open(path)?;
        let status = file.metadata()?;
        if status.is_dir() {
            return Err(Error::NotSafetensors {
                path: path.to_owned(),
                found: "a folder".into(),
                advice: "Name the file in it",
            });
        }
        let len = status.len();
        let damaged = |problem: String| Error::Damaged { path: path.to_owned(), problem };

        let mut start = [0u8; 512];
        let got = usize::try_from(len).unwrap_or(usize::MAX).min(start.len());
        read_at(&file, &mut start[..got], 0)?;
        let start = &start[..got];
        if let Some((found, advice)) = foreign_container(start) {
            return Err(Error::NotSafetensors { path: path.to_owned(), found, advice });
        }
        let Some((prefix, _)) = start.split_first_chunk::<8>() else {
            return Err(damaged(format!("it is only {len} bytes long")));
        };
        let header_len = u64::from_le_bytes(*prefix);
        if start.get(8) != Some(&b'{') {
            return Err(Error::NotSafetensors {
                path: path.to_owned(),
                found: "of an unknown format".into(),
                advice: "Model files start with a header that describes their tensors",
            });
        }
        if header_len > MAX_HEADER {
            return Err(damaged(format!(
                "its header claims {header_len} bytes, more than any model needs ({MAX_HEADER})"
            )));
        }
        let data_begin = 8 + header_len;
        if data_begin > len {
            return Err(damaged(format!(
                "its header claims {header_len} bytes, but the file has only {len}"
            )));
        }
        let mut json = vec![0u8; usize::try_from(header_len).expect("at most 100 MB")];
        read_at(&file, &mut json, 8)?;
        let header: serde_json::Map<String, Value> = serde_json::from_slice(&json)
            .map_err(|error| damaged(format!("its header is not valid JSON ({error})")))?;

        let mut tensors = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        for (name, value) in header {
            if name == "__metadata__" {
                // Metadata never keeps a file from being read: what is not a string is left out.
                if let Value::Object(entries) = value {
                    metadata.extend(entries.into_iter().filter_map(|(key, value)| match value {
                        Value::String(text) => Some((key, text)),
                        _ => None,
                    }));
                }
                continue;
            }
            let info = tensor_info(&value, data_begin).map_err(|problem| {
                damaged(format!("its header is wrong for `{name}`: {problem}"))
            })?;
            tensors.insert(name, info);
        }
        check_extents(&tensors, data_begin, len).map_err(damaged)?;

        Ok(TensorFile {
            path: path.to_owned(),
            modified: status.modified().ok(),
            file,
            len,
            data_begin,
            tensors,
            metadata,
        })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes the file has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Every tensor by its name in the file, sorted by name.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// What trainers wrote into the header beside the tensors.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Where the data starts: everything before it is the header.
    #[must_use]
    pub fn data_begin(&self) -> u64 {
        self.data_begin
    }

    /// Reads one tensor as f32, in the file's order.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if there is no such tensor, [`Error::Changed`] if the file is no longer
    /// the one that was opened, [`Error::WrongKind`] for a type that holds no weights.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.tensors.get(name).ok_or_else(|| Error::Incomplete {
            path: self.path.clone(),
            missing: format!("it has no tensor `{name}`"),
            advice: "Get the file again, or use another".into(),
        })?;
        self.check_unchanged()?;
        let mut values = Vec::with_capacity(info.elements());
        let mut buffer = vec![0u8; CHUNK.min(info.elements() * info.dtype.size())];
        let mut at = info.begin;
        let end = info.begin + (info.elements() * info.dtype.size()) as u64;
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let chunk = &mut buffer[..len];
            read_at(&self.file, chunk, at).map_err(|error| Error::Changed {
                path: self.path.clone(),
                problem: format!("`{name}` could not be read ({error})"),
            })?;
            append_f32(&mut values, chunk, info.dtype).map_err(|dtype| Error::WrongKind {
                path: self.path.clone(),
                wanted: "weights",
                found: format!("stored as {} in `{name}`", dtype.name()),
                advice: "Weights are F32, F16, BF16, F8 or F64".into(),
            })?;
            at += len as u64;
        }
        Ok(values)
    }

    /// Reads one tensor as f32 in its shape.
    ///
    /// # Errors
    /// As [`read_f32`](TensorFile::read_f32).
    pub fn read_tensor(&self, name: &str) -> Result<Tensor> {
        let values = self.read_f32(name)?;
        Ok(Tensor::from_vec(values, &self.tensors[name].shape[..], &Device::Cpu)?)
    }

    /// Whether the path still leads to the file that was opened, unchanged.
    #[must_use]
    pub fn is_current(&self) -> bool {
        fs::metadata(&self.path)
            .is_ok_and(|status| status.len() == self.len && status.modified().ok() == self.modified)
    }

    /// Compares size and date with those at the time of opening.
    fn check_unchanged(&self) -> Result<()> {
        let status = self.file.metadata()?;
        let problem = if status.len() != self.len {
            format!("it had {} bytes and now has {}", self.len, status.len())
        } else if status.modified().ok() != self.modified {
            "it was written to".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Changed { path: self.path.clone(), problem })
    }

    /// The SHA-256 of the whole file, and of everything behind its header (A1111's "AutoV3").
    ///
    /// # Errors
    /// Fails if the file cannot be read to its end.
    pub fn sha256(&self) -> Result<Hashes> {
        use sha2::{Digest, Sha256};

        self.check_unchanged()?;
        let (mut whole, mut data) = (Sha256::new(), Sha256::new());
        let mut buffer = vec![0u8; CHUNK];
        let mut at = 0;
        while at < self.len {
            // The first chunk ends where the header does, so that no chunk belongs to both.
            let end = if at < self.data_begin { self.data_begin } else { self.len };
            let len = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            read_at(&self.file, &mut buffer[..len], at)?;
            whole.update(&buffer[..len]);
            if at >= self.data_begin {
                data.update(&buffer[..len]);
            }
            at += len as u64;
        }
        Ok(Hashes { file: whole.finalize().into(), data: data.finalize().into() })
    }
}

/// The two hashes that identify a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashes {
    /// SHA-256 of the whole file; its first ten hex digits are A1111's model hash ("AutoV2").
    pub file: [u8; 32],
    /// SHA-256 of everything behind the header; its first twelve hex digits are A1111's LoRA hash.
    pub data: [u8; 32],
}

#[cfg(unix)]
fn read_at(file: &fs::File, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    file.file().read_exact_at(buffer, at)
}

#[cfg(windows)]
fn read_at(file: &fs::File, mut buffer: &mut [u8], mut at: u64) -> std::io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        match file.file().seek_read(buffer, at)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                at += read as u64;
            }
        }
    }
    Ok(())
}

/// What a file that is not safetensors is, judged by its first bytes, and what to do with it.
fn foreign_container(start: &[u8]) -> Option<(String, &'static str)> {
    const GET_AGAIN: &str = "Download it again, from the page's download button";
    let text = start.iter().position(|byte| !byte.is_ascii_whitespace()).map(|at| &start[at..]);
    let is_text = !start.contains(&0)
        && std::str::from_utf8(start).map_or_else(|e| e.valid_up_to() + 4 > start.len(), |_| true);
    Some(match (start, text) {
        ([], _) | (_, None) => ("empty".into(), GET_AGAIN),
        ([b'P', b'K', 3, 4, ..], _) => (
            "a zip archive, as PyTorch writes `.ckpt`, `.pt` and `.bin` files".into(),
            "Such files can run code when they are opened; use a safetensors version of it",
        ),
        ([0x80, 0..=5, ..], _) => (
            "a Python pickle, as old PyTorch files are".into(),
            "Such files can run code when they are opened; use a safetensors version of it",
        ),
        ([0x89, b'P', b'N', b'G', ..], _) => ("a PNG picture".into(), "Name a model file"),
        ([0xff, 0xd8, 0xff, ..], _) => ("a JPEG picture".into(), "Name a model file"),
        ([b'G', b'G', b'U', b'F', ..], _) => {
            ("a GGUF file".into(), "Quantised files are not supported yet; use a safetensors file")
        }
        (_, Some(text)) if text.starts_with(b"version https://git-lfs") => (
            "a git-LFS pointer, a note that stands for the real file".into(),
            "Fetch the real file with `git lfs pull`",
        ),
        (_, Some(text)) if text.starts_with(b"<") && is_text => {
            ("a web page (HTML)".into(), GET_AGAIN)
        }
        (_, Some(text)) if text.starts_with(b"{") && is_text => ("a JSON text".into(), GET_AGAIN),
        _ if is_text => ("a text file".into(), GET_AGAIN),
        _ => return None,
    })
}

fn tensor_info(value: &Value, data_begin: u64) -> Result<TensorInfo, String> {
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or("it has no type")?;
    let dtype = DType::parse(dtype).ok_or_else(|| format!("its type `{dtype}` is unknown"))?;
    let list = |key: &str| -> Option<Vec<u64>> {
        value.get(key)?.as_array()?.iter().map(Value::as_u64).collect()
    };
    let shape = list("shape").ok_or("it has no shape")?;
    let offsets = list("data_offsets").ok_or("it has no data offsets")?;
    let &[begin, end] = offsets.as_slice() else {
        return Err(format!("it has {} data offsets instead of 2", offsets.len()));
    };
    let bytes = shape
        .iter()
        .try_fold(dtype.size() as u64, |product, &dim| product.checked_mul(dim))
        .ok_or("its shape overflows")?;
    if end.checked_sub(begin) != Some(bytes) {
        return Err(format!(
            "its shape {shape:?} needs {bytes} bytes, its offsets are {begin} to {end}"
        ));
    }
    let shape = shape
        .into_iter()
        .map(usize::try_from)
        .collect::<Result<_, _>>()
        .map_err(|_| "its shape overflows")?;
    let begin = begin.checked_add(data_begin).ok_or("its offsets overflow")?;
    Ok(TensorInfo { dtype, shape, begin })
}

/// The tensors must tile the data without gap or overlap, as the format demands.
fn check_extents(
    tensors: &BTreeMap<String, TensorInfo>,
    data_begin: u64,
    len: u64,
) -> Result<(), String> {
    let mut extents: Vec<_> = tensors
        .iter()
        .map(|(name, info)| {
            (info.begin, info.begin + (info.elements() * info.dtype.size()) as u64, name)
        })
        .collect();
    extents.sort_unstable();
    let mut at = data_begin;
    for (begin, end, name) in extents {
        if end > len {
            return Err(format!(
                "`{name}` should end at byte {end}, but the file has only {len} bytes"
            ));
        }
        if begin != at {
            let what = if begin < at { "overlaps the tensor before it" } else { "leaves a gap" };
            return Err(format!("its header is wrong: `{name}` {what}"));
        }
        at = end;
    }
    if at != len {
        return Err(format!("{} bytes at its end belong to no tensor", len - at));
    }
    Ok(())
}

/// Appends a chunk of raw little-endian elements as f32; the type itself if it holds no weights.
fn append_f32(values: &mut Vec<f32>, bytes: &[u8], dtype: DType) -> Result<(), DType> {
    fn each<const N: usize>(values: &mut Vec<f32>, bytes: &[u8], to: impl Fn([u8; N]) -> f32) {
        values.extend(bytes.as_chunks::<N>().0.iter().map(|&element| to(element)));
    }
    match dtype {
        DType::F32 => each(values, bytes, f32::from_le_bytes),
        DType::F16 => each(values, bytes, |b| f16::from_le_bytes(b).to_f32()),
        DType::Bf16 => each(values, bytes, |b| bf16::from_le_bytes(b).to_f32()),
        DType::F64 => each(values, bytes, |b| f64::from_le_bytes(b) as f32),
        DType::I64 => each(values, bytes, |b| i64::from_le_bytes(b) as f32),
        DType::I32 => each(values, bytes, |b| i32::from_le_bytes(b) as f32),
        // Unscaled f8 is f16 or f32 with fewer bits (formats: e4m3fn has no infinities).
        DType::F8E5M2 => each(values, bytes, |[b]: [u8; 1]| f16::from_le_bytes([0, b]).to_f32()),
        DType::F8E4M3 => each(values, bytes, |[b]: [u8; 1]| f8_e4m3(b)),
        other @ (DType::I16 | DType::I8 | DType::U8 | DType::Bool) => return Err(other),
    }
    Ok(())
}

/// One sign bit, four exponent bits with bias 7, three mantissa bits; `0x7f` and `0xff` are NaN.
fn f8_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 0x7f) {
        (_, 0x7f) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}
