//! A model file written anew: PyTorch files as safetensors, in another precision, folders as single files,
//! single files as folders.
//!
//! A stack of adapters may be written into the model on the way.
//!
//! A [`Conversion`] is planned from headers alone, and then knows how many bytes it will write. The data is
//! read, converted and written in pieces, so that a model of any size takes a few megabytes of memory. What
//! it is written to is the caller's business.
//!
//! **Invariant:** without a precision every tensor keeps its bits.

mod blend;
mod configs;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use fs_err as fs;
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use self::blend::Blend;
use crate::{
    AdapterUse, Error, Result,
    architecture::TextEncoder,
    checkpoint::{
        Checkpoint, SIZE_WIDTH, Tensors, TextEncoderConfig, VaeConfig, default_clip_heads,
        header::{DType, GATHERED, TensorFile},
        keys::{self, Component, Part},
    },
    model::{clip::ClipConfig, unet::UNetConfig},
    sample::{denoiser::Prediction, training::TrainingSchedule},
};

/// How many bytes are read at a time.
const CHUNK: usize = 4 << 20;

/// Tokens of CLIP, which a single file is taken to know.
const VOCABULARY: usize = 49_408;

/// What is noted of a file's hash is no longer true of the new one.
const HASHES: &[&str] = &["sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"];

/// Under this the metadata says which adapters were written into a model.
const BLEND: &str = "impasto.blend";

/// How a tensor is stored, as far as one can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// 32 bits.
    F32,
    /// 16 bits; numbers beyond 65504 have no place in it.
    F16,
    /// The first 16 bits of 32.
    Bf16,
}

impl Stored {
    fn dtype(self) -> DType {
        match self {
            Stored::F32 => DType::F32,
            Stored::F16 => DType::F16,
            Stored::Bf16 => DType::Bf16,
        }
    }
}

/// A safetensors file that is to be written.
#[derive(Debug)]
pub struct Conversion {
    files: Vec<TensorFile>,
    tensors: Vec<NewTensor>,
    header: Vec<u8>,
    size: u64,
    blend: Option<Arc<Blend>>,
}

/// A tensor of the new file.
#[derive(Debug)]
struct NewTensor {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    /// One behind another, along the first dimension.
    pieces: Vec<Piece>,
}

/// Elements of a tensor that is there, in the order of its shape.
#[derive(Debug, Clone)]
struct Piece {
    file: usize,
    name: String,
    first: usize,
    count: usize,
    /// Of a matrix that is written with rows and columns exchanged: how many columns it has.
    columns: Option<usize>,
}

impl Piece {
    /// What is stored of a tensor of this shape.
    fn of(file: usize, source: &keys::Source, shape: &[usize]) -> Piece {
        let count = shape.iter().product();
        let (first, columns) = match source.part {
            Part::Whole => (0, None),
            Part::Third(third) => (third * count, None),
            Part::Transposed => (0, shape.first().copied()),
        };
        Piece { file, name: source.name.clone(), first, count, columns }
    }
}

impl Conversion {
    /// Plans a file: `path` is a file of any kind of tensors, which keep their names, or a diffusers folder,
    /// which becomes a single file of the original layout.
    ///
    /// # Errors
    /// Those of opening it; [`Error::WrongKind`] for what the new file could not hold.
    pub fn plan(path: &Path, precision: Option<Stored>) -> Result<Conversion> {
        Conversion::plan_blend(path, &[], precision)
    }

    /// The same of a base model, with a stack of adapters written into it.
    ///
    /// # Errors
    /// Also those of adapters that do not fit, or that a file cannot hold: weights over steps.
    pub fn plan_blend(
        path: &Path,
        stack: &[AdapterUse],
        precision: Option<Stored>,
    ) -> Result<Conversion> {
        let (files, tensors, mut metadata) = match fs::metadata(path)?.is_dir() {
            true => of_folder(path)?,
            false => of_file(path)?,
        };
        let blend = Blend::of(path, stack)?;
        metadata.extend(blend.as_ref().map(|blend| (BLEND.to_owned(), blend.describe())));
        Conversion::new(files, tensors, metadata, (precision, blend))
    }

    fn new(
        files: Vec<TensorFile>,
        mut tensors: Vec<NewTensor>,
        metadata: BTreeMap<String, String>,
        (precision, blend): (Option<Stored>, Option<Arc<Blend>>),
    ) -> Result<Conversion> {
        for tensor in tensors.iter_mut().filter(|tensor| tensor.dtype.is_float()) {
            tensor.dtype = precision.map_or(tensor.dtype, Stored::dtype);
        }
        // The widest types first, so that each tensor begins at a multiple of its type's size.
        tensors.sort_by(|a, b| (b.dtype.size(), &a.name).cmp(&(a.dtype.size(), &b.name)));
        let mut entries = Map::new();
        if !metadata.is_empty() {
            entries.insert("__metadata__".into(), json!(metadata));
        }
        let mut end = 0u64;
        for NewTensor { name, dtype, shape, .. } in &tensors {
            let begin = end;
            end += (shape.iter().product::<usize>() * dtype.size()) as u64;
            let entry =
                json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [begin, end]});
            entries.insert(name.clone(), entry);
        }
        let mut json = Value::Object(entries).to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
        let size = header.len() as u64 + end;
        Ok(Conversion { files, tensors, header, size, blend })
    }

    /// Bytes of the new file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of tensors in it.
    #[must_use]
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Writes the whole file.
    ///
    /// # Errors
    /// Those of writing; an error of the engine is inside of one, if a file cannot be read or a number has no
    /// place in the precision.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.header)?;
        for tensor in &self.tensors {
            for piece in &tensor.pieces {
                self.write_piece(tensor, piece, to)?;
            }
        }
        Ok(())
    }

    fn write_piece(&self, tensor: &NewTensor, piece: &Piece, to: &mut dyn Write) -> io::Result<()> {
        let file = &self.files[piece.file];
        let info = &file.tensors()[&piece.name];
        let reader = file.reader(&piece.name).map_err(io::Error::other)?;
        let change = match &self.blend {
            Some(blend) => blend.change(piece.file, &piece.name).map_err(io::Error::other)?,
            None => None,
        };
        if piece.columns.is_some() || change.is_some() {
            let mut values = vec![0.0; piece.count];
            reader.read(piece.first, &mut values).map_err(io::Error::other)?;
            for (value, change) in
                values.iter_mut().zip(change.iter().flat_map(|c| &c[piece.first..]))
            {
                *value += change;
            }
            if let Some(columns) = piece.columns {
                let turned = (0..columns).flat_map(|at| values[at..].iter().step_by(columns));
                values = turned.copied().collect();
            }
            // A float widened to 32 bits is narrowed to the same bits.
            return to.write_all(&narrow_in(file, piece, &values, tensor.dtype)?);
        }
        let bytes = if info.is_in_order() { CHUNK } else { GATHERED };
        let chunk = bytes / info.dtype.size();
        for first in (0..piece.count).step_by(chunk) {
            let count = chunk.min(piece.count - first);
            let first = piece.first + first;
            if info.dtype == tensor.dtype {
                let mut bytes = vec![0; count * info.dtype.size()];
                reader.read_bytes(first, &mut bytes).map_err(io::Error::other)?;
                to.write_all(&bytes)?;
                continue;
            }
            let mut values = vec![0.0; count];
            reader.read(first, &mut values).map_err(io::Error::other)?;
            to.write_all(&narrow_in(file, piece, &values, tensor.dtype)?)?;
        }
        Ok(())
    }
}

/// Values of a piece as little-endian bytes of a type.
fn narrow_in(
    file: &TensorFile,
    piece: &Piece,
    values: &[f32],
    dtype: DType,
) -> io::Result<Vec<u8>> {
    narrow(values, dtype).ok_or_else(|| {
        io::Error::other(Error::WrongKind {
            path: file.path().to_owned(),
            wanted: "a model in f16",
            found: format!("one with numbers beyond 65504 in `{}`", piece.name),
            advice: "Choose bf16, which has the range of f32".into(),
        })
    })
}

/// Values as little-endian bytes of a type; `None` if one of them becomes infinite there.
fn narrow(values: &[f32], dtype: DType) -> Option<Vec<u8>> {
    Some(match dtype {
        DType::F16 => {
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            let overflows = halves
                .iter()
                .zip(values)
                .any(|(half, value)| half.is_infinite() && value.is_finite());
            (!overflows).then_some(())?;
            halves.iter().flat_map(|half| half.to_le_bytes()).collect()
        }
        DType::Bf16 => {
            values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
        }
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    })
}

/// A diffusers folder that is to be written.
#[derive(Debug)]
pub struct NewFolder {
    /// Paths in it, with slashes, and what is there.
    pub files: Vec<(String, NewFile)>,
}

/// A file of a [`NewFolder`].
#[derive(Debug)]
pub enum NewFile {
    /// A configuration, or a part of a vocabulary.
    Text(String),
    /// Weights.
    Tensors(Conversion),
}

impl NewFolder {
    /// Plans the folder of a base model in a single file, or one that is a folder again.
    ///
    /// # Errors
    /// Those of opening it; [`Error::WrongKind`] for families that have no such folder here.
    pub fn plan(path: &Path, precision: Option<Stored>) -> Result<NewFolder> {
        NewFolder::plan_blend(path, &[], precision)
    }

    /// The same, with a stack of adapters written into it.
    ///
    /// # Errors
    /// Also those of adapters that do not fit, or that a file cannot hold: weights over steps.
    pub fn plan_blend(
        path: &Path,
        stack: &[AdapterUse],
        precision: Option<Stored>,
    ) -> Result<NewFolder> {
        if fs::metadata(path)?.is_dir() {
            return NewFolder::of_folder(path, stack, precision);
        }
        let checkpoint = Checkpoint::open(path)?;
        let blend = Blend::of(path, stack)?;
        let mut files = configs::of(path, &checkpoint)?;
        let encoders = checkpoint.text_encoders.iter();
        let networks = [Component::UNet, Component::Vae].map(|component| (component, usize::MAX));
        let networks = networks
            .into_iter()
            .chain(encoders.map(|encoder| (encoder.component, used_layers(&checkpoint, encoder))));
        for (component, layers) in networks {
            let mut tensors = Vec::new();
            for (canonical, (_, source)) in &checkpoint.tensors.sources {
                let Some(name) = canonical.strip_prefix(component.prefix()) else { continue };
                if layer_of(canonical, component.prefix()).is_some_and(|layer| layer >= layers) {
                    continue;
                }
                let mut shape = checkpoint.tensors.shape(0, source);
                let piece = Piece::of(0, source, &shape);
                // Matrices of the VAE's attention are convolutions in the original.
                if component == Component::Vae && canonical.contains(".attentions.") {
                    shape.truncate(2);
                }
                let dtype = dtype(&checkpoint.tensors, &piece);
                tensors.push(NewTensor {
                    name: name.to_owned(),
                    dtype,
                    shape,
                    pieces: vec![piece],
                });
            }
            let mut metadata: BTreeMap<_, _> = [("format".to_owned(), "pt".to_owned())].into();
            metadata.extend(blend.as_ref().map(|blend| (BLEND.to_owned(), blend.describe())));
            let file = vec![TensorFile::open(path)?];
            let conversion = Conversion::new(file, tensors, metadata, (precision, blend.clone()))?;
            let name = match component {
                Component::UNet | Component::Vae => "diffusion_pytorch_model",
                Component::TextEncoder | Component::TextEncoder2 => "model",
            };
            let name = format!("{}/{name}.safetensors", component.folder());
            files.push((name, NewFile::Tensors(conversion)));
        }
        Ok(NewFolder { files })
    }

    /// The same folder again: its files with all their names, and what describes them.
    fn of_folder(
        path: &Path,
        stack: &[AdapterUse],
        precision: Option<Stored>,
    ) -> Result<NewFolder> {
        let checkpoint = Checkpoint::open(path)?;
        let blend = Blend::of(path, stack)?;
        let mut files = configs::of_folder(path, &checkpoint)?;
        let paths: Vec<_> =
            checkpoint.tensors.files.iter().map(|file| file.path().to_owned()).collect();
        for (index, file) in paths.iter().enumerate() {
            let (_, mut tensors, mut metadata) = of_file(file)?;
            tensors.iter_mut().flat_map(|tensor| &mut tensor.pieces).for_each(|p| p.file = index);
            metadata.extend(blend.as_ref().map(|blend| (BLEND.to_owned(), blend.describe())));
            let opened = paths.iter().map(|path| TensorFile::open(path)).collect::<Result<_>>()?;
            let conversion =
                Conversion::new(opened, tensors, metadata, (precision, blend.clone()))?;
            let inside = file.strip_prefix(path).unwrap_or(file).with_extension("safetensors");
            let inside = inside.to_string_lossy().replace('\\', "/");
            files.push((inside, NewFile::Tensors(conversion)));
        }
        Ok(NewFolder { files })
    }

    /// Bytes of all its files.
    #[must_use]
    pub fn size(&self) -> u64 {
        let size = |file: &NewFile| match file {
            NewFile::Text(text) => text.len() as u64,
            NewFile::Tensors(conversion) => conversion.size(),
        };
        self.files.iter().map(|(_, file)| size(file)).sum()
    }

    /// Number of tensors in it.
    #[must_use]
    pub fn tensors(&self) -> usize {
        let tensors = |file: &NewFile| match file {
            NewFile::Text(_) => 0,
            NewFile::Tensors(conversion) => conversion.tensors(),
        };
        self.files.iter().map(|(_, file)| tensors(file)).sum()
    }
}

impl NewFile {
    /// Writes the whole file.
    ///
    /// # Errors
    /// Those of [`Conversion::write`].
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        match self {
            NewFile::Text(text) => to.write_all(text.as_bytes()),
            NewFile::Tensors(conversion) => conversion.write(to),
        }
    }
}

/// The layer of a text encoder that a canonical name belongs to.
fn layer_of(canonical: &str, prefix: &str) -> Option<usize> {
    let layers = canonical.strip_prefix(prefix)?.strip_prefix("text_model.encoder.layers.")?;
    layers.split('.').next()?.parse().ok()
}

/// How many layers of a text encoder are used.
fn used_layers(checkpoint: &Checkpoint, encoder: &TextEncoderConfig) -> usize {
    let prefix = encoder.component.prefix();
    let names = checkpoint.tensors.sources.keys();
    let last = names.filter_map(|name| layer_of(name, prefix)).max();
    (last.map_or(0, |last| last + 1)).saturating_sub(encoder.clip.unused_layers)
}

/// Shape and pieces of each tensor, by canonical name.
type Whole = BTreeMap<String, (Vec<usize>, Vec<Piece>)>;

type Plan = (Vec<TensorFile>, Vec<NewTensor>, BTreeMap<String, String>);

fn of_file(path: &Path) -> Result<Plan> {
    let file = TensorFile::open(path)?;
    let wrong = |found: &str| Error::WrongKind {
        path: path.to_owned(),
        wanted: "a model file",
        found: found.to_owned(),
        advice: "Choose a checkpoint, an adapter, a VAE or an embedding".into(),
    };
    if file.tensors().is_empty() {
        return Err(wrong("a file without tensors"));
    }
    if file.tensors().contains_key("") {
        return Err(wrong("a single tensor without a name"));
    }
    let tensors = file.tensors().iter().map(|(name, info)| NewTensor {
        name: name.clone(),
        dtype: info.dtype,
        shape: info.shape.clone(),
        pieces: vec![Piece {
            file: 0,
            name: name.clone(),
            first: 0,
            count: info.elements(),
            columns: None,
        }],
    });
    let tensors = tensors.collect();
    let mut metadata = file.metadata().clone();
    metadata.retain(|key, _| !HASHES.contains(&key.as_str()));
    if file.is_pickle() {
        // Without it, other programs do not know whose order of dimensions this is.
        metadata.entry("format".into()).or_insert_with(|| "pt".into());
    }
    Ok((vec![file], tensors, metadata))
}

fn of_folder(path: &Path) -> Result<Plan> {
    let checkpoint = Checkpoint::open(path)?;
    check_defaults(path, &checkpoint)?;
    let text_encoders = checkpoint.architecture.text_encoders;
    let mut whole = Whole::new();
    for (name, (file, source)) in &checkpoint.tensors.sources {
        let shape = checkpoint.tensors.shape(*file, source);
        let piece = Piece::of(*file, source, &shape);
        whole.insert(name.clone(), (shape, vec![piece]));
    }
    for encoder in text_encoders.iter().filter(|encoder| encoder.is_open_clip) {
        let prefix = encoder.component.prefix();
        join_attention(&mut whole, prefix);
        add_unused_layers(&mut whole, prefix, encoder.unused_layers);
    }
    turn_projection(&mut whole);
    let names: BTreeSet<&str> = whole.keys().map(String::as_str).collect();
    let renames = keys::original(&names, text_encoders);
    let mut tensors = Vec::with_capacity(whole.len());
    for (canonical, (mut shape, pieces)) in whole {
        let name = renames.rename(&canonical).ok_or_else(|| Error::WrongKind {
            path: path.to_owned(),
            wanted: "a folder to be written as a single file",
            found: format!("one with a tensor that such files have no name for (`{canonical}`)"),
            advice: "Use it as the folder that it is".into(),
        })?;
        // The original keeps the matrices of the VAE's attention as convolutions.
        if Component::of(&canonical) == Some(Component::Vae) && shape.len() == 2 {
            shape.extend([1, 1]);
        }
        let dtypes: BTreeSet<_> =
            pieces.iter().map(|piece| dtype(&checkpoint.tensors, piece).name()).collect();
        let dtype = match dtypes.len() {
            1 => dtype(&checkpoint.tensors, &pieces[0]),
            _ => DType::F32,
        };
        tensors.push(NewTensor { name, dtype, shape, pieces });
    }
    let mut marks = Vec::new();
    if checkpoint.prediction == Prediction::V {
        marks.push("v_pred");
    }
    if checkpoint.training != TrainingSchedule::stable_diffusion() {
        marks.push("ztsnr");
    }
    tensors.extend(marks.into_iter().map(|name| NewTensor {
        name: name.to_owned(),
        dtype: DType::F32,
        shape: vec![0],
        pieces: Vec::new(),
    }));
    let metadata = [("format", "pt")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    Ok((checkpoint.tensors.files, tensors, metadata.into()))
}

fn dtype(tensors: &Tensors, piece: &Piece) -> DType {
    tensors.files[piece.file].tensors()[&piece.name].dtype
}

/// A single file has no configuration: what it would say must be what its family is known for.
fn check_defaults(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let architecture = checkpoint.architecture;
    let modules = checkpoint.tensors.modules();
    let unet = UNetConfig {
        heads: architecture.heads,
        groups: architecture.groups,
        eps: 1e-5,
        size_width: SIZE_WIDTH,
    };
    let is_known = |(kind, found): (&TextEncoder, &TextEncoderConfig)| {
        let known = ClipConfig {
            heads: default_clip_heads(&modules, kind.component),
            activation: kind.activation,
            eps: 1e-5,
            ..found.clip
        };
        found.clip == known
    };
    let vae = VaeConfig {
        groups: architecture.groups,
        scaling_factor: architecture.scaling_factor,
        // That only chooses what is computed in; the file of an SD 1.x model may say either.
        overflows_f16: checkpoint.vae.overflows_f16,
    };
    let schedules =
        [TrainingSchedule::stable_diffusion(), TrainingSchedule::stable_diffusion_zero_terminal()];
    let words = |kind: &TextEncoder| {
        let table = format!("{}text_model.embeddings.token_embedding", kind.component.prefix());
        modules.get(&table).and_then(|shape| shape.first()).copied()
    };
    let part = if checkpoint.unet != unet {
        "UNet"
    } else if !architecture.text_encoders.iter().zip(&checkpoint.text_encoders).all(is_known) {
        "text encoder"
    } else if checkpoint.vae != vae {
        "VAE"
    } else if !schedules.contains(&checkpoint.training) {
        "noise schedule"
    } else if architecture.text_encoders.iter().any(|kind| words(kind) != Some(VOCABULARY)) {
        "tokenizer"
    } else if checkpoint.zeroes_empty_negative != architecture.zeroes_empty_negative {
        "reading of empty prompts"
    } else {
        return Ok(());
    };
    Err(Error::WrongKind {
        path: path.to_owned(),
        wanted: "a folder to be written as a single file",
        found: format!("one with a {part} of its own kind, which such a file cannot say"),
        advice: "Use it as the folder that it is".into(),
    })
}

/// Exchanges rows and columns of the text projection, as OpenCLIP has it.
fn turn_projection(whole: &mut Whole) {
    let Some((mut shape, mut pieces)) = whole.remove(&format!("{}.weight", keys::PROJECTION))
    else {
        return;
    };
    for piece in &mut pieces {
        piece.columns = shape.get(1).copied();
    }
    shape.reverse();
    whole.insert(keys::PROJECTION.to_owned(), (shape, pieces));
}

/// Puts query, key and value into one, as OpenCLIP has them.
fn join_attention(whole: &mut Whole, prefix: &str) {
    let queries: Vec<String> = whole
        .keys()
        .filter(|name| name.starts_with(prefix) && name.contains(".q_proj."))
        .cloned()
        .collect();
    for query in queries {
        let parts = ["q_proj", "k_proj", "v_proj"].map(|part| query.replace("q_proj", part));
        if !parts.iter().all(|part| whole.contains_key(part)) {
            continue;
        }
        let mut joint: (Vec<usize>, Vec<Piece>) = (Vec::new(), Vec::new());
        for (shape, pieces) in parts.iter().filter_map(|part| whole.remove(part)) {
            match joint.0.first_mut() {
                Some(rows) => *rows += shape[0],
                None => joint.0 = shape,
            }
            joint.1.extend(pieces);
        }
        whole.insert(query.replace("q_proj", "in_proj"), joint);
    }
}

/// Repeats the last layer of the text encoder as often as single files have layers that are not used.
fn add_unused_layers(whole: &mut Whole, prefix: &str, count: usize) {
    let layers = format!("{prefix}text_model.encoder.layers.");
    let last = whole.keys().filter_map(|name| layer_of(name, prefix)).max();
    let Some(last) = last else { return };
    for unused in last + 1..=last + count {
        let copies: Vec<_> = whole
            .iter()
            .filter(|(name, _)| layer_of(name, prefix) == Some(last))
            .map(|(name, tensor)| {
                let (from, to) = (format!("{layers}{last}."), format!("{layers}{unused}."));
                (name.replacen(&from, &to, 1), tensor.clone())
            })
            .collect();
        whole.extend(copies);
    }
}
