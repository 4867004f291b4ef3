//! Prompts against transformers and AUTOMATIC1111: ids, weights and chunks, exactly.
//!
//! `tests/golden/text/make.py` ran them and wrote the JSON files beside it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::path::{Path, PathBuf};

use engine::text::{
    Vocabulary, chunks,
    emphasis::{self, Piece},
    tokenizer::Tokenizer,
};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn golden(name: &str) -> Value {
    let path = root().join("tests/golden/text").join(name);
    serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

/// The tokenizers under the names that they have in the golden files.
fn tokenizers() -> [(&'static str, Tokenizer); 3] {
    let open = |folder: &str| Tokenizer::open(&root().join(folder)).unwrap();
    [
        ("clip", Tokenizer::clip()),
        ("starter", open("assets/starter/model/tokenizer")),
        ("tiny", open("tests/golden/networks/tiny/tokenizer")),
    ]
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

#[test]
fn tokens_are_those_of_transformers() {
    let golden = golden("tokens.json");
    for (name, tokenizer) in tokenizers() {
        let golden = &golden[name];
        assert_eq!(golden["start"], tokenizer.start(), "{name}");
        assert_eq!(golden["end"], tokenizer.end(), "{name}");
        assert_eq!(golden["pad"], tokenizer.pad(), "{name}");
        assert_eq!(golden["comma"].as_u64(), tokenizer.comma().map(u64::from), "{name}");
        assert_eq!(golden["count"], tokenizer.vocabulary(), "{name}");
        let strings = golden["strings"].as_array().unwrap();
        assert!(strings.len() > 60);
        for string in strings {
            let text = string[0].as_str().unwrap();
            assert_eq!(tokenizer.encode(text), ids(&string[1]), "{name}: {text:?}");
        }
    }
}

/// All of Unicode, each character behind an `a`, for those that compose with it.
#[test]
fn every_character_is_the_one_of_transformers() {
    let tokenizer = Tokenizer::clip();
    let mut checksum = 0u64;
    for first in (0..0x11_0000u32).step_by(16) {
        let text: String =
            (first..first + 16).filter_map(char::from_u32).flat_map(|c| ['a', c]).collect();
        for id in tokenizer.encode(&text) {
            checksum = checksum.wrapping_mul(31).wrapping_add(id.into());
        }
    }
    assert_eq!(golden("tokens.json")["every_character"], checksum.to_string());
}

#[test]
fn emphasis_is_that_of_a1111() {
    let golden = golden("emphasis.json");
    let prompts = golden.as_array().unwrap();
    assert!(prompts.len() > 40);
    for prompt in prompts {
        let text = prompt[0].as_str().unwrap();
        let ours = emphasis::parse(text).into_iter().map(|piece| match piece {
            Piece::Text { text, weight } => (text, weight),
            Piece::Break => ("BREAK".to_owned(), -1.0),
        });
        let theirs = prompt[1].as_array().unwrap().iter().map(|piece| -> (String, f64) {
            (piece[0].as_str().unwrap().to_owned(), piece[1].as_str().unwrap().parse().unwrap())
        });
        assert_eq!(ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>(), "{text:?}");
    }
}

#[test]
fn chunks_are_those_of_a1111() {
    let golden = golden("chunks.json");
    for (name, tokenizer) in tokenizers() {
        let prompts = golden[name].as_object().unwrap();
        assert!(prompts.len() > 15);
        for (prompt, theirs) in prompts {
            let theirs = theirs.as_array().unwrap();
            let ours = chunks(&tokenizer, &Vocabulary::default(), prompt);
            assert_eq!(ours.len(), theirs.len(), "{name}: {prompt:?}");
            for (ours, theirs) in ours.iter().zip(theirs) {
                let mut expected = ids(&theirs[0]);
                expected.resize(77, tokenizer.end());
                assert_eq!(ours.ids[..], expected, "{name}: {prompt:?}");
                let runs = theirs[1].as_array().unwrap().iter().flat_map(|run| {
                    let weight = run[1].as_f64().unwrap() as f32;
                    std::iter::repeat_n(weight, run[0].as_u64().unwrap() as usize)
                });
                assert_eq!(ours.weights[..], runs.collect::<Vec<_>>(), "{name}: {prompt:?}");
            }
        }
    }
}

#[test]
fn weighed_states_are_those_of_a1111() {
    let golden = golden("weighed.json");
    let mut states = floats(&golden["states"]);
    emphasis::apply(&mut states, &floats(&golden["weights"]));
    for (ours, theirs) in states.iter().zip(floats(&golden["weighed"])) {
        // torch takes the mean in f32.
        assert!((ours - theirs).abs() <= 2e-6 * theirs.abs(), "{ours} instead of {theirs}");
    }
}
