//! Tokens: CLIP's byte-pair encoding, from text to the numbers that a text encoder knows.
//!
//! Text is brought into one form (Unicode's NFC, lower case), cut into words, and each word into its
//! UTF-8 bytes; then the pair of neighbors whose merge was learned first is joined, again and again
//! (Sennrich et al., 2016, <https://arxiv.org/abs/1508.07909>; on bytes: Radford et al., 2019). The
//! last byte of a word carries a mark, `</w>`, so `fox` as a word is not the `fox` in `foxes`.
//!
//! What differs between models is the vocabulary: the tokens, their ids and the merges. It is read
//! from the model's `tokenizer` folder ([`Tokenizer::open`]); models without one have CLIP's own,
//! which is built in ([`Tokenizer::clip`]). The rules around it belong to the family and are here.
//!
//! # Why not all of the crate `tokenizers`
//!
//! It normalizes and finds words here, so that every character falls on the same side as in
//! transformers. Its byte-pair model is not used: it builds tables of owned strings, which for CLIP's
//! 49,408 tokens took 75 ms where the pairs of ids that are built in here took 5 (least of 25 runs each).
//! A test compares the two.
//!
//! # What is different elsewhere
//!
//! transformers 5 is followed. A1111 1.10 runs transformers 4.30, whose tokenizer has `ftfy` repair the
//! text before: it straightens typographic quotes, takes ligatures and full-width letters apart, drops
//! control characters, and reads special tokens in capitals. Of the tests' 93 strings those 11 differ.
//!
//! # Units
//!
//! An id is a row of the text encoder's embedding table. No id is assumed: start, end, padding,
//! unknown and comma are looked up.
//!
//! **Invariant:** every id that comes out is below [`Tokenizer::vocabulary`].

use std::{
    collections::{BinaryHeap, HashMap},
    io::Read,
    path::Path,
};

use fs_err as fs;
use serde_json::{Value, json};
use tokenizers::{NormalizedString, utils::SysRegex};

use crate::{Error, Result};

/// CLIP's merges in the order in which they were learned, each as the ids of its two tokens, of two
/// bytes each. All else follows from them; `pack.py` beside the file says how it was made.
const CLIP_MERGES: &[u8] = include_bytes!("../../../../assets/tokenizer/clip.merges");

/// CLIP's names of the start and end tokens, where a folder says nothing else.
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Marks the last byte of a word.
const END_OF_WORD: &str = "</w>";

/// How CLIP cuts text: contractions, runs of letters, single digits, runs of the rest. White space is
/// in none of them. The first two are spelled out because transformers does: written in capitals they
/// are no special tokens, yet they end where they end.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";

/// No tokenizer's file comes near this; it keeps a wrong file from taking all memory.
const MAX_BYTES: u64 = 64 << 20;

/// Added tokens are looked for at every character, so there cannot be any number of them.
const MAX_ADDED: usize = 1000;

/// Turns text into ids.
#[derive(Debug)]
pub struct Tokenizer {
    words: SysRegex,
    /// For each byte its token within a word, and as the last of a word.
    bytes: [[u32; 2]; 256],
    merges: HashMap<(u32, u32), Merge>,
    added: Vec<Added>,
    start: u32,
    end: u32,
    pad: u32,
    comma: Option<u32>,
    vocabulary: usize,
}

/// What becomes of a pair of neighbors.
#[derive(Debug, Clone, Copy)]
struct Merge {
    /// Lower ranks go first.
    rank: u32,
    token: u32,
}

/// A token that is written out in the text and is one token whatever the merges say.
#[derive(Debug, Clone, PartialEq)]
struct Added {
    content: String,
    id: u32,
    /// Whether it is found in any case, or exactly as it is written.
    normalized: bool,
}

impl Tokenizer {
    /// CLIP's own tokenizer: 49,408 tokens, padding with the end token.
    pub fn clip() -> Tokenizer {
        // Ids count through the bytes, the bytes at the end of a word, the merges in the order in which
        // they were learned, and the two special tokens.
        let mut bytes = [[0; 2]; 256];
        for (byte, id) in byte_order().into_iter().zip(0..) {
            bytes[usize::from(byte)] = [id, 256 + id];
        }
        let (pairs, _) = CLIP_MERGES.as_chunks::<4>();
        let mut merges = HashMap::with_capacity(pairs.len());
        for (&[l0, l1, r0, r1], rank) in pairs.iter().zip(0..) {
            let pair = (u16::from_le_bytes([l0, l1]).into(), u16::from_le_bytes([r0, r1]).into());
            merges.insert(pair, Merge { rank, token: 512 + rank });
        }
        let start = 512 + pairs.len() as u32;
        let end = start + 1;
        Tokenizer {
            words: words(),
            bytes,
            merges,
            // The configurations of SD 1.x say that only the start token is found in any case.
            added: vec![
                Added { content: START.into(), id: start, normalized: true },
                Added { content: END.into(), id: end, normalized: false },
            ],
            start,
            end,
            pad: end,
            comma: Some(bytes[usize::from(b',')][1]),
            vocabulary: end as usize + 1,
        }
    }

    /// The same, filling a chunk with one byte's token, within a word, behind its end.
    #[must_use]
    pub fn padding_with(self, byte: u8) -> Tokenizer {
        Tokenizer { pad: self.bytes[usize::from(byte)][0], ..self }
    }

    /// The tokenizer in the `tokenizer` folder of a diffusers model: `tokenizer.json`, or `vocab.json`
    /// and `merges.txt`; `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`
    /// are heard where they exist.
    ///
    /// # Errors
    /// [`Error::Incomplete`] where files are missing, [`Error::WrongKind`] for another kind of
    /// tokenizer, [`Error::Damaged`] for everything that a file cannot mean, [`Error::Io`].
    pub fn open(folder: &Path) -> Result<Tokenizer> {
        let mut special = Special::default();
        let map = read_json(&folder.join("special_tokens_map.json"))?;
        let config = read_json(&folder.join("tokenizer_config.json"))?;
        // The last one counts. Before configurations listed the added tokens, it was the map, as
        // transformers has it: SD 2.x pads with what its map says, and its configuration says another.
        let lists = config.as_ref().is_some_and(|c| c.get("added_tokens_decoder").is_some());
        let order = if lists { [&map, &config] } else { [&config, &map] };
        order.into_iter().flatten().for_each(|config| special.hear(config));
        if let Some(added) = read_json(&folder.join("added_tokens.json"))? {
            special.add_extra(&added);
        }

        let path = folder.join("tokenizer.json");
        if let Some(file) = read_json(&path)? {
            return Tokenizer::from_json(&path, &file, special);
        }
        let (path, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        let (Some(ids), Some(merges)) = (read(&path)?, read(&merges)?) else {
            return Err(Error::Incomplete {
                path: folder.to_owned(),
                missing: "it has neither `tokenizer.json` nor both `vocab.json` and `merges.txt`"
                    .into(),
                advice: "Get the model again".into(),
            });
        };
        let ids: HashMap<String, u32> = serde_json::from_str(&ids)
            .map_err(|error| damaged(&path, format!("it is not a list of tokens ({error})")))?;
        let merges: Option<Vec<_>> = merge_lines(&merges).collect();
        let merges = merges
            .ok_or_else(|| damaged(&folder.join("merges.txt"), "a line is not a pair of tokens"))?;
        Tokenizer::new(&path, &ids, merges.into_iter(), special)
    }

    /// From the one file that holds everything.
    fn from_json(path: &Path, file: &Value, mut special: Special) -> Result<Tokenizer> {
        let model = &file["model"];
        let kind = model["type"].as_str().unwrap_or("BPE");
        if kind != "BPE" || model["end_of_word_suffix"].as_str() != Some(END_OF_WORD) {
            return Err(Error::WrongKind {
                path: path.to_owned(),
                wanted: "a CLIP tokenizer",
                found: format!("a {kind} tokenizer whose words do not end in `{END_OF_WORD}`"),
                advice: "It belongs to another family of models".into(),
            });
        }
        let ids = model["vocab"].as_object().and_then(|tokens| {
            let token = |(token, id): (&'_ String, &Value)| {
                Some((token.clone(), u32::try_from(id.as_u64()?).ok()?))
            };
            tokens.iter().map(token).collect::<Option<HashMap<_, _>>>()
        });
        let ids = ids.ok_or_else(|| damaged(path, "`model.vocab` is not a list of tokens"))?;
        // A pair is written as "l r", since 2024 as ["l", "r"].
        let pair = |pair: &'_ Value| match pair {
            Value::String(pair) => split_pair(pair).map(|(l, r)| (l.to_owned(), r.to_owned())),
            pair => Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())),
        };
        let merges = model["merges"].as_array();
        let merges = merges.and_then(|merges| merges.iter().map(pair).collect::<Option<Vec<_>>>());
        let merges =
            merges.ok_or_else(|| damaged(path, "`model.merges` is not a list of pairs"))?;
        let merges = merges.iter().map(|(left, right)| (left.as_str(), right.as_str()));
        if special.unknown.is_none() {
            special.unknown = model["unk_token"].as_str().map(str::to_owned);
        }
        for added in file["added_tokens"].as_array().into_iter().flatten() {
            special.add_token(added["id"].as_u64(), added);
        }
        Tokenizer::new(path, &ids, merges, special)
    }

    fn new<'a>(
        path: &Path,
        ids: &HashMap<String, u32>,
        merges: impl Iterator<Item = (&'a str, &'a str)>,
        special: Special,
    ) -> Result<Tokenizer> {
        let id = |token: &str| {
            let listed = special.added.iter().find(|added| added.content == token);
            let id = ids.get(token).copied().or(listed.map(|added| added.id));
            id.ok_or_else(|| damaged(path, format!("it has no token `{token}`")))
        };
        let start = id(&special.start.content)?;
        let end = id(&special.end.content)?;
        let pad = id(special.pad.as_ref().unwrap_or(&special.end.content))?;
        let unknown = id(special.unknown.as_ref().unwrap_or(&special.end.content))?;

        let mut bytes = [[unknown; 2]; 256];
        for byte in 0..=u8::MAX {
            let token = byte_char(byte).to_string();
            for (slot, token) in
                bytes[usize::from(byte)].iter_mut().zip([token.clone(), token + END_OF_WORD])
            {
                *slot = ids.get(token.as_str()).copied().unwrap_or(unknown);
            }
        }

        let mut table = HashMap::with_capacity(merges.size_hint().0);
        let mut joined = String::new();
        for ((left, right), rank) in merges.zip(0..) {
            joined.clear();
            joined.extend([left, right]);
            let found = |token: &str| {
                let unknown =
                    || damaged(path, format!("it has no token `{token}`, but a merge of it"));
                ids.get(token).copied().ok_or_else(unknown)
            };
            let merge = Merge { rank, token: found(&joined)? };
            table.insert((found(left)?, found(right)?), merge);
        }

        let mut added = special.added;
        for (token, id) in [(special.start, start), (special.end, end)] {
            if !added.iter().any(|added| added.content == token.content) {
                added.push(Added { id, ..token });
            }
        }
        for (content, id) in [(special.pad, pad), (special.unknown, unknown)] {
            if let Some(content) = content
                && !added.iter().any(|added| added.content == content)
            {
                added.push(Added { content, id, normalized: false });
            }
        }
        added.retain(|added| !added.content.is_empty());
        if added.len() > MAX_ADDED {
            let problem = format!("{} tokens were added; at most {MAX_ADDED} can be", added.len());
            return Err(damaged(path, problem));
        }
        for added in &mut added {
            if added.normalized {
                added.content = normalize(&added.content);
            }
        }
        // The longest is to be found first.
        added.sort_by_key(|added| std::cmp::Reverse(added.content.len()));

        let largest = ids.values().copied().chain(added.iter().map(|added| added.id)).max();
        Ok(Tokenizer {
            words: words(),
            bytes,
            merges: table,
            added,
            start,
            end,
            pad,
            comma: ids.get(&*format!(",{END_OF_WORD}")).copied(),
            vocabulary: largest.map_or(0, |id| id as usize + 1),
        })
    }

    /// The ids of a text, without start and end. Any text has some, except white space, which has none.
    ///
    /// Takes time and memory in proportion to the text, however long its words are, up to a logarithm.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.between_added(text, false, &mut ids, |text, ids| {
            self.between_added(&normalize(text), true, ids, |text, ids| {
                for (from, to) in self.words.find_iter(text) {
                    let word = &text[from..to];
                    // A special token that is none, see `WORDS`: it is cut as other text is.
                    match word.strip_prefix("<|").and_then(|word| word.strip_suffix("|>")) {
                        Some(inner) if inner.starts_with(|c: char| c.is_ascii_lowercase()) => {
                            for word in ["<|", inner, "|>"] {
                                self.encode_word(word.as_bytes(), ids);
                            }
                        }
                        _ => self.encode_word(word.as_bytes(), ids),
                    }
                }
            });
        });
        ids
    }

    /// Appends the ids of the added tokens in `text` that are looked for in this form, and calls
    /// `other` for what is between them.
    fn between_added(
        &self,
        text: &str,
        normalized: bool,
        ids: &mut Vec<u32>,
        other: impl Fn(&str, &mut Vec<u32>),
    ) {
        let (mut from, mut at) = (0, 0);
        while let Some(first) = text[at..].chars().next() {
            let here = |added: &&Added| {
                added.normalized == normalized && text[at..].starts_with(&added.content)
            };
            match self.added.iter().find(here) {
                Some(added) => {
                    other(&text[from..at], ids);
                    ids.push(added.id);
                    at += added.content.len();
                    from = at;
                }
                None => at += first.len_utf8(),
            }
        }
        other(&text[from..], ids);
    }

    /// Appends the ids of one word, given as its bytes: the merge of the lowest rank goes first, and of equal ones the
    /// leftmost.
    fn encode_word(&self, bytes: &[u8], ids: &mut Vec<u32>) {
        let Some(last) = bytes.len().checked_sub(1) else { return };
        // A token takes the place of its first byte; `next` and `previous` link what is left.
        let mut parts: Vec<Part> = bytes
            .iter()
            .enumerate()
            .map(|(at, &byte)| Part {
                token: Some(self.bytes[usize::from(byte)][usize::from(at == last)]),
                previous: at.wrapping_sub(1),
                next: at + 1,
            })
            .collect();
        // `BinaryHeap` hands out the largest, so ranks and places are stored inverted.
        let mut queue = BinaryHeap::new();
        let candidate = |parts: &[Part], at: usize| {
            let pair = (parts.get(at)?.token?, parts.get(parts[at].next)?.token?);
            let merge = self.merges.get(&pair)?;
            Some((!merge.rank, !at, merge.token))
        };
        queue.extend((0..last).filter_map(|at| candidate(&parts, at)));
        while let Some(entry @ (_, at, token)) = queue.pop() {
            let at = !at;
            // One of the two may have gone into another token since.
            if candidate(&parts, at) != Some(entry) {
                continue;
            }
            let gone = parts[at].next;
            let next = parts[gone].next;
            parts[gone].token = None;
            parts[at] = Part { token: Some(token), next, ..parts[at] };
            if let Some(part) = parts.get_mut(next) {
                part.previous = at;
            }
            queue.extend(candidate(&parts, parts[at].previous));
            queue.extend(candidate(&parts, at));
        }
        ids.extend(parts.iter().filter_map(|part| part.token));
    }

    /// The token before every chunk.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The token behind the text of every chunk.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The token that fills a chunk behind its end; the end token itself in SD 1.x.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The comma as a word of its own, if the vocabulary has it.
    pub fn comma(&self) -> Option<u32> {
        self.comma
    }

    /// How many rows the text encoder's embedding table needs: the largest id plus one.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// A token of a word that is being merged.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// `None` once it has gone into the token before it.
    token: Option<u32>,
    /// Where the part before it is; no place at all for the first.
    previous: usize,
    /// Where the part behind it is; the number of parts for the last.
    next: usize,
}

/// What a folder says about special tokens.
#[derive(Debug)]
struct Special {
    start: Added,
    end: Added,
    pad: Option<String>,
    unknown: Option<String>,
    added: Vec<Added>,
}

impl Default for Special {
    fn default() -> Special {
        let named = |content: &str| Added { content: content.into(), id: 0, normalized: false };
        Special {
            start: named(START),
            end: named(END),
            pad: None,
            unknown: None,
            added: Vec::new(),
        }
    }
}

impl Special {
    /// Takes over what `special_tokens_map.json` or `tokenizer_config.json` says. The latter lists
    /// added tokens by id, too.
    fn hear(&mut self, config: &Value) {
        // A token is a string, or an object around it.
        let content = |name: &str| {
            let token = &config[name];
            Some(token.as_str().or_else(|| token["content"].as_str())?.to_owned())
        };
        let normalized = |name: &str| config[name]["normalized"].as_bool();
        if let Some(start) = content("bos_token") {
            self.start.content = start;
            self.start.normalized = normalized("bos_token").unwrap_or(self.start.normalized);
        }
        if let Some(end) = content("eos_token") {
            self.end.content = end;
            self.end.normalized = normalized("eos_token").unwrap_or(self.end.normalized);
        }
        self.pad = content("pad_token").or(self.pad.take());
        self.unknown = content("unk_token").or(self.unknown.take());
        for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
            self.add_token(id.parse().ok(), token);
        }
    }

    /// Takes over `added_tokens.json`: tokens that are not special, with their ids.
    fn add_extra(&mut self, tokens: &Value) {
        for (content, id) in tokens.as_object().into_iter().flatten() {
            self.add(content, id.as_u64(), true);
        }
    }

    /// Takes over an object that describes a token.
    fn add_token(&mut self, id: Option<u64>, token: &Value) {
        if let Some(content) = token["content"].as_str() {
            self.add(content, id, token["normalized"].as_bool().unwrap_or(false));
        }
    }

    /// Lists a token, unless it is listed already.
    fn add(&mut self, content: &str, id: Option<u64>, normalized: bool) {
        let listed =
            self.added.len() > MAX_ADDED || self.added.iter().any(|added| added.content == content);
        if let (false, Some(Ok(id))) = (listed, id.map(u32::try_from)) {
            self.added.push(Added { content: content.to_owned(), id, normalized });
        }
    }
}

fn words() -> SysRegex {
    SysRegex::new(WORDS).expect("the pattern is a constant, and every test uses it")
}

/// The form in which words are looked up: composed characters (NFC), in lower case.
fn normalize(text: &str) -> String {
    let mut text = NormalizedString::from(text);
    text.nfc().lowercase();
    text.get().to_owned()
}

/// The pairs of a `merges.txt`; `None` for a line that is no pair.
fn merge_lines(text: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).map(split_pair)
}

fn split_pair(pair: &str) -> Option<(&str, &str)> {
    pair.split_once(' ').filter(|(_, right)| !right.contains(' '))
}

/// The character that stands for a byte in vocabularies: itself if it can be printed, else one from
/// U+0100 on (GPT-2's table).
fn byte_char(byte: u8) -> char {
    match byte {
        0..=b' ' => char::from_u32(0x100 + u32::from(byte)),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(byte - 0x7f)),
        0xad => Some('\u{143}'),
        _ => Some(char::from(byte)),
    }
    .expect("all are below U+0144")
}

/// The order of bytes in CLIP's vocabulary: those that stand for themselves come first.
fn byte_order() -> [u8; 256] {
    let mut order = std::array::from_fn(|byte| byte as u8);
    order.sort_by_key(|&byte| byte_char(byte));
    order
}

/// CLIP's merges as text again, and its tokens in the order of their ids, without the special ones.
fn unpacked() -> (Vec<(String, String)>, Vec<String>) {
    let mut tokens: Vec<String> =
        byte_order().into_iter().map(|byte| byte_char(byte).to_string()).collect();
    tokens.extend(tokens.clone().into_iter().map(|token| token + END_OF_WORD));
    let mut merges = Vec::new();
    for &[l0, l1, r0, r1] in CLIP_MERGES.as_chunks::<4>().0 {
        let token = |low, high| tokens[usize::from(u16::from_le_bytes([low, high]))].clone();
        let (left, right) = (token(l0, l1), token(r0, r1));
        tokens.push(format!("{left}{right}"));
        merges.push((left, right));
    }
    (merges, tokens)
}

/// The files of CLIP's vocabulary as a `tokenizer` folder has them, by name; `pad` fills a chunk.
pub(crate) fn clip_files(pad: Option<u8>) -> Vec<(&'static str, String)> {
    let (merges, tokens) = unpacked();
    let pad = pad.map_or_else(|| END.to_owned(), |byte| byte_char(byte).to_string());
    let special = [START.to_owned(), END.to_owned()];
    let ids: serde_json::Map<String, Value> =
        tokens.into_iter().chain(special).zip((0..).map(|id: u32| id.into())).collect();
    let mut lines = String::from("#version: 0.2\n");
    for (left, right) in merges {
        lines.extend([&left, " ", &right, "\n"]);
    }
    let words = json!({
        "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad,
    });
    let config = json!({
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": true,
        "add_prefix_space": false,
        "errors": "replace",
        "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad,
    });
    vec![
        ("vocab.json", Value::from(ids).to_string()),
        ("merges.txt", lines),
        ("special_tokens_map.json", format!("{words:#}\n")),
        ("tokenizer_config.json", format!("{config:#}\n")),
    ]
}

/// The text of a file, `None` if it does not exist.
fn read(path: &Path) -> Result<Option<String>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(damaged(path, "it is far too large for a part of a tokenizer"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| damaged(path, "it is not text"))
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read(path)? else { return Ok(None) };
    let value = serde_json::from_str(&text);
    value.map(Some).map_err(|error| damaged(path, format!("it is not JSON ({error})")))
}

fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    Error::Damaged { path: path.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What transformers makes of ninety strings is in `tests/text.rs`.

    #[test]
    fn clips_vocabulary_is_the_original() {
        use sha2::{Digest, Sha256};

        let clip = Tokenizer::clip();
        assert_eq!((clip.vocabulary(), clip.comma()), (49_408, Some(267)));
        assert_eq!([clip.start(), clip.end(), clip.pad()], [49_406, 49_407, 49_407]);
        assert!(clip.encode("").is_empty() && clip.encode(" \n\t\u{3000}").is_empty());

        // The checksum of `merges.txt` in the folders of SD 1.x, SD 2.x and SDXL.
        let lines = unpacked().0.into_iter().map(|(left, right)| format!("{left} {right}\n"));
        let text: String = std::iter::once("#version: 0.2\n".to_owned()).chain(lines).collect();
        let hash = Sha256::digest(text);
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a");
    }

    /// The folder form of the same vocabulary, and the crate's own byte-pair model, on words that no
    /// example has.
    #[test]
    fn agrees_with_the_model_of_the_crate_tokenizers() {
        use tokenizers::{
            Model,
            models::bpe::{BPE, Vocab},
        };

        let clip = Tokenizer::clip();
        let (merges, tokens) = unpacked();
        let lines: Vec<_> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        let mut ids: serde_json::Map<String, Value> =
            tokens.iter().cloned().zip((0..).map(|id: u32| id.into())).collect();
        ids.extend([(START.into(), clip.start().into()), (END.into(), clip.end().into())]);
        let folder = folder(&[
            ("vocab.json", &Value::from(ids).to_string()),
            ("merges.txt", &lines.join("\n")),
        ]);
        let opened = Tokenizer::open(folder.path()).unwrap();
        assert_eq!((opened.vocabulary(), opened.comma()), (clip.vocabulary(), clip.comma()));

        let model = BPE::builder()
            .vocab_and_merges(tokens.into_iter().zip(0..).collect::<Vocab>(), merges.clone())
            .end_of_word_suffix(END_OF_WORD.into())
            .build()
            .unwrap();
        let mut state = 7u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        for round in 0..2000 {
            // Words of bytes, and of tokens, so that merges of every length meet.
            let word: String = (0..=random(6))
                .map(|_| match round % 3 {
                    0 => byte_char(random(256) as u8).to_string(),
                    _ => merges[random(merges.len())].0.replace(END_OF_WORD, ""),
                })
                .collect();
            let byte = |c| (0..=u8::MAX).find(|&byte| byte_char(byte) == c).unwrap();
            let bytes: Vec<u8> = word.chars().map(byte).collect();
            let theirs = model.tokenize(&word).unwrap();
            let theirs: Vec<u32> = theirs.into_iter().map(|token| token.id).collect();
            for ours in [&clip, &opened] {
                let mut ids = Vec::new();
                ours.encode_word(&bytes, &mut ids);
                assert_eq!(ids, theirs, "{word}");
            }
        }
    }

    #[test]
    fn a_megabyte_is_bounded() {
        let clip = Tokenizer::clip();
        let start = std::time::Instant::now();
        for unit in ["ab", "!", "<|endoftext|>", "\u{301}"] {
            let text = unit.repeat(1_000_000 / unit.len());
            assert!(clip.encode(&text).len() <= text.len());
        }
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }

    /// A folder with these files.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    const VOCAB: &str =
        r#"{"a": 0, "b</w>": 1, "ab</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}"#;

    #[test]
    fn a_small_vocabulary_is_enough() {
        let files = [("vocab.json", VOCAB), ("merges.txt", "#version: 0.2\na b</w>\n")];
        let folder = folder(&files);
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        assert_eq!(tokenizer.encode("ab aab"), [2, 0, 2]);
        assert_eq!(tokenizer.encode("c"), [4], "what it does not know is the unknown token");
        assert_eq!((tokenizer.vocabulary(), tokenizer.comma()), (5, None));
    }

    #[test]
    fn configurations_are_heard() {
        let folder = folder(&[
            ("vocab.json", VOCAB),
            ("merges.txt", "a b</w>\n"),
            ("special_tokens_map.json", r#"{"pad_token": "a", "unk_token": "b</w>"}"#),
            (
                "tokenizer_config.json",
                r#"{"pad_token": {"content": "ab</w>"}, "added_tokens_decoder": {}}"#,
            ),
            ("added_tokens.json", r#"{"<Cat>": 5}"#),
        ]);
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        assert_eq!((tokenizer.pad(), tokenizer.vocabulary()), (2, 6));
        assert_eq!(tokenizer.encode("ab<CAT>?ab"), [2, 5, 1, 2]);

        // Without that list the map has the last word.
        let config = r#"{"pad_token": {"content": "ab</w>"}}"#;
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        assert_eq!(Tokenizer::open(folder.path()).unwrap().pad(), 0);
    }

    #[test]
    fn damaged_files_are_named() {
        let json = |model: &str| format!(r#"{{"model": {model}}}"#);
        let bpe = |rest: &str| {
            json(&format!(r#"{{"type": "BPE", "end_of_word_suffix": "</w>", {rest}}}"#))
        };
        let cases: [(&str, &[(&str, &str)]); 14] = [
            ("neither `tokenizer.json`", &[]),
            ("neither `tokenizer.json`", &[("vocab.json", VOCAB)]),
            ("not a list of tokens", &[("vocab.json", "[]"), ("merges.txt", "")]),
            ("not a list of tokens", &[("vocab.json", r#"{"a": -1}"#), ("merges.txt", "")]),
            ("not a list of tokens", &[("vocab.json", r#"{"a": 1"#), ("merges.txt", "")]),
            ("has no token `<|startoftext|>`", &[("vocab.json", "{}"), ("merges.txt", "")]),
            ("not a pair of tokens", &[("vocab.json", VOCAB), ("merges.txt", "a\n")]),
            ("not a pair of tokens", &[("vocab.json", VOCAB), ("merges.txt", "a b c\n")]),
            ("has no token `aa`", &[("vocab.json", VOCAB), ("merges.txt", "a a\n")]),
            ("it is not JSON", &[("tokenizer.json", "<html>")]),
            ("a Unigram tokenizer", &[("tokenizer.json", &json(r#"{"type": "Unigram"}"#))]),
            ("`model.vocab`", &[("tokenizer.json", &bpe(r#""vocab": {"a": 1e9}"#))]),
            ("`model.merges`", &[("tokenizer.json", &bpe(r#""vocab": {}, "merges": [["a"]]"#))]),
            (
                "has no token `<|end",
                &[("tokenizer.json", &bpe(r#""vocab": {"<|startoftext|>": 1}, "merges": []"#))],
            ),
        ];
        for (message, files) in cases {
            let folder = folder(files);
            let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
        }
        let folder = folder(&[("merges.txt", "")]);
        fs::write(folder.path().join("vocab.json"), b"\xff\xfe").unwrap();
        let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("it is not text"), "{error}");
    }
}
