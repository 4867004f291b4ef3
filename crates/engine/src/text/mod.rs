//! Prompts: from a sentence to chunks of tokens with weights.
//!
//! A text encoder reads 77 tokens at a time: a start token, 75 of the prompt, an end token. A longer
//! prompt is encoded chunk by chunk and the results are put one behind another, as AUTOMATIC1111 does
//! it, so that its prompts mean the same here: emphasis ([`emphasis`]), `BREAK`, and moving what
//! follows a comma into the next chunk rather than cutting a phrase in two.
//!
//! Adapter tags are no business of this module: the caller has taken them out of the prompt.

pub(crate) mod emphasis;
pub(crate) mod tokenizer;

use candle_core::Tensor;

use self::{
    emphasis::{Piece, parse},
    tokenizer::Tokenizer,
};
use crate::{Result, model::clip::CONTEXT};

/// Tokens of the prompt in a chunk.
const CHUNK: usize = CONTEXT - 2;

/// How far from the end of a chunk a comma may be for the phrase behind it to move to the next one:
/// A1111's default.
const COMMA_BACKTRACK: usize = 20;

/// What the text encoder reads at a time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunk {
    /// Start, 75 of the prompt or padding, end.
    pub(crate) ids: [u32; CONTEXT],
    /// How much each token counts; 1 is plain.
    pub(crate) weights: [f32; CONTEXT],
}

/// A prompt in chunks, at least one.
pub(crate) fn chunks(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut open = Open::default();
    for piece in parse(prompt) {
        let (text, weight) = match piece {
            Piece::Break => {
                chunks.push(open.close(tokenizer));
                continue;
            }
            Piece::Text(text, weight) => (text, weight),
        };
        for id in tokenizer.encode(&text)? {
            if tokenizer.comma() == Some(id) {
                open.comma = Some(open.tokens.len());
            } else if open.tokens.len() == CHUNK
                && let Some(comma) = open.comma
                && CHUNK - comma <= COMMA_BACKTRACK
            {
                let moved = open.tokens.split_off(comma + 1);
                chunks.push(open.close(tokenizer));
                open.tokens = moved;
            }
            if open.tokens.len() == CHUNK {
                chunks.push(open.close(tokenizer));
            }
            open.tokens.push((id, weight));
        }
    }
    if !open.tokens.is_empty() || chunks.is_empty() {
        chunks.push(open.close(tokenizer));
    }
    Ok(chunks)
}

/// The chunk that is being filled.
#[derive(Debug, Default)]
struct Open {
    tokens: Vec<(u32, f32)>,
    /// Where its last comma is.
    comma: Option<usize>,
}

impl Open {
    /// Pads what there is, and starts anew.
    fn close(&mut self, tokenizer: &Tokenizer) -> Chunk {
        let Open { tokens, .. } = std::mem::take(self);
        let mut chunk = Chunk { ids: [tokenizer.pad(); CONTEXT], weights: [1.0; CONTEXT] };
        chunk.ids[0] = tokenizer.start();
        for (place, (id, weight)) in tokens.iter().enumerate() {
            (chunk.ids[place + 1], chunk.weights[place + 1]) = (*id, *weight);
        }
        chunk.ids[tokens.len() + 1] = tokenizer.end();
        chunk
    }
}

/// Brings two encoded prompts `(1, 77 n, width)` and `(1, 77 m, width)` to one length by repeating
/// each to the least common multiple of `n` and `m`.
///
/// Attention over repeated keys is what it was over the keys once, so this equals a UNet call for each
/// prompt at its own length.
pub(crate) fn same_length(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, m) = (a.dim(1)? / CONTEXT, b.dim(1)? / CONTEXT);
    let common = n / greatest_common_divisor(n, m) * m;
    Ok((a.repeat((1, common / n, 1))?, b.repeat((1, common / m, 1))?))
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Which tokens of the prompt each chunk holds.
    fn lengths(chunks: &[Chunk], tokenizer: &Tokenizer) -> Vec<usize> {
        let end = tokenizer.end();
        let length = |chunk: &Chunk| chunk.ids.iter().position(|&id| id == end).unwrap_or(0) - 1;
        chunks.iter().map(length).collect()
    }

    #[test]
    fn an_empty_prompt_is_one_chunk_of_padding() -> Result<()> {
        let tokenizer = Tokenizer::clip()?;
        let chunks = chunks(&tokenizer, "")?;
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].ids[..3], [49406, 49407, 49407]);
        assert_eq!(chunks[0].weights, [1.0; CONTEXT]);
        Ok(())
    }

    #[test]
    fn a_phrase_behind_a_late_comma_moves_to_the_next_chunk() -> Result<()> {
        let tokenizer = Tokenizer::clip()?;
        let words = |n: usize| vec!["fox"; n].join(" ");
        let of =
            |prompt: &str| Ok::<_, crate::Error>(lengths(&chunks(&tokenizer, prompt)?, &tokenizer));
        // A comma at place 60 of 75, then 20 more words.
        assert_eq!(of(&format!("{}, {}", words(60), words(20)))?, [61, 20]);
        // Too early to be a reason.
        assert_eq!(of(&format!("{}, {}", words(50), words(30)))?, [75, 6]);
        assert_eq!(of(&words(75))?, [75]);
        assert_eq!(of(&words(76))?, [75, 1]);
        assert_eq!(of(&format!("{} BREAK {}", words(3), words(4)))?, [3, 4]);
        assert_eq!(of("BREAK a")?, [0, 1]);
        Ok(())
    }

    #[test]
    fn repeating_brings_lengths_together() -> Result<()> {
        let of = |n| Tensor::zeros((1, CONTEXT * n, 2), candle_core::DType::F32, &Device::Cpu);
        let (a, b) = same_length(&of(2)?, &of(3)?)?;
        assert_eq!((a.dim(1)?, b.dim(1)?), (CONTEXT * 6, CONTEXT * 6));
        Ok(())
    }
}
