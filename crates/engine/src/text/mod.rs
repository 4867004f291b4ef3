//! Prompts: from a sentence to chunks of tokens with weights, as AUTOMATIC1111 1.10 makes them.
//!
//! A text encoder reads 77 tokens at a time: a start token, 75 of the prompt, an end token. A longer
//! prompt is read chunk by chunk, and the encodings are put one behind another. Where a chunk ends
//! shortly behind a comma, what follows the comma moves to the next one, so that no phrase is cut in
//! two. `BREAK` ends a chunk at once.
//!
//! [`emphasis`] finds the weights and later applies them, [`tokenizer`] finds the tokens; this module
//! packs them. Adapter tags (`<lora:…>`) are no business of it: the caller has taken them out.
//!
//! # Units
//!
//! Lengths are counted in tokens, those of conditionings in chunks of 77 tokens.
//!
//! **Invariant:** what is made here equals A1111's with its default settings, token for token and weight
//! for weight, but for the exceptions that [`emphasis`] and [`tokenizer`] name, and for `AND` and
//! `[from:to:when]`, which are plain text here. `tests/text.rs` holds it to that.

pub mod embedding;
pub mod emphasis;
pub mod tokenizer;

use candle_core::Tensor;

use self::{
    embedding::Embedding,
    emphasis::{Piece, parse},
    tokenizer::Tokenizer,
};
use crate::{Error, Result, model::clip::CONTEXT};

/// Tokens of the prompt in a chunk: all but start and end.
pub const CAPACITY: usize = CONTEXT - 2;

/// A comma among the last 20 tokens of a full chunk makes what follows it move on: A1111's default.
const COMMA_BACKTRACK: usize = 20;

/// Two prompts are not brought to a common length beyond this: at SD 1.x's width, 150 MB each.
const MAX_COMMON_CHUNKS: usize = 640;

/// What the text encoder reads at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Start, up to 75 tokens of the prompt, end, padding.
    pub ids: [u32; CONTEXT],
    /// For each token the factor on its encoding; 1 for start, end and padding.
    pub weights: [f32; CONTEXT],
    /// How many tokens of the prompt there are.
    pub used: usize,
    /// Places that an embedding's vectors take: which place, which embedding of the [`Vocabulary`], which
    /// of its vectors. The ids there mean nothing.
    pub vectors: Vec<(usize, usize, usize)>,
}

/// The words that stand for embeddings, as a tokenizer reads them.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// Tokens, which embedding, how many vectors it has; the longest first.
    words: Vec<(Vec<u32>, usize, usize)>,
}

impl Vocabulary {
    /// Each embedding is called by its name, by the word that it was trained with, and, as in ComfyUI, by
    /// `embedding:name`.
    pub fn new(tokenizer: &Tokenizer, embeddings: &[Embedding]) -> Vocabulary {
        let mut words = Vec::new();
        for (index, embedding) in embeddings.iter().enumerate() {
            let spelled = embedding.spellings();
            words.extend(spelled.map(|word| (tokenizer.encode(&word), index, embedding.vectors())));
        }
        words.retain(|(tokens, ..)| !tokens.is_empty());
        words.sort_by_key(|(tokens, ..)| std::cmp::Reverse(tokens.len()));
        Vocabulary { words }
    }

    /// The embedding whose word these tokens begin with, how many tokens the word has, and how many vectors
    /// it stands for.
    fn find(&self, tokens: &[u32]) -> Option<(usize, usize, usize)> {
        let (word, index, vectors) = self.words.iter().find(|row| tokens.starts_with(&row.0))?;
        Some((*index, word.len(), *vectors))
    }

    /// How many places of a chunk a text takes.
    fn places(&self, tokenizer: &Tokenizer, text: &str) -> usize {
        let tokens = tokenizer.encode(text);
        let (mut at, mut places) = (0, 0);
        while at < tokens.len() {
            let (tokens, vectors) = match self.find(&tokens[at..]) {
                Some((_, tokens, vectors)) => (tokens, vectors),
                None => (1, 1),
            };
            (at, places) = (at + tokens, places + vectors);
        }
        places
    }
}

/// How a prompt fills its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// Tokens of the prompt in each chunk, up to [`CAPACITY`].
    pub used: Vec<usize>,
    /// Where chunks end in the text, in bytes, at the beginning of a word; without the last.
    pub ends: Vec<usize>,
}

/// Says how a prompt fills its chunks, and where in the text one ends.
///
/// Emphasis and escapes are gone by the time that tokens are counted, so a place in the text is found
/// from the other side: it is the longest beginning, in words, that has as many tokens.
pub fn fill(tokenizer: &Tokenizer, vocabulary: &Vocabulary, prompt: &str) -> Fill {
    let chunks = chunks(tokenizer, vocabulary, prompt);
    let used: Vec<_> = chunks.iter().map(|chunk| chunk.used).collect();
    let words: Vec<usize> = prompt
        .char_indices()
        .zip(std::iter::once(' ').chain(prompt.chars()))
        .filter(|((_, c), before)| before.is_whitespace() && !c.is_whitespace())
        .map(|((at, _), _)| at)
        .collect();
    let tokens = |end: usize| -> usize {
        parse(&prompt[..end])
            .iter()
            .map(|piece| match piece {
                Piece::Text { text, .. } => vocabulary.places(tokenizer, text),
                Piece::Break => 0,
            })
            .sum()
    };
    let mut sum = 0;
    let ends = used[..used.len() - 1]
        .iter()
        .filter_map(|used| {
            sum += used;
            let next = words.partition_point(|&word| tokens(word) <= sum);
            words.get(next.checked_sub(1)?).copied()
        })
        .collect();
    Fill { used, ends }
}

/// Cuts a prompt into chunks, at least one. An embedding is never cut in two.
pub fn chunks(tokenizer: &Tokenizer, vocabulary: &Vocabulary, prompt: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut open = Open::default();
    for piece in parse(prompt) {
        let Piece::Text { text, weight } = piece else {
            chunks.push(open.close(tokenizer));
            continue;
        };
        let weight = weight as f32;
        let tokens = tokenizer.encode(&text);
        let mut at = 0;
        while let Some(&id) = tokens.get(at) {
            let full = open.slots.len() == CAPACITY;
            if Some(id) == tokenizer.comma() {
                open.comma = Some(open.slots.len());
            } else if let Some(comma) = open.comma
                && full
                && CAPACITY - comma <= COMMA_BACKTRACK
            {
                let moved = open.slots.split_off(comma + 1);
                chunks.push(open.close(tokenizer));
                open.slots = moved;
            }
            // Also behind a comma as the last token, which left nothing to move.
            if open.slots.len() == CAPACITY {
                chunks.push(open.close(tokenizer));
            }
            let Some((embedding, word, vectors)) = vocabulary.find(&tokens[at..]) else {
                open.slots.push(Slot { id, weight, vector: None });
                at += 1;
                continue;
            };
            if open.slots.len() + vectors > CAPACITY {
                chunks.push(open.close(tokenizer));
            }
            // More vectors than a chunk has places cannot all be read.
            open.slots.extend((0..vectors.min(CAPACITY)).map(|row| Slot {
                id: tokenizer.start(),
                weight,
                vector: Some((embedding, row)),
            }));
            at += word;
        }
    }
    if !open.slots.is_empty() || chunks.is_empty() {
        chunks.push(open.close(tokenizer));
    }
    chunks
}

/// One place of a chunk.
#[derive(Debug)]
struct Slot {
    id: u32,
    weight: f32,
    /// Which embedding, and which of its vectors.
    vector: Option<(usize, usize)>,
}

/// The chunk that is being filled.
#[derive(Debug, Default)]
struct Open {
    slots: Vec<Slot>,
    /// Where its last comma is.
    comma: Option<usize>,
}

impl Open {
    /// Makes a chunk of what there is, and leaves an empty one.
    fn close(&mut self, tokenizer: &Tokenizer) -> Chunk {
        let Open { slots, .. } = std::mem::take(self);
        let mut chunk = Chunk {
            ids: [tokenizer.end(); CONTEXT],
            weights: [1.0; CONTEXT],
            used: slots.len(),
            vectors: Vec::new(),
        };
        chunk.ids[0] = tokenizer.start();
        for (place, Slot { id, weight, vector }) in (1..).zip(slots) {
            (chunk.ids[place], chunk.weights[place]) = (id, weight);
            chunk.vectors.extend(vector.map(|(embedding, row)| (place, embedding, row)));
        }
        // Padding begins behind the first end token, also if the prompt spelled it out: nothing that
        // follows it can reach the pooled encoding, which is taken there.
        let behind_end = chunk.ids.iter_mut().skip_while(|id| **id != tokenizer.end()).skip(1);
        if tokenizer.pad() != tokenizer.end() {
            behind_end.for_each(|id| *id = tokenizer.pad());
        }
        chunk
    }
}

/// Brings the conditionings of two prompts, `(1, 77 n, width)` and `(1, 77 m, width)`, to one length by
/// repeating each up to the least common multiple of `n` and `m`.
///
/// Attention over keys that are all repeated equally often is attention over them once, so this equals
/// a UNet call for each prompt at its own length, which is what A1111 makes.
///
/// # Errors
/// [`Error::InvalidRequest`] if the common length is out of all reason: long prompts whose numbers of
/// chunks have little in common.
pub fn same_length(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, m) = (a.dim(1)? / CONTEXT, b.dim(1)? / CONTEXT);
    let common = common_multiple(n, m);
    if common > MAX_COMMON_CHUNKS {
        return Err(Error::InvalidRequest {
            field: "the length of prompt and negative prompt",
            found: format!("{n} and {m} chunks of {CAPACITY} tokens"),
            rule: "make them shorter, or equally long".into(),
        });
    }
    Ok((a.repeat((1, common / n, 1))?, b.repeat((1, common / m, 1))?))
}

/// The least common multiple of two numbers above 0.
fn common_multiple(a: usize, b: usize) -> usize {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    a / divisor * b
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    // What A1111 makes of forty prompts is in `tests/text.rs`.

    #[test]
    fn an_empty_prompt_is_one_chunk() {
        let chunks = chunks(&Tokenizer::clip(), &Vocabulary::default(), "");
        let mut ids = [49_407; CONTEXT];
        ids[0] = 49_406;
        assert_eq!(chunks, [Chunk { ids, weights: [1.0; CONTEXT], used: 0, vectors: vec![] }]);
    }

    /// As SD 2.x has it: behind the end token comes another one.
    #[test]
    fn padding_begins_behind_the_first_end() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name, text| fs_err::write(folder.path().join(name), text).unwrap();
        write("vocab.json", r#"{"<|startoftext|>": 0, "<|endoftext|>": 1, "!": 2, "a</w>": 3}"#);
        write("merges.txt", "");
        write("special_tokens_map.json", r#"{"pad_token": "!"}"#);
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let ids =
            |prompt: &str| chunks(&tokenizer, &Vocabulary::default(), prompt).pop().unwrap().ids;
        assert_eq!(ids("a a")[..6], [0, 3, 3, 1, 2, 2]);
        assert_eq!(ids("a a")[CONTEXT - 1], 2);
        assert_eq!(ids("a <|endoftext|> a")[..5], [0, 3, 1, 2, 2]);
        assert_eq!(ids(&"a ".repeat(75))[CONTEXT - 2..], [3, 1]);
    }

    /// By A1111's rules: whatever the case, the longest name first, all vectors in one chunk, the comma's
    /// rule as for other tokens.
    #[test]
    fn embeddings_take_places() {
        let clip = Tokenizer::clip();
        let embedding = |name: &str, vectors: usize| Embedding {
            name: name.to_owned(),
            tokens: vec!["*".to_owned()],
            first: Some(vec![vec![0.0; 4]; vectors]),
            second: None,
        };
        let all = [embedding("easy", 2), embedding("easynegative", 8), embedding("my-style", 3)];
        let words = Vocabulary::new(&clip, &all);
        let places = |prompt: &str| -> Vec<Vec<(usize, usize, usize)>> {
            let chunks = chunks(&clip, &words, prompt);
            let used: Vec<_> = chunks.iter().map(|chunk| chunk.used).collect();
            assert_eq!(fill(&clip, &words, prompt).used, used);
            chunks.into_iter().map(|chunk| chunk.vectors).collect()
        };
        assert_eq!(places("a fox"), [vec![]]);
        assert_eq!(places("a Easy fox"), [[(2, 0, 0), (3, 0, 1)]]);
        assert_eq!(places("EasyNegative")[0].len(), 8);
        assert_eq!(places("a (my-style:1.2), embedding:easy")[0].len(), 5);
        assert_eq!(places("embedding:easy")[0], [(1, 0, 0), (2, 0, 1)]);
        let long = format!("{}EasyNegative b", "a ".repeat(70));
        let found = places(&long);
        assert_eq!((found[0].len(), found[1].len(), found[1][0]), (0, 8, (1, 1, 0)));
        // Vectors move with the phrase that they are in.
        let comma = format!("{}, my-style {}", "a ".repeat(65), "b ".repeat(10));
        let found = places(&comma);
        assert_eq!((found[0].len(), found[1].len(), found[1][0]), (0, 3, (1, 2, 0)));
        let weighed = chunks(&clip, &words, "(my-style:1.5)").pop().unwrap();
        assert_eq!(weighed.weights[..5], [1.0, 1.5, 1.5, 1.5, 1.0]);
    }

    #[test]
    fn chunks_end_at_words() {
        let clip = Tokenizer::clip();
        let fill = |clip: &Tokenizer, prompt: &str| fill(clip, &Vocabulary::default(), prompt);
        assert_eq!(fill(&clip, ""), Fill { used: vec![0], ends: vec![] });
        assert_eq!(fill(&clip, &"a ".repeat(80)), Fill { used: vec![75, 5], ends: vec![150] });
        let broken = "a (red:1.2) fox BREAK a cat";
        assert_eq!(fill(&clip, broken), Fill { used: vec![3, 2], ends: vec![22] });
        // What follows the last comma moves on as a whole.
        let comma = format!("{}, {}", "a ".repeat(70), "b ".repeat(10));
        assert_eq!(fill(&clip, &comma), Fill { used: vec![71, 10], ends: vec![142] });
        assert_eq!(fill(&clip, &"ä ".repeat(80)).ends, [225]);
    }

    #[test]
    fn conditionings_are_repeated_to_the_common_length() -> Result<()> {
        // Chunk `i` holds `i` everywhere.
        let chunks = |count: usize| -> Result<Tensor> {
            let value = |i| Tensor::full(i as f32, (1, CONTEXT, 1), &Device::Cpu);
            Ok(Tensor::cat(&(0..count).map(value).collect::<Result<Vec<_>, _>>()?, 1)?)
        };
        let firsts = |x: &Tensor| -> Result<Vec<f32>> {
            let values = x.flatten_all()?.to_vec1::<f32>()?;
            Ok(values.into_iter().step_by(CONTEXT).collect())
        };
        let (a, b) = same_length(&chunks(2)?, &chunks(3)?)?;
        assert_eq!(firsts(&a)?, [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!(firsts(&b)?, [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
        let (a, b) = same_length(&chunks(2)?, &chunks(2)?)?;
        assert_eq!((firsts(&a)?, firsts(&b)?), (vec![0.0, 1.0], vec![0.0, 1.0]));
        let long = |n| Tensor::zeros((1, CONTEXT * n, 1), DType::F32, &Device::Cpu);
        let error = same_length(&long(60)?, &long(61)?).unwrap_err().to_string();
        assert!(error.contains("60 and 61 chunks"), "{error}");
        Ok(())
    }
}
