//! Emphasis: `(more)`, `[less]` and `(exactly:1.3)` in a prompt, as AUTOMATIC1111 reads it.
//!
//! Round brackets multiply the weight of what is in them by 1.1, square ones divide it by 1.1, a number
//! before the closing round bracket takes the place of the 1.1. Nested factors multiply. `\(` is a plain
//! bracket. What is not closed goes to the end; a closing bracket without an open one is text.

/// A round bracket's factor; a square one divides by it.
const FACTOR: f32 = 1.1;

/// A stretch of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// Text and its weight.
    Text(String, f32),
    /// The word `BREAK`: the chunk ends here.
    Break,
}

/// Splits a prompt into stretches of equal weight. Never fails: what is no syntax is text.
pub(crate) fn parse(prompt: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    // Where in `pieces` each open bracket began.
    let (mut round, mut square) = (Vec::new(), Vec::new());
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let mut len = first.len_utf8();
        match first {
            '\\' => {
                let escaped = rest[1..].chars().next().filter(|c| "()[]\\".contains(*c));
                len += escaped.map_or(0, char::len_utf8);
                pieces.push(Piece::Text(rest[1..len].to_owned(), 1.0));
            }
            '(' => round.push(pieces.len()),
            '[' => square.push(pieces.len()),
            ')' if !round.is_empty() => multiply(&mut pieces, round.pop(), FACTOR),
            ']' if !square.is_empty() => multiply(&mut pieces, square.pop(), 1.0 / FACTOR),
            ':' if !round.is_empty()
                && let Some((number, end)) = closing_weight(rest) =>
            {
                multiply(&mut pieces, round.pop(), number);
                len = end;
            }
            ')' | ']' | ':' => pieces.push(Piece::Text(first.into(), 1.0)),
            _ => {
                len = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                push_text(&mut pieces, &rest[..len]);
            }
        }
        rest = &rest[len..];
    }
    for open in round {
        multiply(&mut pieces, Some(open), FACTOR);
    }
    for open in square {
        multiply(&mut pieces, Some(open), 1.0 / FACTOR);
    }
    merged(pieces)
}

/// `: 1.3 )` at the start of `text`: the number, and how long it is.
fn closing_weight(text: &str) -> Option<(f32, usize)> {
    let inner = &text[1..text.find(')')?];
    let number = inner.trim();
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number: f32 = number.parse().ok().filter(|_| plain)?;
    Some((number, inner.len() + 2))
}

fn multiply(pieces: &mut [Piece], from: Option<usize>, factor: f32) {
    for piece in &mut pieces[from.unwrap_or(0)..] {
        if let Piece::Text(_, weight) = piece {
            *weight *= factor;
        }
    }
}

/// Adds text, split at the word `BREAK` with the white space around it.
fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    const BREAK: &str = "BREAK";
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut from, mut search) = (0, 0);
    while let Some(at) = text[search..].find(BREAK).map(|at| search + at) {
        let end = at + BREAK.len();
        search = end;
        let inside_word = text[..at].chars().next_back().is_some_and(is_word)
            || text[end..].chars().next().is_some_and(is_word);
        if !inside_word {
            pieces.push(Piece::Text(text[from..at].trim_end().to_owned(), 1.0));
            pieces.push(Piece::Break);
            from = text.len() - text[end..].trim_start().len();
            search = from;
        }
    }
    pieces.push(Piece::Text(text[from..].to_owned(), 1.0));
}

/// Joins neighbors of equal weight, so that a word cut by a bracket of no effect is one word again.
fn merged(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut merged: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (merged.last_mut(), piece) {
            (Some(Piece::Text(text, weight)), Piece::Text(more, same)) if *weight == same => {
                text.push_str(&more);
            }
            (_, piece) => merged.push(piece),
        }
    }
    if merged.is_empty() {
        merged.push(Piece::Text(String::new(), 1.0));
    }
    merged
}

/// Weighs the encoded tokens of one chunk.
///
/// * `states`: `(77, width)`, token after token
/// * `weights`: one for each token
///
/// Every token is multiplied by its weight; then all are multiplied by one number that brings their
/// mean back to what it was ("Original" emphasis of A1111). The means are taken over the one prompt's
/// chunk. Where all weights are 1 no bit changes.
pub(crate) fn apply(states: &mut [f32], weights: &[f32]) {
    if weights.iter().all(|&weight| weight == 1.0) {
        return;
    }
    let width = states.len() / weights.len();
    let mean = |states: &[f32]| states.iter().map(|&x| f64::from(x)).sum::<f64>();
    let before = mean(states);
    for (state, weight) in states.chunks_exact_mut(width).zip(weights) {
        for value in state {
            *value *= weight;
        }
    }
    let restore = before / mean(states);
    if restore.is_finite() {
        for value in states {
            *value *= restore as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prompt: &str, expected: &[(&str, f32)]) {
        let pieces: Vec<_> = parse(prompt)
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(text, weight) => (text, weight),
                Piece::Break => ("BREAK".to_owned(), -1.0),
            })
            .collect();
        assert_eq!(pieces.len(), expected.len(), "{prompt}: {pieces:?}");
        for ((text, weight), (expected_text, expected_weight)) in pieces.iter().zip(expected) {
            assert_eq!(text, expected_text, "{prompt}");
            assert!((weight - expected_weight).abs() < 1e-6, "{prompt}: {weight}");
        }
    }

    #[test]
    fn brackets_weigh_what_is_in_them() {
        check("", &[("", 1.0)]);
        check("normal text", &[("normal text", 1.0)]);
        check("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
        check("(unbalanced", &[("unbalanced", 1.1)]);
        check("((a))b", &[("a", 1.21), ("b", 1.0)]);
        check("[a]", &[("a", 1.0 / 1.1)]);
        check("(a:1.3)", &[("a", 1.3)]);
        check("(a: 1.3 )", &[("a", 1.3)]);
        check("(a (b:2) c:0.5)", &[("a ", 0.5), ("b", 1.0), (" c", 0.5)]);
        check("(a:-0.5)", &[("a", -0.5)]);
    }

    #[test]
    fn what_is_no_syntax_is_text() {
        check(r"\(literal\]", &[("(literal]", 1.0)]);
        check(r"a\\b \c", &[(r"a\b c", 1.0)]);
        check("a) b] c", &[("a) b] c", 1.0)]);
        check("a:1.3)", &[("a:1.3)", 1.0)]);
        check("[a:1.3]", &[("a:1.3", 1.0 / 1.1)]);
        check("(a:b)", &[("a:b", 1.1)]);
        check("(a:1.2.3)", &[("a:1.2.3", 1.1)]);
        check("(a:)", &[("a:", 1.1)]);
    }

    #[test]
    fn break_is_a_word_of_its_own() {
        check("a BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]);
        check("BREAKFAST aBREAK", &[("BREAKFAST aBREAK", 1.0)]);
        check("(a BREAK b:2)", &[("a", 2.0), ("BREAK", -1.0), ("b", 2.0)]);
        check("BREAK", &[("", 1.0), ("BREAK", -1.0), ("", 1.0)]);
    }

    #[test]
    fn no_text_is_too_strange() {
        let alphabet: Vec<char> = r"()[]\:1.-+ aBREAKéß🦊".chars().collect();
        let mut state = 1u64;
        for length in 0..2000 {
            let text: String = (0..length % 40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    alphabet[(state >> 33) as usize % alphabet.len()]
                })
                .collect();
            assert!(!parse(&text).is_empty(), "{text}");
        }
    }

    #[test]
    fn weighing_keeps_the_mean() {
        let mut states: Vec<f32> = (0..77 * 4).map(|i| i as f32 * 0.01 + 1.0).collect();
        let before: f32 = states.iter().sum();
        let mut weights = [1.0; 77];
        apply(&mut states, &weights);
        assert_eq!(states.iter().sum::<f32>(), before);
        weights[3] = 1.3;
        apply(&mut states, &weights);
        assert!((states.iter().sum::<f32>() - before).abs() < 1e-2);
        assert!(states[3 * 4] / states[2 * 4] > 1.29);
    }
}
