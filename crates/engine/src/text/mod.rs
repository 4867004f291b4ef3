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
pub fn fill(tokenizer: &Tokenizer, prompt: &str) -> Fill {
    let used: Vec<_> = chunks(tokenizer, prompt).iter().map(|chunk| chunk.used).collect();
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
                Piece::Text { text, .. } => tokenizer.encode(text).len(),
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

/// Cuts a prompt into chunks, at least one.
pub fn chunks(tokenizer: &Tokenizer, prompt: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut open = Open::default();
    for piece in parse(prompt) {
        let Piece::Text { text, weight } = piece else {
            chunks.push(open.close(tokenizer));
            continue;
        };
        for id in tokenizer.encode(&text) {
            let full = open.tokens.len() == CAPACITY;
            if Some(id) == tokenizer.comma() {
                open.comma = Some(open.tokens.len());
            } else if let Some(comma) = open.comma
                && full
                && CAPACITY - comma <= COMMA_BACKTRACK
            {
                let moved = open.tokens.split_off(comma + 1);
                chunks.push(open.close(tokenizer));
                open.tokens = moved;
            }
            // Also behind a comma as the last token, which left nothing to move.
            if open.tokens.len() == CAPACITY {
                chunks.push(open.close(tokenizer));
            }
            open.tokens.push((id, weight as f32));
        }
    }
    if !open.tokens.is_empty() || chunks.is_empty() {
        chunks.push(open.close(tokenizer));
    }
    chunks
}

/// The chunk that is being filled.
#[derive(Debug, Default)]
struct Open {
    tokens: Vec<(u32, f32)>,
    /// Where its last comma is.
    comma: Option<usize>,
}

impl Open {
    /// Makes a chunk of what there is, and leaves an empty one.
    fn close(&mut self, tokenizer: &Tokenizer) -> Chunk {
        let Open { tokens, .. } = std::mem::take(self);
        let mut chunk =
            Chunk { ids: [tokenizer.end(); CONTEXT], weights: [1.0; CONTEXT], used: tokens.len() };
        chunk.ids[0] = tokenizer.start();
        for (place, (id, weight)) in (1..).zip(tokens) {
            (chunk.ids[place], chunk.weights[place]) = (id, weight);
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
        let chunks = chunks(&Tokenizer::clip(), "");
        let mut ids = [49_407; CONTEXT];
        ids[0] = 49_406;
        assert_eq!(chunks, [Chunk { ids, weights: [1.0; CONTEXT], used: 0 }]);
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
        let ids = |prompt: &str| chunks(&tokenizer, prompt).pop().unwrap().ids;
        assert_eq!(ids("a a")[..6], [0, 3, 3, 1, 2, 2]);
        assert_eq!(ids("a a")[CONTEXT - 1], 2);
        assert_eq!(ids("a <|endoftext|> a")[..5], [0, 3, 1, 2, 2]);
        assert_eq!(ids(&"a ".repeat(75))[CONTEXT - 2..], [3, 1]);
    }

    #[test]
    fn chunks_end_at_words() {
        let clip = Tokenizer::clip();
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
