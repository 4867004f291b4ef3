//! Tensor files: names, shapes and metadata of a safetensors or PyTorch file, and safe access to its data.
//!
//! The header is checked completely before a byte of data is read: its length against the file, each
//! tensor's extent against its type and shape, all extents against each other. Reading data after
//! that can only fail because the file changed. PyTorch files have no header; what stands for it is read
//! as data by [`pickle`](super::pickle), with the same checks.
//!
//! # Why the data is read, not mapped
//!
//! A mapped file that shrinks (a download restarted over it, a network drive gone) kills the program
//! with `SIGBUS`, and no check beforehand can rule that out. Positioned reads through a small buffer
//! return an error instead, use the same page cache, need no `unsafe`, and convert to f32 while the
//! chunk is still in the processor's cache, which costs less than taking page faults.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, btree_map::Entry as Slot},
    fmt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use candle_core::{Device, Tensor};
use fs_err as fs;
use half::f16;
use kernels::pointwise;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{
    Error, Result,
    checkpoint::pickle::{self, Layout},
};

/// The longest header that is read, as in the reference reader. Real ones reach a few megabytes.
const MAX_HEADER: u64 = 100_000_000;

/// How many bytes are read and converted at a time: they stay in the cache, and the memory for them is
/// such as allocators keep.
const CHUNK: usize = 64 * 1024;

/// How many bytes are read at once to gather the elements of a tensor that lie apart, as those of a
/// transposed one do.
const MAX_SPAN: usize = 256 << 20;
/// How many bytes of such a tensor are gathered at a time: each time, all that lies between them is read.
pub(super) const GATHERED: usize = 32 << 20;

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

    /// Whether it holds numbers that may be stored more coarsely.
    pub(super) fn is_float(self) -> bool {
        use DType::{Bf16, F8E4M3, F8E5M2, F16, F32, F64};
        matches!(self, F64 | F32 | F16 | Bf16 | F8E4M3 | F8E5M2)
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
    /// How many elements apart neighbors are along each dimension, unless they follow each other in the
    /// order of the shape.
    strides: Option<Vec<usize>>,
}

impl TensorInfo {
    /// A tensor whose elements lie as far apart as `strides` say, each of them inside the file.
    pub(super) fn strided(
        dtype: DType,
        shape: Vec<usize>,
        strides: Vec<usize>,
        begin: u64,
    ) -> TensorInfo {
        let mut next = 1usize;
        let in_order = shape.iter().zip(&strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == next;
            next = next.saturating_mul(size);
            fits
        });
        let in_order = in_order || shape.contains(&0);
        TensorInfo { dtype, shape, begin, strides: (!in_order).then_some(strides) }
    }

    /// Whether its elements follow each other in the order of its shape.
    pub(super) fn is_in_order(&self) -> bool {
        self.strides.is_none()
    }

    /// How many elements behind its first one a tensor with strides has element `at`, counted in the order
    /// of its shape.
    fn place(&self, strides: &[usize], at: usize) -> usize {
        let mut rest = at;
        let mut place = 0;
        for (&size, &stride) in self.shape.iter().zip(strides).rev() {
            place += rest % size * stride;
            rest /= size;
        }
        place
    }

    /// Number of elements. Fits: the header was checked against the file's size.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One open safetensors or PyTorch file: its header, and its data on demand.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: fs::File,
    len: u64,
    modified: Option<SystemTime>,
    data_begin: u64,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
    is_pickle: bool,
}

impl TensorFile {
    /// Opens a file and checks its whole header.
    ///
    /// # Errors
    /// [`Error::NotSafetensors`] says what the file is instead; [`Error::Damaged`] what is wrong;
    /// [`Error::WrongKind`] what a PyTorch file asks for beyond tensors.
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
        let prefix = start.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        // A length may begin with the bytes of another format, so what is plausible comes first.
        let plausible = prefix.is_some_and(|len| len <= MAX_HEADER) && start.get(8) == Some(&b'{');
        if !plausible && let Some(layout) = Layout::of(start) {
            let pickle::Contents { tensors, metadata } = pickle::open(path, &file, len, layout)?;
            return Ok(TensorFile {
                path: path.to_owned(),
                modified: status.modified().ok(),
                file,
                len,
                data_begin: 0,
                tensors,
                metadata,
                is_pickle: true,
            });
        }
        if !plausible && let Some((found, advice)) = foreign_container(start) {
            return Err(Error::NotSafetensors { path: path.to_owned(), found, advice });
        }
        let Some(header_len) = prefix else {
            return Err(damaged(format!("it is only {len} bytes long")));
        };
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
        let header: Header = serde_json::from_slice(&json)
            .map_err(|error| damaged(format!("its header cannot be read ({error})")))?;

        let mut tensors = BTreeMap::new();
        for (name, entry) in header.entries {
            let info = tensor_info(entry, data_begin).map_err(|problem| {
                damaged(format!("its header is wrong for `{name}`: {problem}"))
            })?;
            tensors.insert(name, info);
        }
        let metadata = header.metadata;
        check_extents(&tensors, data_begin, len).map_err(damaged)?;

        Ok(TensorFile {
            path: path.to_owned(),
            modified: status.modified().ok(),
            file,
            len,
            data_begin,
            tensors,
            metadata,
            is_pickle: false,
        })
    }

    /// Whether it is a PyTorch file, which has no header of its own.
    #[must_use]
    pub fn is_pickle(&self) -> bool {
        self.is_pickle
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

    /// What trainers wrote into the header beside the tensors; of a PyTorch file, the numbers and texts
    /// that stand around them.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Where the data starts: everything before it is the header. 0 in a PyTorch file.
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
        let reader = self.reader(name)?;
        let mut values = vec![0.0; reader.info.elements()];
        reader.read(0, &mut values)?;
        Ok(values)
    }

    /// One tensor, to be read as f32 in parts.
    ///
    /// # Errors
    /// As [`read_f32`](TensorFile::read_f32), but for the type.
    pub(crate) fn reader<'a>(&'a self, name: &'a str) -> Result<TensorReader<'a>> {
        let info = self.tensors.get(name).ok_or_else(|| Error::Incomplete {
            path: self.path.clone(),
            missing: format!("it has no tensor `{name}`"),
            advice: "Get the file again, or use another".into(),
        })?;
        self.check_unchanged()?;
        Ok(TensorReader { file: self, name, info })
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

/// One tensor of a file that was not written to since it was opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorReader<'a> {
    file: &'a TensorFile,
    name: &'a str,
    info: &'a TensorInfo,
}

impl TensorReader<'_> {
    /// Reads the numbers from the `first` on, as many as `to` has room for.
    ///
    /// # Errors
    /// [`Error::Changed`] if the file has become shorter, [`Error::WrongKind`] for a type that holds no
    /// weights.
    ///
    /// # Panics
    /// If the tensor does not have so many.
    pub(crate) fn read(&self, first: usize, to: &mut [f32]) -> Result<()> {
        self.read_with(first, to, |_| Ok(()))
    }

    /// [`read`](TensorReader::read), with a look at each part while it is in the cache.
    fn read_with(
        &self,
        first: usize,
        to: &mut [f32],
        look: impl Fn(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let TensorReader { file, name, info } = *self;
        let size = info.dtype.size();
        let chunk = if info.strides.is_some() { GATHERED } else { CHUNK };
        let parts = (first..).step_by(chunk / size).zip(to.chunks_mut(chunk / size));
        let read = |buffer: &mut Vec<u8>| {
            for (at, to) in parts {
                if buffer.len() < to.len() * size {
                    buffer.resize(to.len() * size, 0);
                }
                let chunk = &mut buffer[..to.len() * size];
                self.read_bytes(at, chunk)?;
                widen(chunk, info.dtype, to).map_err(|dtype| Error::WrongKind {
                    path: file.path.clone(),
                    wanted: "weights",
                    found: format!("stored as {} in `{name}`", dtype.name()),
                    advice: "Weights are F32, F16, BF16, F8 or F64".into(),
                })?;
                look(to)?;
            }
            Ok(())
        };
        thread_local! {
            // A slider reads thousands of small pieces: to clear memory for each would take as long as
            // the reading.
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        match info.strides {
            None => BUFFER.with_borrow_mut(read),
            Some(_) => read(&mut Vec::new()),
        }
    }

    /// Reads the elements from the `first` on as they are stored, little-endian, in the order of the shape.
    /// `to` has room for whole elements.
    ///
    /// # Errors
    /// [`Error::Changed`] if the file has become shorter.
    ///
    /// # Panics
    /// If the tensor does not have so many.
    pub(crate) fn read_bytes(&self, first: usize, to: &mut [u8]) -> Result<()> {
        let TensorReader { file, name, info } = *self;
        let size = info.dtype.size();
        assert!(first + to.len() / size <= info.elements(), "inside the tensor");
        let read = |to: &mut [u8], element: usize| {
            read_at(&file.file, to, info.begin + (element * size) as u64).map_err(|error| {
                Error::Changed {
                    path: file.path.clone(),
                    problem: format!("`{name}` could not be read ({error})"),
                }
            })
        };
        let Some(strides) = &info.strides else { return read(to, first) };
        let places = || (first..first + to.len() / size).map(|at| info.place(strides, at));
        let (Some(low), Some(high)) = (places().min(), places().max()) else { return Ok(()) };
        let span = (high - low + 1) * size;
        if span > MAX_SPAN && to.len() > size {
            // Fewer elements lie closer together; a single one is no span at all.
            let half = to.len() / size / 2;
            let (front, back) = to.split_at_mut(half * size);
            self.read_bytes(first, front)?;
            return self.read_bytes(first + half, back);
        }
        let mut buffer = vec![0; span];
        read(&mut buffer, low)?;
        for (at, to) in (first..).zip(to.chunks_exact_mut(size)) {
            let from = (info.place(strides, at) - low) * size;
            to.copy_from_slice(&buffer[from..from + size]);
        }
        Ok(())
    }

    /// [`read`](TensorReader::read), for numbers that must be such.
    ///
    /// # Errors
    /// Those of [`read`](TensorReader::read), and [`Error::NotFinite`] with an advice, which names the
    /// tensor.
    pub(crate) fn read_finite(
        &self,
        first: usize,
        to: &mut [f32],
        advice: &'static str,
    ) -> Result<()> {
        self.read_with(first, to, |part| {
            if pointwise::all_finite(part) {
                return Ok(());
            }
            let (path, tensor) = (self.file.path.clone(), self.name.to_owned());
            Err(Error::NotFinite { path, tensor, advice })
        })
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

/// Fills a buffer from a place in the file.
#[cfg(unix)]
pub(super) fn read_at(file: &fs::File, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    file.file().read_exact_at(buffer, at)
}

#[cfg(windows)]
pub(super) fn read_at(file: &fs::File, mut buffer: &mut [u8], mut at: u64) -> std::io::Result<()> {
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

/// A header as it is written. It is read into these types directly: a tree of JSON values would take
/// forty times the bytes of a header that is made to be large.
struct Header<'a> {
    entries: BTreeMap<String, Entry<'a>>,
    metadata: BTreeMap<String, String>,
}

/// What is written of one tensor.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de: 'a, 'a> Deserialize<'de> for Header<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<'de>, A::Error> {
                let mut header = Header { entries: BTreeMap::new(), metadata: BTreeMap::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if let Metadata::Texts(texts) = map.next_value()? {
                            header.metadata = texts;
                        }
                        continue;
                    }
                    match header.entries.entry(name) {
                        Slot::Vacant(slot) => slot.insert(map.next_value()?),
                        Slot::Occupied(slot) => {
                            let problem = format!("`{}` is there twice", slot.key());
                            return Err(serde::de::Error::custom(problem));
                        }
                    };
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Metadata never keeps a file from being read: what is not text by name is left out.
enum Metadata {
    Text(String),
    Texts(BTreeMap<String, String>),
    Other,
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;

        impl<'de> Visitor<'de> for Anything {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_str<E>(self, text: &str) -> Result<Metadata, E> {
                Ok(Metadata::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if let Metadata::Text(text) = map.next_value()? {
                        texts.insert(name, text);
                    }
                }
                Ok(Metadata::Texts(texts))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Metadata, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Metadata::Other)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Metadata, E> {
                Ok(Metadata::Other)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Metadata, E> {
                Ok(Metadata::Other)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Metadata, E> {
                Ok(Metadata::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Metadata, E> {
                Ok(Metadata::Other)
            }

            fn visit_unit<E>(self) -> Result<Metadata, E> {
                Ok(Metadata::Other)
            }
        }

        deserializer.deserialize_any(Anything)
    }
}

fn tensor_info(entry: Entry<'_>, data_begin: u64) -> Result<TensorInfo, String> {
    let Entry { dtype, shape, data_offsets: [begin, end] } = entry;
    let dtype = DType::parse(&dtype).ok_or_else(|| format!("its type `{dtype}` is unknown"))?;
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
    // The end is the larger of the two; sums of begin and length are safe after this.
    end.checked_add(data_begin).ok_or("its offsets overflow")?;
    Ok(TensorInfo { dtype, shape, begin: data_begin + begin, strides: None })
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
fn widen(bytes: &[u8], dtype: DType, to: &mut [f32]) -> Result<(), DType> {
    fn each<const N: usize>(to: &mut [f32], bytes: &[u8], f: impl Fn([u8; N]) -> f32) {
        for (to, element) in to.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *to = f(*element);
        }
    }
    match dtype {
        DType::F32 => each(to, bytes, f32::from_le_bytes),
        DType::F16 => pointwise::widen_f16_bytes(bytes, to),
        DType::Bf16 => each(to, bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        DType::F64 => each(to, bytes, |b| f64::from_le_bytes(b) as f32),
        DType::I64 => each(to, bytes, |b| i64::from_le_bytes(b) as f32),
        DType::I32 => each(to, bytes, |b| i32::from_le_bytes(b) as f32),
        // Unscaled f8 is f16 or f32 with fewer bits (formats: e4m3fn has no infinities).
        DType::F8E5M2 => each(to, bytes, |[b]: [u8; 1]| f16::from_le_bytes([0, b]).to_f32()),
        DType::F8E4M3 => each(to, bytes, |[b]: [u8; 1]| f8_e4m3(b)),
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use half::bf16;

    use super::*;

    /// A file's bytes: length, header, data.
    fn bytes(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn open(bytes: &[u8]) -> Result<TensorFile> {
        let (_folder, path) = file(bytes);
        TensorFile::open(&path)
    }

    const TWO: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F16","shape":[],"data_offsets":[8,10]}}"#;

    #[test]
    fn a_good_file_is_read() {
        let (_folder, path) = file(&bytes(TWO, &[0, 0, 128, 63, 0, 0, 0, 192, 0, 60]));
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.read_f32("a").unwrap(), [1.0, -2.0]);
        assert_eq!(file.read_f32("b").unwrap(), [1.0]);
        assert_eq!(file.tensors()["b"].shape, [0usize; 0]);
        assert_eq!(file.size(), file.data_begin() + 10);
        let missing = file.read_f32("c").unwrap_err();
        assert!(matches!(missing, Error::Incomplete { .. }), "{missing}");
    }

    #[test]
    fn tensors_may_be_empty() {
        let header = r#"{"mark":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},
            "a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let (_folder, path) = file(&bytes(header, &[7]));
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.read_f32("mark").unwrap(), [0f32; 0]);
        let wrong = file.read_f32("a").unwrap_err();
        assert!(matches!(wrong, Error::WrongKind { .. }), "{wrong}");
    }

    #[test]
    fn every_float_type_is_widened_exactly() {
        for (dtype, data, expected) in [
            ("F64", &1.5f64.to_le_bytes()[..], 1.5),
            ("F32", &(-0.1f32).to_le_bytes(), -0.1),
            ("F16", &f16::from_f32(65504.0).to_le_bytes(), 65504.0),
            ("BF16", &bf16::from_f32(-3.0).to_le_bytes(), -3.0),
            ("F8_E5M2", &[0x3e], 1.5),
            ("F8_E4M3", &[0xbc], -1.5),
            ("F8_E4M3", &[0x7e], 448.0),
            ("F8_E4M3", &[0x01], 2f32.powi(-9)),
            ("I64", &77i64.to_le_bytes(), 77.0),
        ] {
            let header = format!(
                r#"{{"a":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,{}]}}}}"#,
                data.len()
            );
            let (_folder, path) = file(&bytes(&header, data));
            assert_eq!(
                TensorFile::open(&path).unwrap().read_f32("a").unwrap(),
                [expected],
                "{dtype}"
            );
        }
        assert!(f8_e4m3(0x7f).is_nan() && f8_e4m3(0xff).is_nan());
    }

    #[test]
    fn metadata_is_optional_and_forgiving() {
        let metadata = r#"{"a":"b","c":1,"d":{"e":"f"},"g":[1,"h"],"i":null,"j":0.5,"k":true}"#;
        let file = open(&bytes(&format!(r#"{{"__metadata__":{metadata}}}"#), &[])).unwrap();
        assert_eq!(file.metadata().iter().collect::<Vec<_>>(), [(&"a".into(), &"b".into())]);
        for metadata in ["null", "[1]", "7", "\"text\""] {
            let file = open(&bytes(&format!(r#"{{"__metadata__":{metadata}}}"#), &[])).unwrap();
            assert!(file.metadata().is_empty());
        }
        // Writers pad the header with spaces.
        assert!(open(&bytes("{}     ", &[])).is_ok());
    }

    #[test]
    fn a_length_that_begins_like_a_pickle_is_a_length() {
        // 640 is 0x0280: the first bytes of a pickle.
        let header = format!("{:<640}", "{}");
        assert!(open(&bytes(&header, &[])).is_ok());
    }

    #[test]
    fn other_formats_are_named() {
        for (content, found) in [
            (&b""[..], "empty"),
            (b"  \n", "empty"),
            (b"\x80\x02}q\x00.", "a Python pickle"),
            (b"\x80\x04\x95\x02\0\0\0\0\0\0\0]\x94.", "a Python pickle"),
            (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
            (b"GGUF\x03\0\0\0", "a GGUF file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a git-LFS pointer"),
            (b"<!DOCTYPE html>", "a web page"),
            (b"\n <html>", "a web page"),
            (b"{\"error\": \"not found\"}", "a JSON text"),
            (b"hello, this is no model", "a text file"),
            ("schöne Grüße".as_bytes(), "a text file"),
            (&[0xfe; 64], "of an unknown format"),
        ] {
            match open(content) {
                Err(Error::NotSafetensors { found: actual, .. }) => {
                    assert!(actual.starts_with(found), "{actual} instead of {found}");
                }
                other => panic!("{found}: {other:?}"),
            }
        }
    }

    #[test]
    fn damage_is_described() {
        let entry = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let pair = |second: &str| {
            format!(r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},{second}}}"#)
        };
        let mut bomb = (1u64 << 60).to_le_bytes().to_vec();
        bomb.extend(b"{}");
        let mut long = 1000u64.to_le_bytes().to_vec();
        long.extend(b"{}");
        let whole = bytes(TWO, &[0; 10]);
        let cut_header = whole[..whole.len() - 30].to_vec();
        let cut_data = whole[..whole.len() - 1].to_vec();
        let mut longer = whole;
        longer.push(0);
        for (content, problem) in [
            (vec![1, 2, 3, 0], "only 4 bytes long"),
            (bomb, "claims 1152921504606846976 bytes, more than"),
            (long, "claims 1000 bytes, but the file has only 10"),
            (cut_header, "but the file has only"),
            (cut_data, "`b` should end at byte"),
            (longer, "1 bytes at its end belong to no tensor"),
            (bytes("{\"a\":", &[]), "cannot be read"),
            (bytes("{} x", &[]), "cannot be read"),
            (bytes(&entry("F32", "[1]", "[0]"), &[0; 4]), "cannot be read"),
            (bytes(&entry("F32", "[-1]", "[0,4]"), &[0; 4]), "cannot be read"),
            (bytes(&entry("F31", "[1]", "[0,4]"), &[0; 4]), "its type `F31` is unknown"),
            (bytes(&entry("F32", "[2]", "[0,4]"), &[0; 4]), "needs 8 bytes"),
            (bytes(&entry("F32", "[1]", "[4,0]"), &[0; 4]), "offsets are 4 to 0"),
            (bytes(&entry("F32", "[4294967296,4294967296]", "[0,0]"), &[]), "shape overflows"),
            (
                bytes(&entry("U8", &format!("[{}]", u64::MAX), &format!("[0,{}]", u64::MAX)), &[]),
                "offsets overflow",
            ),
            (bytes(&entry("U8", "[1]", "[1,2]"), &[0; 2]), "leaves a gap"),
            (
                bytes(&pair(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}"#), &[0; 6]),
                "overlaps",
            ),
            (
                bytes(&pair(r#""b":{"dtype":"U8","shape":[1],"data_offsets":[900,901]}"#), &[0; 6]),
                "`b` should end at byte",
            ),
            (
                bytes(&pair(r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#), &[0; 4]),
                "`a` is there twice",
            ),
        ] {
            match open(&content) {
                Err(error @ Error::Damaged { .. }) => {
                    let text = error.to_string();
                    assert!(text.contains(problem), "expected `{problem}`: {text}");
                }
                other => panic!("expected `{problem}`: {other:?}"),
            }
        }
    }

    #[test]
    fn a_file_that_changes_while_open_is_noticed() {
        let (_folder, path) = file(&bytes(TWO, &[0; 10]));
        let opened = TensorFile::open(&path).unwrap();
        assert!(opened.is_current());
        fs::write(&path, bytes(TWO, &[0; 9])).unwrap();
        assert!(!opened.is_current());
        for result in [opened.read_f32("a").map(drop), opened.sha256().map(drop)] {
            assert!(matches!(result, Err(Error::Changed { .. })), "{result:?}");
        }
    }

    #[test]
    fn hashes_are_of_the_file_and_of_its_data() {
        let (_folder, path) = file(&bytes("{}", &[]));
        let hashes = TensorFile::open(&path).unwrap().sha256().unwrap();
        // SHA-256 of nothing begins with e3b0c442.
        assert_eq!(hashes.data[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        assert_ne!(hashes.file, hashes.data);
    }
}
