//! Files that are written anew hold the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{Device, Tensor};
use engine::{
    DeviceId, Engine, Request, Result,
    checkpoint::{
        convert::{Conversion, NewFile, NewFolder, Stored},
        header::TensorFile,
    },
    inspect::inspect,
    testing::{generate, repository, request, write, write_folder, write_single_file},
};

fn convert(from: &Path, to: &Path, precision: Option<Stored>) -> Result<()> {
    let conversion = Conversion::plan(from, precision)?;
    let mut bytes = Vec::new();
    conversion.write(&mut bytes)?;
    assert_eq!(bytes.len() as u64, conversion.size());
    fs::write(to, bytes)?;
    Ok(())
}

/// Everything in a file: names, types, shapes and the bytes behind the header, by name.
fn all(path: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let begin = TensorFile::open(path).unwrap().data_begin() as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..begin]).unwrap();
    let entries = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    entries
        .map(|(name, entry)| {
            let number = |at: usize| entry["data_offsets"][at].as_u64().unwrap() as usize;
            let shape = serde_json::from_value(entry["shape"].clone()).unwrap();
            let data = bytes[begin + number(0)..begin + number(1)].to_vec();
            (name.clone(), (entry["dtype"].as_str().unwrap().to_owned(), shape, data))
        })
        .collect()
}

#[test]
fn a_pytorch_file_becomes_the_file_that_pytorch_would_write() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("a.safetensors");
    let fixtures = repository("tests/fixtures/pickles");
    let expected = all(&fixtures.join("expected.safetensors"));
    for name in ["zip.pt", "legacy.pt", "protocol4.pt"] {
        convert(&fixtures.join(name), &to, None).unwrap();
        assert_eq!(all(&to), expected, "{name}");
    }
    assert_eq!(TensorFile::open(&to).unwrap().metadata()["step"], "4");
    assert_eq!(TensorFile::open(&to).unwrap().metadata()["format"], "pt");

    for (name, reason) in [
        ("bare.pt", "a single tensor without a name"),
        ("hostile_system.pt", "asks for `posix.system`"),
    ] {
        let error = convert(&fixtures.join(name), &to, None).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn precisions_are_changed_and_whole_numbers_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (repository("tests/fixtures/pickles/zip.pt"), folder.path().join("a.st"));
    for (precision, name) in [(Stored::F32, "F32"), (Stored::F16, "F16"), (Stored::Bf16, "BF16")] {
        convert(&from, &to, Some(precision)).unwrap();
        let (before, after) = (TensorFile::open(&from).unwrap(), TensorFile::open(&to).unwrap());
        for (tensor, info) in before.tensors() {
            let own = info.dtype.name();
            let expected = if own.contains('F') { name } else { own };
            assert_eq!(after.tensors()[tensor].dtype.name(), expected, "{tensor}");
            // Quarters below sixteen have a place in all of them.
            assert_eq!(after.read_f32(tensor).ok(), before.read_f32(tensor).ok(), "{tensor}");
        }
    }
    let large = [("a".to_owned(), Tensor::new(&[1f32, 1e5], &Device::Cpu).unwrap())];
    let from = folder.path().join("large.safetensors");
    write(&HashMap::from(large), &from);
    let error = convert(&from, &to, Some(Stored::F16)).unwrap_err().to_string();
    assert!(error.contains("beyond 65504 in `a`") && error.contains("Choose bf16"), "{error}");
    convert(&from, &to, Some(Stored::Bf16)).unwrap();
}

/// A folder as a single file is the single file, to the bit.
#[test]
fn a_folder_becomes_a_single_file() {
    let folder = tempfile::tempdir().unwrap();
    for model in ["sd15", "sd21", "sdxl", "refiner"] {
        let from = folder.path().join(model);
        let (expected, to) =
            (folder.path().join("expected.safetensors"), folder.path().join("a.safetensors"));
        write_folder(model, &from);
        write_single_file(model, &expected);
        convert(&from, &to, None).unwrap();
        let (found, mut expected) = (all(&to), all(&expected));
        if let Some(mark) = expected.get_mut("v_pred") {
            // It counts by being there.
            (mark.1, mark.2) = (vec![0], Vec::new());
        }
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "{model}"
        );
        assert!(found == expected, "{model}");
        let answer = inspect(&to).unwrap();
        assert!(answer.usable, "{answer}");
    }
    let error = convert(&repository("assets/starter/model"), &folder.path().join("a"), None);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("of its own kind, which such a file cannot say"), "{error}");
}

/// A single file as a folder is the folder, to the bit, and makes the same picture.
#[test]
fn a_single_file_becomes_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    for model in ["sd15", "sd21", "sdxl", "refiner"] {
        let (from, expected, to) = (
            folder.path().join("a.safetensors"),
            folder.path().join(format!("{model}-expected")),
            folder.path().join(model),
        );
        write_single_file(model, &from);
        write_folder(model, &expected);
        let new = NewFolder::plan(&from, None).unwrap();
        let mut size = 0;
        for (name, file) in &new.files {
            let path = to.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut bytes = Vec::new();
            file.write(&mut bytes).unwrap();
            size += bytes.len() as u64;
            fs::write(&path, bytes).unwrap();
            if matches!(file, NewFile::Tensors(_)) {
                assert!(all(&path) == all(&expected.join(name)), "{model}: {name}");
            }
        }
        assert_eq!(size, new.size());
        let picture = |checkpoint: &Path| {
            let request = Request { steps: 2, ..request(checkpoint) };
            let mut engine = Engine::open(DeviceId::Cpu, None).unwrap();
            generate(&mut engine, &request).unwrap().image.pixels
        };
        assert!(picture(&to) == picture(&from), "{model}");
        // And back.
        let back = folder.path().join("back.safetensors");
        convert(&to, &back, None).unwrap();
        assert_eq!(all(&back).len(), all(&from).len());
        let answer = inspect(&to).unwrap();
        assert!(answer.usable, "{answer}");
    }
    let error = NewFolder::plan(&repository("assets/starter/model"), None).unwrap_err();
    assert!(error.to_string().contains("it is a folder"), "{error}");
}
