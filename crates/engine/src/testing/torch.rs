//! PyTorch files, written as PyTorch writes them: for tests of what is done with such files.

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Tensor};

/// Writes tensors as a zip archive with a pickle, under `state_dict` and beside `global_step`.
///
/// All are stored as f32. Matrices are stored transposed, so that their elements do not follow each other.
pub fn write_torch(tensors: &HashMap<String, Tensor>, file: &Path) {
    let mut pickle = b"\x80\x02}(".to_vec();
    text(&mut pickle, "global_step");
    pickle.extend(b"J\x07\0\0\0");
    text(&mut pickle, "state_dict");
    pickle.extend(b"}(");
    let mut members = Vec::new();
    let mut names: Vec<_> = tensors.keys().collect();
    names.sort_unstable();
    for (key, name) in names.into_iter().enumerate() {
        let (pickled, data) = tensor(&tensors[name], &key.to_string());
        text(&mut pickle, name);
        pickle.extend(pickled);
        members.push((format!("archive/data/{key}"), data));
    }
    pickle.extend(b"uu.");
    members.insert(0, ("archive/data.pkl".to_owned(), pickle));
    members.push(("archive/version".to_owned(), b"3\n".to_vec()));
    fs_err::write(file, zip(&members)).unwrap_or_else(|error| panic!("{error}"));
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

/// The instructions for a tensor, and its data.
fn tensor(tensor: &Tensor, key: &str) -> (Vec<u8>, Vec<u8>) {
    let shape = tensor.dims().to_vec();
    let (stored, strides) = match *shape {
        [rows, _] => (tensor.t().expect("a matrix"), vec![1, rows]),
        _ => {
            let next = |size: usize| shape[size + 1..].iter().product();
            (tensor.clone(), (0..shape.len()).map(next).collect())
        }
    };
    let values = stored.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
    let values = values.expect("a tensor of numbers");
    let mut pickle = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    text(&mut pickle, "storage");
    pickle.extend(b"ctorch\nFloatStorage\n");
    text(&mut pickle, key);
    text(&mut pickle, "cpu");
    number(&mut pickle, values.len());
    pickle.extend(b"tQK\0");
    for sizes in [shape, strides] {
        pickle.push(b'(');
        sizes.into_iter().for_each(|size| number(&mut pickle, size));
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    (pickle, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn number(pickle: &mut Vec<u8>, number: usize) {
    pickle.push(b'J');
    pickle.extend((number as u32).to_le_bytes());
}

/// A zip archive of members that are stored as they are. Its checksums are left out: nobody asks.
fn zip(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let word = |number: usize| (number as u32).to_le_bytes();
    let half = |number: usize| (number as u16).to_le_bytes();
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let begin = zip.len();
        let sizes = [word(content.len()), word(content.len())].concat();
        let lengths = [half(name.len()), half(0)].concat();
        zip.extend([b"PK\x03\x04", &[0; 14][..], &sizes, &lengths, name.as_bytes()].concat());
        zip.extend(content);
        directory.extend([b"PK\x01\x02", &[0; 16][..], &sizes, &lengths, &[0; 10]].concat());
        directory.extend([&word(begin)[..], name.as_bytes()].concat());
    }
    let begin = zip.len();
    let counts = [half(members.len()), half(members.len())].concat();
    zip.extend(&directory);
    zip.extend(
        [b"PK\x05\x06", &[0; 4][..], &counts, &word(directory.len()), &word(begin)].concat(),
    );
    zip.extend(half(0));
    zip
}
