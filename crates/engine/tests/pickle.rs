//! PyTorch files are read as data: what good ones hold, and why the others are refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{Device, safetensors};
use engine::{
    DeviceId, Engine, Error, Request,
    checkpoint::header::{DType, TensorFile},
    inspect::{Kind, inspect},
    testing::{
        adapter, generate, repository, request, torch::write_torch, write_adapter, write_folder,
        write_single_file,
    },
};

/// A file that `make.py` wrote.
fn fixture(name: &str) -> PathBuf {
    repository("tests/fixtures/pickles").join(name)
}

fn hostile() -> Vec<PathBuf> {
    let files = fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.to_string_lossy().contains("/hostile_")).collect();
    files.sort();
    files
}

/// Type, shape, and the numbers if they can be weights.
type Values = (DType, Vec<usize>, Option<Vec<f32>>);

/// Every tensor of a file, by name.
fn values(file: &TensorFile) -> BTreeMap<String, Values> {
    let one = |(name, info): (&String, &engine::checkpoint::header::TensorInfo)| {
        (name.clone(), (info.dtype, info.shape.clone(), file.read_f32(name).ok()))
    };
    file.tensors().iter().map(one).collect()
}

#[test]
fn every_layout_holds_the_same() {
    let expected = values(&TensorFile::open(&fixture("expected.safetensors")).unwrap());
    assert_eq!(expected.len(), 21);
    assert_eq!(expected.values().filter(|tensor| tensor.2.is_none()).count(), 4, "I16 to BOOL");
    for name in ["zip.pt", "legacy.pt", "protocol4.pt"] {
        let file = TensorFile::open(&fixture(name)).unwrap();
        assert!(file.is_pickle() && file.is_current());
        assert_eq!(values(&file), expected, "{name}");
    }
    let file = TensorFile::open(&fixture("protocol4.pt")).unwrap();
    assert_eq!(file.metadata().get("step").map(String::as_str), Some("4"));
    let hashes = file.sha256().unwrap();
    assert_eq!(hashes.file, hashes.data, "there is no header");
}

#[test]
fn the_state_of_the_training_is_left_out() {
    let file = TensorFile::open(&fixture("lightning.ckpt")).unwrap();
    let names: Vec<_> = file.tensors().keys().collect();
    assert_eq!(
        names,
        ["first_stage_model.decoder.conv_in.bias", "model.diffusion_model.out.2.bias"]
    );
    let said = |key: &str| file.metadata().get(key).map(String::as_str);
    assert_eq!(said("global_step"), Some("875000"));
    assert_eq!(said("pytorch-lightning_version"), Some("1.4.2"));
    assert_eq!(said("learning_rate"), Some("0.0001"));
    assert_eq!(said("callbacks"), None);
}

#[test]
fn types_without_a_storage_of_their_own_are_read() {
    let file = TensorFile::open(&fixture("float8.pt")).unwrap();
    assert_eq!(file.tensors()[""].dtype, DType::F8E4M3);
    assert_eq!(file.read_f32("").unwrap(), [0.0; 6]);
}

#[test]
fn hostile_files_are_refused_by_name() {
    let reasons: BTreeMap<&str, &str> = [
        ("system", "asks for `posix.system`"),
        ("system_legacy", "asks for `posix.system`"),
        ("eval", "asks for `builtins.eval`"),
        ("getattr", "asks for `builtins.getattr`"),
        ("numpy_load", "asks for `numpy.load`"),
        ("instance", "instruction 0x69 (`i`)"),
        ("unknown_instruction", "instruction 0x97"),
        ("past_storage", "reaches beyond its data, which has 8 numbers"),
        ("past_member", "lies in data of 9 numbers, of which the file has 32 bytes"),
        ("no_member", "`../version` is missing"),
        ("negative", "begins in front of its data"),
        ("negative_stride", "has no strides"),
        ("overflow", "reaches beyond its data"),
        ("expanded", "repeats its numbers too often"),
        ("long_text", "ends too early"),
        ("memo", "refers to a value that it has not made"),
        ("deep", "nests its objects deeper"),
        ("tower", "nests its objects deeper"),
        ("cycle", "nests its objects deeper"),
        ("laughs", "nests its objects deeper"),
        ("underflow", "a value is missing"),
        ("packed", "is packed or encrypted"),
    ]
    .into();
    let files = hostile();
    assert_eq!(files.len(), reasons.len());
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().strip_prefix("hostile_").unwrap();
        let error = TensorFile::open(&path).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. } | Error::WrongKind { .. }), "{error}");
        assert!(error.to_string().contains(reasons[name]), "{name}: {error}");
        let answer = inspect(&path).unwrap();
        assert!(answer.kind == Kind::Pickle && !answer.usable, "{answer}");
        assert!(answer.to_string().contains(reasons[name]), "{answer}");
    }
}

/// A pickle with nothing else in a zip archive, as small as one can be.
fn pickled(folder: &Path, instructions: &[u8]) -> PathBuf {
    let path = folder.join("a.pt");
    fs::write(&path, [b"\x80\x02", instructions].concat()).unwrap();
    path
}

#[test]
fn what_is_beyond_measure_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cases: &[(Vec<u8>, &str)] = &[
        (b"N".repeat(600_000), "stacks more values"),
        (b"(".repeat(600_000), "stacks more values"),
        ([&b"N"[..], &b"\x94".repeat(600_000)].concat(), "remembers more values"),
        ([&b"]"[..], &b"]0".repeat(3_000_000)].concat(), "more objects"),
        ([&b"]"[..], &b"Na".repeat(6_000_000)].concat(), "more objects"),
        (b"X\x01\0\0\0a0".repeat(4_000_000), "more objects"),
        ([&b"X\0\0\0\x03"[..], &[0xff; 0x300_0000]].concat(), "more objects"),
        ([&b"c"[..], &[b'a'; 2000]].concat(), "too long for one"),
        ([&b"X\0\0\0\x05"[..], &[b'a'; 0x500_0000]].concat(), "a pickle of more than"),
    ];
    for (instructions, reason) in cases {
        let error = TensorFile::open(&pickled(folder.path(), instructions)).unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

#[test]
fn truncated_files_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    for name in ["zip.pt", "legacy.pt"] {
        let whole = fs::read(fixture(name)).unwrap();
        for end in (4..whole.len()).step_by(7) {
            fs::write(&path, &whole[..end]).unwrap();
            match TensorFile::open(&path) {
                Err(Error::Damaged { .. }) => {}
                other => panic!("{name} up to {end}: {other:?}"),
            }
            assert_eq!(inspect(&path).unwrap().kind, Kind::Pickle);
        }
    }
}

#[test]
fn a_file_that_shrinks_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pt");
    let whole = fs::read(fixture("zip.pt")).unwrap();
    fs::write(&path, &whole).unwrap();
    let file = TensorFile::open(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(!file.is_current());
    assert!(matches!(file.read_f32("view.transposed"), Err(Error::Changed { .. })));
}

/// A safetensors file's tensors as a PyTorch file.
fn as_torch(from: &Path, to: &Path) {
    write_torch(&safetensors::load(from, &Device::Cpu).unwrap(), to);
}

/// Base model, adapter and VAE make the same picture as PyTorch files, alone and in folders.
#[test]
fn the_format_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_single_file("sd15", &path("model.safetensors"));
    write_adapter("sd15", "a", &path("a.safetensors"));
    write_folder("sd15", &path("folder"));
    let picture = |model: &str, stack: &str, vae: Option<&str>| {
        let request = Request {
            adapters: vec![adapter(&path(stack), 0.7)],
            vae: vae.map(path),
            steps: 2,
            ..request(&path(model))
        };
        let output = generate(&mut Engine::open(DeviceId::Cpu, None).unwrap(), &request).unwrap();
        assert!(!output.patches.adapters[0].applied.is_empty());
        let latents: Vec<f32> = output.latents.flatten_all().unwrap().to_vec1().unwrap();
        (latents, output.image.pixels)
    };
    let expected = picture("model.safetensors", "a.safetensors", None);
    as_torch(&path("model.safetensors"), &path("model.ckpt"));
    as_torch(&path("a.safetensors"), &path("a.pt"));
    assert!(picture("model.ckpt", "a.pt", Some("model.ckpt")) == expected, "files");
    let answer = inspect(&path("model.ckpt")).unwrap();
    assert_eq!((answer.kind, answer.usable), (Kind::BaseModel, true), "{answer}");
    assert_eq!(answer.metadata["global_step"], "7");

    for (part, from, to) in [
        ("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
    ] {
        let part = path("folder").join(part);
        as_torch(&part.join(from), &part.join(to));
        fs::remove_file(part.join(from)).unwrap();
    }
    assert!(picture("folder", "a.pt", None) == expected, "a folder");
    assert!(inspect(&path("folder")).unwrap().usable);

    fs::create_dir(path("lora")).unwrap();
    fs::rename(path("a.pt"), path("lora/pytorch_lora_weights.bin")).unwrap();
    assert!(picture("model.ckpt", "lora", None) == expected, "an adapter's folder");
}
