//! Tokens: CLIP's byte-pair encoding.
//!
//! The encoding itself is the crate `tokenizers`'; here is where its files are found and what CLIP's
//! special tokens are. A model folder's own tokenizer is used where there is one; models without one
//! have CLIP's vocabulary, which is built in.

use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
};

use fs_err as fs;
use serde_json::Value;
use tokenizers::{
    AddedToken, SplitDelimiterBehavior,
    models::bpe::BPE,
    normalizers::{Lowercase, NFC, Replace, Sequence, replace::ReplacePattern},
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
};

use crate::{Error, Result};

/// No vocabulary comes near this; it keeps a damaged file from taking all memory.
const MAX_FILE: u64 = 64 << 20;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// How CLIP cuts text into words: contractions, letters, single digits, the rest.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

const CLIP_VOCABULARY: &str = include_str!("../../../../assets/tokenizer/vocab.json");
const CLIP_MERGES: &str = include_str!("../../../../assets/tokenizer/merges.txt");

/// Turns text into the numbers that a text encoder knows.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    comma: Option<u32>,
    vocabulary: usize,
}

impl Tokenizer {
    /// CLIP's own, for models that come without one.
    pub(crate) fn clip() -> Result<Tokenizer> {
        let path = Path::new("the built-in tokenizer");
        Tokenizer::new(path, byte_pairs(path, CLIP_VOCABULARY, CLIP_MERGES)?, None)
    }

    /// The tokenizer in a diffusers model's `tokenizer` folder.
    ///
    /// # Errors
    /// Says which file is missing or damaged.
    pub(crate) fn open(folder: &Path) -> Result<Tokenizer> {
        let pad = special_tokens(folder)?;
        let whole = folder.join("tokenizer.json");
        if whole.is_file() {
            let inner = read(&whole)?.parse::<tokenizers::Tokenizer>();
            return Tokenizer::new(&whole, inner.map_err(|e| damaged(&whole, &e))?, pad.as_deref());
        }
        let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        if !vocabulary.is_file() || !merges.is_file() {
            return Err(Error::Incomplete {
                path: folder.to_owned(),
                missing: "it has neither `tokenizer.json` nor `vocab.json` and `merges.txt`".into(),
                advice: "Get the folder again, or remove it to use CLIP's tokenizer".into(),
            });
        }
        let inner = byte_pairs(&vocabulary, &read(&vocabulary)?, &read(&merges)?)?;
        Tokenizer::new(&vocabulary, inner, pad.as_deref())
    }

    fn new(path: &Path, inner: tokenizers::Tokenizer, pad: Option<&str>) -> Result<Tokenizer> {
        let special = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| damaged(path, &format!("it has no `{token}`")))
        };
        let (start, end) = (special(START)?, special(END)?);
        let pad = match pad {
            Some(token) => special(token)?,
            None => end,
        };
        let vocabulary = inner.get_vocab_size(true);
        let comma = inner.token_to_id(",</w>");
        Ok(Tokenizer { inner, start, end, pad, comma, vocabulary })
    }

    /// The tokens of a text, without start and end.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|error| Error::InvalidRequest {
                field: "the prompt",
                found: format!("{:?}", text.chars().take(40).collect::<String>()),
                rule: format!("it could not be tokenized ({error})"),
            })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The token before every prompt.
    pub(crate) fn start(&self) -> u32 {
        self.start
    }

    /// The token behind every prompt.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// What a chunk is filled up with.
    pub(crate) fn pad(&self) -> u32 {
        self.pad
    }

    /// The comma, where the vocabulary has one.
    pub(crate) fn comma(&self) -> Option<u32> {
        self.comma
    }

    /// Number of tokens.
    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// CLIP's pipeline around a vocabulary and its merges.
fn byte_pairs(path: &Path, vocabulary: &str, merges: &str) -> Result<tokenizers::Tokenizer> {
    let build = || -> tokenizers::Result<tokenizers::Tokenizer> {
        let vocabulary: HashMap<String, u32> = serde_json::from_str(vocabulary)?;
        let merges = merges
            .lines()
            .filter(|line| !line.starts_with("#version") && !line.is_empty())
            .map(|line| {
                let (left, right) = line.split_once(' ').ok_or("a merge is not two parts")?;
                Ok((left.to_owned(), right.to_owned()))
            })
            .collect::<tokenizers::Result<_>>()?;
        let model = BPE::builder()
            .vocab_and_merges(
                vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(),
                merges,
            )
            .unk_token(END.to_owned())
            .end_of_word_suffix("</w>".to_owned())
            .build()?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(Some(Sequence::new(vec![
            NFC.into(),
            Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?.into(),
            Lowercase.into(),
        ])))?;
        let split =
            Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)?;
        inner.with_pre_tokenizer(Some(PreTokenizers::new(vec![
            PreTokenizerWrapper::Split(split),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
        ])));
        inner
            .add_special_tokens(vec![AddedToken::from(START, true), AddedToken::from(END, true)])?;
        Ok(inner)
    };
    build().map_err(|error| damaged(path, &error))
}

/// The padding token that the folder's configuration names, if it names one.
fn special_tokens(folder: &Path) -> Result<Option<String>> {
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let config: Value =
            serde_json::from_str(&read(&path)?).map_err(|error| damaged(&path, &error))?;
        // Either the token itself or an object around it.
        let pad = &config["pad_token"];
        if let Some(token) = pad.as_str().or_else(|| pad["content"].as_str()) {
            return Ok(Some(token.to_owned()));
        }
    }
    Ok(None)
}

fn read(path: &PathBuf) -> Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn damaged(path: &Path, problem: &impl ToString) -> Error {
    Error::Damaged { path: path.to_owned(), problem: problem.to_string() }
}
