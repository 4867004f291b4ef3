//! PyTorch files (`.ckpt`, `.pt`, `.pth`, `.bin`): the tensors in them, read as data.
//!
//! Python runs such files. Here the [`machine`] interprets their instructions into plain values, knows the
//! few names that models need ([`globals`]), and refuses every other by name. Two layouts are read: the
//! [`zip`] archive that PyTorch writes since version 1.6, and the older sequence of pickles with the raw
//! data behind it.
//!
//! What comes out is what a safetensors header says: names, types, shapes and where the numbers are. They
//! stay in the file until they are asked for.
//!
//! **Invariants:** nothing is executed. Every tensor lies inside the file. Whatever the file claims, reading
//! its description takes less than 256 MiB.

mod globals;
mod machine;
mod zip;

use std::{collections::BTreeMap, fmt::Write, path::Path};

use fs_err as fs;

use self::{
    machine::{Heap, Value, View, printable},
    zip::{Archive, Extent},
};
use crate::{
    Error, Result,
    checkpoint::header::{DType, TensorInfo},
};

/// The longest pickle that is read. Those of the largest models have some megabytes.
const MAX_PICKLE: u64 = 64 << 20;
/// How much of an old file is read at first, to find its pickles.
const FIRST_LOOK: u64 = 1 << 20;
/// Levels of dictionaries and lists around a tensor.
const MAX_DEPTH: usize = 32;
/// Values that are looked at for tensors: lists may hold each other many times over.
const MAX_VISITS: usize = 4_000_000;
const MAX_TENSORS: usize = 200_000;
/// Bytes of a name, and of all names together.
const MAX_NAME: usize = 4096;
const MAX_NAMES: usize = 32 << 20;
/// Elements of a tensor that repeats the same numbers, as an expanded one does.
const MAX_REPEATED: usize = 1 << 20;
/// What is kept of the numbers and texts beside the tensors.
const MAX_METADATA: usize = 1000;
const MAX_METADATA_TEXT: usize = 64 << 10;

/// The first number in an old file, 0x1950a86a20f9469cfc6c in little-endian bytes.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// What keeps a file from being read, without its path.
#[derive(Debug)]
enum Failure {
    /// It ends too early.
    Ends,
    /// It contradicts itself or the format.
    Broken(String),
    /// It wants more than tensors, as the end of "it is a PyTorch file that".
    Refused(String),
    /// It is within the format but beyond measure, as the end of "it is a PyTorch file that".
    TooMuch(String),
    /// It is no file of PyTorch: what it is, with the article.
    Foreign(&'static str),
    Io(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Failure::Ends,
            _ => Failure::Io(error),
        }
    }
}

impl Failure {
    fn of(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Failure::Ends => Error::Damaged { path, problem: "it ends too early".into() },
            Failure::Broken(problem) => Error::Damaged { path, problem },
            Failure::Refused(found) => Error::WrongKind {
                path,
                wanted: "a model file",
                found: format!("a PyTorch file that {found}"),
                advice: "Nothing in it was run; use a safetensors version of it".into(),
            },
            Failure::TooMuch(found) => Error::WrongKind {
                path,
                wanted: "a model file",
                found: format!("a PyTorch file that {found}"),
                advice: "Use a safetensors version of it".into(),
            },
            Failure::Foreign(found) => {
                Error::NotSafetensors { path, found: found.into(), advice: "Name a model file" }
            }
            Failure::Io(error) => Error::Io(error),
        }
    }
}

/// What a PyTorch file holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// By name: keys of dictionaries and places in lists, with dots between them. A tensor that is all
    /// there is has no name.
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    /// Numbers and texts that stand beside the tensors, as text: `global_step`.
    pub(super) metadata: BTreeMap<String, String>,
}

/// How a file is packed, if its first bytes are those of a PyTorch file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Zip,
    Pickles,
}

impl Layout {
    /// What the first bytes of a file promise.
    pub(crate) fn of(start: &[u8]) -> Option<Layout> {
        match start {
            [b'P', b'K', 3, 4, ..] => Some(Layout::Zip),
            [0x80, 1..=5, ..] => Some(Layout::Pickles),
            _ => None,
        }
    }
}

/// Reads what a file holds.
///
/// # Errors
/// [`Error::WrongKind`] names what it asks for beyond tensors, [`Error::Damaged`] says what is wrong with it,
/// [`Error::NotSafetensors`] that it is another kind of archive or pickle.
pub(super) fn open(path: &Path, file: &fs::File, len: u64, layout: Layout) -> Result<Contents> {
    let contents = match layout {
        Layout::Zip => open_zip(file, len),
        Layout::Pickles => open_pickles(file, len),
    };
    contents.map_err(|failure| failure.of(path))
}

fn open_zip(file: &fs::File, len: u64) -> Result<Contents, Failure> {
    let archive = Archive::open(file, len)?;
    let mut pickles = archive
        .names()
        .filter(|name| name.strip_suffix("/data.pkl").is_some_and(|folder| !folder.contains('/')));
    let Some(name) = pickles.next() else {
        return Err(Failure::Foreign("a zip archive without a `data.pkl`"));
    };
    if pickles.next().is_some() {
        return Err(Failure::Broken("it holds two pickles called `data.pkl`".into()));
    }
    let root = name.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    if let Some(order) = archive.find(&format!("{root}byteorder"))?
        && zip::bytes(file, order.begin, order.len.min(16))? != b"little"
    {
        return Err(Failure::TooMuch("has its numbers in another order of bytes".into()));
    }
    let pickle = archive.find(name)?.ok_or(Failure::Ends)?;
    if pickle.len > MAX_PICKLE {
        return Err(too_long());
    }
    let mut heap = Heap::default();
    let bytes = zip::bytes(file, pickle.begin, pickle.len)?;
    let (value, _) = machine::run(&bytes, &mut heap)?;
    drop(bytes);
    let mut data = Vec::with_capacity(heap.storages.len());
    for storage in &heap.storages {
        data.push(archive.find(&format!("{root}data/{}", storage.key))?);
    }
    contents(&heap, &value, &data)
}

fn open_pickles(file: &fs::File, len: u64) -> Result<Contents, Failure> {
    let mut look = FIRST_LOOK;
    let (heap, value, keys, end) = loop {
        let bytes = zip::bytes(file, 0, len.min(look))?;
        match run_pickles(&bytes) {
            // It may go on behind what was read.
            Err(Failure::Ends) if look < len => look *= 8,
            other => break other?,
        }
        if look > MAX_PICKLE {
            return Err(too_long());
        }
    };
    // Behind the pickles: for each storage the number of its elements, and these.
    let mut extents: BTreeMap<&str, Extent> = BTreeMap::new();
    let mut at = end as u64;
    let sizes: BTreeMap<&str, usize> = heap
        .storages
        .iter()
        .map(|storage| (&*storage.key, storage.dtype.map_or(1, DType::size)))
        .collect();
    for key in heap.list(&keys).unwrap_or(&[]) {
        let Value::Text(key) = key else {
            return Err(Failure::Broken("the list of its data holds something else".into()));
        };
        let Some(&size) = sizes.get(&**key) else {
            return Err(Failure::Broken(format!("no tensor uses its data `{}`", printable(key))));
        };
        let count = zip::number::<8>(&zip::bytes(file, at, 8)?, 0).ok_or(Failure::Ends)?;
        let size = size as u64;
        let begin = at + 8;
        let bytes = count
            .checked_mul(size)
            .filter(|bytes| begin.checked_add(*bytes).is_some_and(|end| end <= len));
        let bytes = bytes.ok_or(Failure::Ends)?;
        extents.insert(key, Extent { begin, len: bytes });
        at = begin + bytes;
    }
    let data: Vec<_> =
        heap.storages.iter().map(|storage| extents.get(&*storage.key).copied()).collect();
    contents(&heap, &value, &data)
}

/// Magic number, version, system, the object, and the list of its storages' names; where they end.
fn run_pickles(bytes: &[u8]) -> Result<(Heap, Value, Value, usize), Failure> {
    let mut heap = Heap::default();
    let (magic, mut at) = machine::run(bytes, &mut heap)?;
    if !matches!(magic, Value::Long(number) if *number == MAGIC) {
        return Err(Failure::Foreign("a Python pickle that PyTorch did not write"));
    }
    let mut next = |heap: &mut Heap| {
        let (value, length) = machine::run(&bytes[at..], heap)?;
        at += length;
        Ok::<_, Failure>(value)
    };
    let _version = next(&mut heap)?;
    let system = next(&mut heap)?;
    if matches!(heap.get(&system, "little_endian"), Some(Value::Bool(false))) {
        return Err(Failure::TooMuch("has its numbers in another order of bytes".into()));
    }
    let value = next(&mut heap)?;
    let keys = next(&mut heap)?;
    Ok((heap, value, keys, at))
}

fn too_long() -> Failure {
    Failure::TooMuch(format!(
        "has a pickle of more than {MAX_PICKLE} bytes, and no model needs that"
    ))
}

/// Names the tensors and says where they are. `data`: where the bytes of each storage are.
fn contents(heap: &Heap, value: &Value, data: &[Option<Extent>]) -> Result<Contents, Failure> {
    let mut walk = Walk { heap, data, found: Contents::default(), visits: 0, names: 0 };
    let root = walk.unwrap(value);
    walk.visit(&root, &mut String::new(), 0)?;
    Ok(walk.found)
}

struct Walk<'a> {
    heap: &'a Heap,
    data: &'a [Option<Extent>],
    found: Contents,
    visits: usize,
    names: usize,
}

impl Walk<'_> {
    /// What is inside of the wrapping: under `state_dict`, or a dictionary that is the only thing in
    /// another. Keeps numbers and texts that stand around it.
    fn unwrap(&mut self, value: &Value) -> Value {
        let heap = self.heap;
        let mut value = value;
        for _ in 0..MAX_DEPTH {
            let Some(pairs) = heap.dict(value) else { break };
            for (key, value) in pairs {
                if let (Value::Text(key), Some(text)) = (key, as_text(value))
                    && self.found.metadata.len() < MAX_METADATA
                    && key.len() + text.len() <= MAX_METADATA_TEXT
                {
                    self.found.metadata.insert((**key).to_owned(), text);
                }
            }
            let inner = match (heap.get(value, "state_dict"), pairs) {
                (Some(inner), _) => inner,
                // An embedding's own wrapping, by which it is known.
                (None, [(Value::Text(key), _)]) if **key == *"string_to_param" => break,
                (None, [(_, inner)]) => inner,
                _ => break,
            };
            if heap.dict(inner).is_none() {
                break;
            }
            value = inner;
        }
        value.clone()
    }

    fn visit(&mut self, value: &Value, name: &mut String, depth: usize) -> Result<(), Failure> {
        self.visits += 1;
        if depth > MAX_DEPTH || self.visits > MAX_VISITS {
            return Err(Failure::TooMuch("nests its objects deeper than any model does".into()));
        }
        if name.len() > MAX_NAME {
            return Err(Failure::TooMuch("has longer names than any model does".into()));
        }
        if let Value::Tensor(at) = value {
            return self.add(&self.heap.tensors[*at as usize], name);
        }
        let heap = self.heap;
        let before = name.len();
        let dot = if name.is_empty() { "" } else { "." };
        if let Some(pairs) = heap.dict(value) {
            for (key, value) in pairs {
                match key {
                    Value::Text(key) if key.len() > MAX_NAME => continue,
                    Value::Text(key) => name.extend([dot, key]),
                    Value::Int(key) => write!(name, "{dot}{key}").expect("texts have room"),
                    _ => continue,
                }
                self.visit(value, name, depth + 1)?;
                name.truncate(before);
            }
        } else if let Some(values) = heap.list(value) {
            for (at, value) in values.iter().enumerate() {
                write!(name, "{dot}{at}").expect("texts have room");
                self.visit(value, name, depth + 1)?;
                name.truncate(before);
            }
        }
        Ok(())
    }

    fn add(&mut self, view: &View, name: &str) -> Result<(), Failure> {
        self.names += name.len();
        if self.found.tensors.len() >= MAX_TENSORS || self.names > MAX_NAMES {
            return Err(Failure::TooMuch("holds more tensors than any model does".into()));
        }
        let broken =
            |what: String| Failure::Broken(format!("its tensor `{}` {what}", printable(name)));
        let storage = &self.heap.storages[view.storage as usize];
        let extent = self.data[view.storage as usize];
        let extent = extent.ok_or_else(|| {
            broken(format!("has no data: `{}` is missing", printable(&storage.key)))
        })?;
        // The machine holds views to their storages' counts; these must fit the data that is there.
        let size = view.dtype.size() as u64;
        let unit = if storage.dtype.is_some() { size } else { 1 };
        let needed = storage.first.checked_add(storage.count).and_then(|end| end.checked_mul(unit));
        if needed.is_none_or(|needed| needed > extent.len) {
            return Err(broken(format!(
                "lies in data of {} numbers, of which the file has {} bytes",
                storage.count, extent.len
            )));
        }
        let elements = view.shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let own = (extent.len / size).max(MAX_REPEATED as u64);
        if elements.is_none_or(|elements| elements as u64 > own) {
            return Err(broken(format!("of shape {:?} repeats its numbers too often", view.shape)));
        }
        let begin = extent.begin + storage.first * unit + view.offset * size;
        let info = TensorInfo::strided(view.dtype, view.shape.clone(), view.strides.clone(), begin);
        // Later entries of a dictionary take the place of earlier ones.
        self.found.tensors.insert(name.to_owned(), info);
        Ok(())
    }
}

/// A number or text as text.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some((**text).to_owned()),
        Value::Int(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}
