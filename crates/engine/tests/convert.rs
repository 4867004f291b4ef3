//! Files that are written anew hold the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{Device, Tensor};
use engine::{
    AdapterUse, DeviceId, Engine, Request, Result,
    adapter::{
        block::BlockWeights,
        curve::{Curve, Fade, Keyframe},
    },
    checkpoint::{
        convert::{Conversion, NewFile, NewFolder, Stored},
        header::TensorFile,
    },
    inspect::inspect,
    testing::{
        adapter, apart, generate, repository, request, write, write_adapter, write_folder,
        write_single_file,
    },
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
}

/// A stack that is written into its model makes the picture that it makes beside it: in one file, in a folder,
/// and from either.
#[test]
fn a_blend_is_a_model_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_folder("sd15", &path("folder"));
    write_single_file("sd15", &path("file.safetensors"));
    for name in ["a", "b"] {
        write_adapter("sd15", name, &path(name));
    }
    let mut stack = vec![adapter(&path("a"), 0.75), adapter(&path("b"), -0.5)];
    stack[1].blocks = BlockWeights::preset("OUTALL").unwrap();
    stack[1].text_encoder_weight = 0.25;
    let latents = |checkpoint: &Path, adapters: Vec<AdapterUse>| {
        let request = Request { steps: 2, adapters, ..request(checkpoint) };
        generate(&mut Engine::open(DeviceId::Cpu, None).unwrap(), &request).unwrap().latents
    };
    let expected = latents(&path("folder"), stack.clone());
    let plain = latents(&path("folder"), Vec::new());
    assert!(apart(&plain, &expected) > 1e-3);
    for from in ["folder", "file.safetensors"] {
        let conversion = Conversion::plan_blend(&path(from), &stack, None).unwrap();
        let (file, made) = (path("blend.safetensors"), path("blend"));
        let mut bytes = Vec::new();
        conversion.write(&mut bytes).unwrap();
        fs::write(&file, bytes).unwrap();
        let noted = TensorFile::open(&file).unwrap().metadata()["impasto.blend"].clone();
        assert!(noted.contains("\"name\":\"a\"") && noted.contains("-0.5"), "{noted}");
        for (name, new) in NewFolder::plan_blend(&path(from), &stack, None).unwrap().files {
            fs::create_dir_all(made.join(&name).parent().unwrap()).unwrap();
            let mut bytes = Vec::new();
            new.write(&mut bytes).unwrap();
            fs::write(made.join(name), bytes).unwrap();
        }
        for blend in [&file, &made] {
            let apart = apart(&latents(blend, Vec::new()), &expected);
            assert!(apart < 1e-5, "{from} as {}: {apart:e}", blend.display());
        }
        fs::remove_dir_all(made).unwrap();
    }

    let frame = |at| Keyframe { at, factor: 0.5 + at, fade: Fade::Hold };
    stack[0].over_steps = Curve::new(vec![frame(0.0), frame(0.5)]);
    let error = Conversion::plan_blend(&path("folder"), &stack, None).unwrap_err().to_string();
    assert!(error.contains("over the steps"), "{error}");
    write_adapter("tiny", "a", &path("tiny"));
    let stranger = [adapter(&path("tiny"), 1.0)];
    assert!(Conversion::plan_blend(&path("folder"), &stranger, None).is_err());
}
