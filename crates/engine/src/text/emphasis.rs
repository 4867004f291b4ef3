//! Emphasis: `(more)`, `[less]` and `(exactly:1.3)`, read and applied as AUTOMATIC1111 1.10 does.
//!
//! Round brackets multiply the weight of what is in them by 1.1, square ones divide it by 1.1, and a
//! number before the closing round bracket takes the place of the 1.1. Nested factors multiply.
//! `\(`, `\)`, `\[`, `\]` and `\\` are plain characters. What is not closed goes to the end; a closing
//! bracket without an open one is text, and so is a `:1.3)`. The word `BREAK` ends a chunk.
//!
//! A prompt that was written for A1111 makes the same picture here only if its oddities are kept:
//!
//! - A break is a piece with the text `BREAK` and the weight -1, and brackets multiply that weight like
//!   any other. So within brackets that change it, `BREAK` is a word with a negative weight.
//! - Weights are compared in f64, after multiplying in the order in which brackets close.
//!
//! Two things are different. Where A1111 stops with an error, as in `(a:1.2.3)`, there is text. And a
//! weight is written in ASCII digits.
//!
//! # Units
//!
//! A weight is a factor on a token's encoding: 1 changes nothing.
//!
//! **Invariant:** every string is a prompt. Reading it takes time in proportion to its length.

/// The factor of a round bracket; a square one divides by it.
const FACTOR: f64 = 1.1;

/// The word that ends a chunk, and the weight that tells it from a word.
const BREAK: &str = "BREAK";
const BREAK_WEIGHT: f64 = -1.0;

/// Brackets of a kind that can be open at a time; further ones are text. Each open bracket multiplies
/// every weight behind it, so without a bound a long enough prompt would take hours.
const MAX_OPEN: usize = 100;

/// A stretch of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text of one weight.
    Text {
        /// The text, without brackets and escapes.
        text: String,
        /// Its weight.
        weight: f64,
    },
    /// The chunk ends here.
    Break,
}

/// A stretch of a prompt while brackets are still open around it.
#[derive(Debug)]
struct Run {
    text: String,
    weight: f64,
}

/// Splits a prompt into stretches of equal weight. There is always one.
pub fn parse(prompt: &str) -> Vec<Piece> {
    let mut runs: Vec<Run> = Vec::new();
    // For each open bracket the run that it begins at.
    let (mut round, mut square) = (Vec::new(), Vec::new());
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        match first {
            '\\' => {
                if rest[length..].starts_with(['(', ')', '[', ']', '\\']) {
                    length += 1;
                }
                push(&mut runs, &rest[1..length]);
            }
            '(' if round.len() < MAX_OPEN => round.push(runs.len()),
            '[' if square.len() < MAX_OPEN => square.push(runs.len()),
            '(' | '[' => push(&mut runs, &rest[..length]),
            ':' => match (closing_weight(rest), round.last()) {
                (Some((weight, end)), Some(&from)) => {
                    round.pop();
                    multiply(&mut runs[from..], weight);
                    length = end;
                }
                _ => push(&mut runs, ":"),
            },
            ')' => match round.pop() {
                Some(from) => multiply(&mut runs[from..], FACTOR),
                None => push(&mut runs, ")"),
            },
            ']' => match square.pop() {
                Some(from) => multiply(&mut runs[from..], 1.0 / FACTOR),
                None => push(&mut runs, "]"),
            },
            _ => {
                length = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                push_words(&mut runs, &rest[..length]);
            }
        }
        rest = &rest[length..];
    }
    for from in round {
        multiply(&mut runs[from..], FACTOR);
    }
    for from in square {
        multiply(&mut runs[from..], 1.0 / FACTOR);
    }
    merge(runs)
}

/// Reads `: 1.3 )` at the start of `text`: the number, and the length of all.
fn closing_weight(text: &str) -> Option<(f64, usize)> {
    let number = text.strip_prefix(':')?.trim_start_matches(is_space);
    let end = number.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c)))?;
    let rest = number[end..].trim_start_matches(is_space).strip_prefix(')')?;
    // Digits, one dot and a sign before them: what Rust reads of these characters, so does Python.
    Some((number[..end].parse().ok()?, text.len() - rest.len()))
}

fn push(runs: &mut Vec<Run>, text: &str) {
    runs.push(Run { text: text.to_owned(), weight: 1.0 });
}

fn multiply(runs: &mut [Run], factor: f64) {
    for run in runs {
        run.weight *= factor;
    }
}

/// Adds text, split at the word `BREAK`, which swallows the white space around it.
fn push_words(runs: &mut Vec<Run>, text: &str) {
    let mut from = 0;
    for (at, word) in text.match_indices(BREAK) {
        let end = at + word.len();
        if text[..at].ends_with(is_word_character) || text[end..].starts_with(is_word_character) {
            continue;
        }
        // `from` is at `at` where only white space was between this break and the one before.
        push(runs, text[from..at].trim_end_matches(is_space));
        runs.push(Run { text: word.to_owned(), weight: BREAK_WEIGHT });
        from = text.len() - text[end..].trim_start_matches(is_space).len();
    }
    push(runs, &text[from..]);
}

/// White space as Python's regular expressions have it: Unicode's, and four separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// A character of a word, on whose edge `BREAK` has to end.
fn is_word_character(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Joins neighbors of equal weight: brackets without an effect do not cut a word in two.
fn merge(runs: Vec<Run>) -> Vec<Piece> {
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some(last) if last.weight == run.weight => last.text.push_str(&run.text),
            _ => merged.push(run),
        }
    }
    if merged.is_empty() {
        merged.push(Run { text: String::new(), weight: 1.0 });
    }
    let piece = |run: Run| match run.text == BREAK && run.weight == BREAK_WEIGHT {
        true => Piece::Break,
        false => Piece::Text { text: run.text, weight: run.weight },
    };
    merged.into_iter().map(piece).collect()
}

/// Weighs the encoded tokens of one chunk, in A1111's mode "Original".
///
/// * `states`: `(tokens, width)`, token after token
/// * `weights`: one for each token
///
/// Every token is multiplied by its weight, then all by (old mean / new mean), so that the mean of all
/// `tokens × width` numbers is what it was. A1111 takes the mean over all prompts that it encodes
/// together; here, as there with one picture, a chunk of one prompt is all. Where that quotient is no
/// number, because the new mean is zero or a weight was infinite, the mean is left as it is.
/// If all weights are 1, no bit changes.
///
/// # Panics
/// If `states` cannot be shared evenly by the tokens.
pub fn apply(states: &mut [f32], weights: &[f32]) {
    if weights.iter().all(|&weight| weight == 1.0) || states.is_empty() {
        return;
    }
    assert_eq!(states.len() % weights.len(), 0, "every token has the same width");
    // Both have the same number of terms, so sums do. In f64, a fixed order costs no accuracy.
    let sum = |states: &[f32]| states.iter().map(|&x| f64::from(x)).sum::<f64>();
    let before = sum(states);
    let width = states.len() / weights.len();
    for (token, &weight) in states.chunks_exact_mut(width).zip(weights) {
        for x in token {
            *x *= weight;
        }
    }
    let restore = (before / sum(states)) as f32;
    if restore.is_finite() {
        for x in states {
            *x *= restore;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces as A1111 writes them down.
    fn parsed(prompt: &str) -> Vec<(String, f64)> {
        let pair = |piece| match piece {
            Piece::Text { text, weight } => (text, weight),
            Piece::Break => (BREAK.to_owned(), BREAK_WEIGHT),
        };
        parse(prompt).into_iter().map(pair).collect()
    }

    fn check(prompt: &str, expected: &[(&str, f64)]) {
        let expected: Vec<_> = expected.iter().map(|&(text, w)| (text.to_owned(), w)).collect();
        assert_eq!(parsed(prompt), expected, "{prompt:?}");
    }

    // What A1111 itself makes of forty prompts is in `tests/text.rs`; here is where we differ, and
    // what no example can show.

    #[test]
    fn what_a1111_cannot_read_is_text() {
        check("(a:1.2.3)", &[("a:1.2.3", 1.1)]);
        check("(a:.)", &[("a:.", 1.1)]);
        check("(a:1-2)", &[("a:1-2", 1.1)]);
        check("(a:\u{661})", &[("a:\u{661}", 1.1)]);
    }

    #[test]
    fn a_break_is_one_only_with_its_weight() {
        assert_eq!(parse("a BREAK b")[1], Piece::Break);
        check("(a BREAK b:2)", &[("a", 2.0), ("BREAK", -2.0), ("b", 2.0)]);
        assert!(matches!(&parse("(a BREAK b:2)")[1], Piece::Text { text, .. } if text == BREAK));
        assert_eq!(parse("((a BREAK b:2):0.5)")[1], Piece::Break);
    }

    #[test]
    fn no_string_is_too_strange() {
        let alphabet: Vec<char> =
            "()[]\\:1.-+ \n_aBREAK\u{e9}\u{df}\u{1f98a}\u{1c}".chars().collect();
        let mut state = 1u64;
        for length in 0..4000 {
            let prompt: String = (0..length % 60)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    alphabet[(state >> 33) as usize % alphabet.len()]
                })
                .chain("BREAK".chars().take(length % 7))
                .collect();
            let pieces = parsed(&prompt);
            assert!(!pieces.is_empty(), "{prompt:?}");
            // Text stays in its order; only syntax disappears.
            let kept: String = pieces.iter().map(|(text, _)| text.as_str()).collect();
            let mut rest = prompt.chars();
            assert!(kept.chars().all(|c| rest.any(|r| r == c)), "{prompt:?} -> {kept:?}");
            assert!(pieces.windows(2).all(|two| two[0].1 != two[1].1), "{prompt:?}: {pieces:?}");
        }
    }

    #[test]
    fn a_million_brackets_take_no_time() {
        let start = std::time::Instant::now();
        for unit in ["(a", "([", "(a:", "(:1", ": ", "\\(", "((a))", "BREAK "] {
            parse(&unit.repeat(1_000_000 / unit.len()));
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    #[test]
    fn weights_of_one_change_no_bit() {
        let states: Vec<f32> = (0..77 * 4).map(|i| (i as f32).sin()).collect();
        let mut weighed = states.clone();
        apply(&mut weighed, &[1.0; 77]);
        assert_eq!(weighed, states);
    }

    #[test]
    fn the_mean_is_restored() {
        let states: Vec<f32> = (0..77 * 4).map(|i| (i as f32).sin() + 0.5).collect();
        let mut weighed = states.clone();
        let mut weights = [1.0; 77];
        weights[3] = 1.3;
        apply(&mut weighed, &weights);
        let (before, after): (f32, f32) = (states.iter().sum(), weighed.iter().sum());
        assert!((before - after).abs() < 1e-4 * before, "{before} became {after}");
        let ratio = (weighed[3 * 4] / states[3 * 4]) / (weighed[0] / states[0]);
        assert!((ratio - 1.3).abs() < 1e-6, "{ratio}");
    }

    #[test]
    fn a_mean_that_cannot_be_restored_is_left() {
        let mut states = [1.0, 2.0];
        apply(&mut states, &[0.0, 0.0]);
        assert_eq!(states, [0.0, 0.0]);
    }
}
