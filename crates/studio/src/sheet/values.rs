//! Lists of values as a person writes them: numbers, ranges, words.
//!
//! The grammar is that of A1111's X/Y/Z script: values stand between commas; `1-5` counts, `0-1 (+0.25)` goes
//! in steps, `0-1 [5]` has so many values with both ends among them. Unlike there, a range in steps never
//! goes beyond its end. Words may be quoted, as in a CSV file.

use crate::{Code, Error, Result};

/// No axis has more values.
pub(super) const MOST: usize = 400;

/// How far beyond its end a range may come by rounding, in steps.
const ROUNDING: f64 = 1e-6;

/// Numbers, with ranges written out. `whole` numbers count in ranges as A1111 does: fractions are cut off.
///
/// # Errors
/// Names what is no number, and ranges that never end.
pub(super) fn numbers(text: &str, whole: bool) -> Result<Vec<f64>> {
    let mut numbers = Vec::new();
    for item in items(text)? {
        match range(&item)? {
            Some(range) => numbers.extend(if whole { range.whole()? } else { range.numbers()? }),
            None => numbers.push(number(&item)?),
        }
        bounded(numbers.len())?;
    }
    if let Some(part) = numbers.iter().find(|number| whole && number.fract() != 0.0) {
        return Err(wrong(format!("`{part}` is no whole number"), "leave the fraction out"));
    }
    Ok(numbers)
}

/// Words, as they are but for the space around them.
///
/// # Errors
/// Fails if there is none.
pub(super) fn items(text: &str) -> Result<Vec<String>> {
    let mut items = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut item = String::new();
        let quoted = chars.next_if_eq(&'"').is_some();
        while quoted && let Some(c) = chars.next() {
            // Two quotes in a quoted word are one.
            if c == '"' && chars.next_if_eq(&'"').is_none() {
                break;
            }
            item.push(c);
        }
        while let Some(c) = chars.next_if(|c| *c != ',') {
            item.push(c);
        }
        let item = if quoted { item } else { item.trim().to_owned() };
        // An empty word in quotes takes a word away; without quotes it is a slip of the hand.
        if quoted || !item.is_empty() {
            items.push(item);
        }
        if chars.next().is_none() {
            break;
        }
    }
    if items.is_empty() {
        return Err(wrong("it has no values".into(), "write some: `0, 0.5, 1` or `0-1 [5]`"));
    }
    bounded(items.len())?;
    Ok(items)
}

/// From here to there, in steps or in a number of values.
struct Range {
    start: f64,
    end: f64,
    by: By,
}

enum By {
    Step(f64),
    Count(usize),
}

impl Range {
    fn numbers(&self) -> Result<Vec<f64>> {
        let (start, length) = (self.start, self.end - self.start);
        let at = |step: f64, count: usize| {
            // Sums of steps have a tail of rounding that nobody wrote.
            let tidy = |value: f64| (value * 1e9).round() / 1e9;
            (0..count).map(|index| tidy(start + step * index as f64)).collect()
        };
        match self.by {
            By::Count(count) => {
                bounded(count)?;
                let gaps = count.saturating_sub(1).max(1);
                Ok(at(length / gaps as f64, count))
            }
            By::Step(step) => {
                let steps = length / step;
                if step == 0.0 || steps < 0.0 {
                    let found = format!("from {start} steps of {step} never come to {}", self.end);
                    return Err(wrong(
                        found,
                        "a range that falls has a negative step: `1-0 (-0.25)`",
                    ));
                }
                let count = ((steps + ROUNDING).floor() as usize).saturating_add(1);
                bounded(count)?;
                Ok(at(step, count))
            }
        }
    }

    fn whole(&self) -> Result<Vec<f64>> {
        Ok(self.numbers()?.into_iter().map(f64::trunc).collect())
    }
}

/// `start-end`, perhaps with `(+step)` or `[count]` behind it; nothing if it is no range.
fn range(item: &str) -> Result<Option<Range>> {
    let (ends, by) = match item.split_once(['(', '[']) {
        None => (item, None),
        Some((ends, rest)) => (ends, Some(rest.trim_end())),
    };
    let ends = ends.trim();
    // The first may have a sign.
    let dash = ends.char_indices().skip(1).find(|(_, c)| *c == '-').map(|(at, _)| at);
    let Some((start, end)) = dash.map(|at| (&ends[..at], &ends[at + 1..])) else {
        let is_open = by.is_some();
        return if is_open { Err(no_number(item)) } else { Ok(None) };
    };
    let (Some(start), Some(end)) = (plain(start), plain(end)) else {
        // `1e-3` has a dash, too.
        return if plain(item).is_some() { Ok(None) } else { Err(no_number(item)) };
    };
    let by = match by {
        None => By::Step(if end < start { -1.0 } else { 1.0 }),
        Some(rest) => {
            let step = rest.strip_suffix(')').and_then(plain).map(By::Step);
            let count = rest.strip_suffix(']').and_then(|count| count.trim().parse().ok());
            let by = if item.contains('(') { step } else { count.map(By::Count) };
            by.ok_or_else(|| no_number(item))?
        }
    };
    if matches!(by, By::Count(0)) {
        return Err(wrong(format!("`{item}` has no values"), "a range has 1 value at least"));
    }
    Ok(Some(Range { start, end, by }))
}

fn number(item: &str) -> Result<f64> {
    plain(item).ok_or_else(|| no_number(item))
}

/// A number, perhaps with space behind its sign.
fn plain(text: &str) -> Option<f64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (if text.starts_with('-') { -1.0 } else { 1.0 }, rest.trim_start()),
        None => (1.0, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    digits.parse::<f64>().ok().filter(|value| value.is_finite()).map(|value| sign * value)
}

fn bounded(count: usize) -> Result<()> {
    if count <= MOST {
        return Ok(());
    }
    Err(wrong(format!("it has more than {MOST} values"), "take larger steps, or fewer values"))
}

fn no_number(item: &str) -> Error {
    let hint = "numbers are written `0.5`, ranges `0-1 (+0.25)`, `0-1 [5]` or `1-5`";
    wrong(format!("`{item}` is no number and no range"), hint)
}

fn wrong(found: String, hint: &str) -> Error {
    Error::new(Code::InvalidParams { field: "values" }, found).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges() {
        let cases: &[(&str, &[f64])] = &[
            ("0.5", &[0.5]),
            (" 0, .5 ,1.", &[0.0, 0.5, 1.0]),
            ("-0.5, +0.5, - 1", &[-0.5, 0.5, -1.0]),
            ("1-3", &[1.0, 2.0, 3.0]),
            ("3-1", &[3.0, 2.0, 1.0]),
            ("0-1 (+0.25)", &[0.0, 0.25, 0.5, 0.75, 1.0]),
            ("0-1(+0.1)", &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
            ("0-1 (+0.3)", &[0.0, 0.3, 0.6, 0.9]),
            ("1-0 (-0.5)", &[1.0, 0.5, 0.0]),
            ("0-1 [5]", &[0.0, 0.25, 0.5, 0.75, 1.0]),
            ("0-1 [1]", &[0.0]),
            ("-1-1 [3]", &[-1.0, 0.0, 1.0]),
            ("-1--0.5 [2]", &[-1.0, -0.5]),
            ("0-1 [2], 2, 4-5", &[0.0, 1.0, 2.0, 4.0, 5.0]),
            ("1e-3", &[0.001]),
        ];
        for (text, expected) in cases {
            assert_eq!(&numbers(text, false).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn whole_numbers_as_in_a1111() {
        assert_eq!(numbers("1-10 [5]", true).unwrap(), [1.0, 3.0, 5.0, 7.0, 10.0]);
        assert_eq!(numbers("4, 8-16 (+4)", true).unwrap(), [4.0, 8.0, 12.0, 16.0]);
        assert!(numbers("1.5", true).is_err());
        let large = 9_007_199_254_740_991.0;
        assert_eq!(numbers("9007199254740991", true).unwrap(), [large]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("", "no values"),
            (" , ", "no values"),
            ("fox", "`fox`"),
            ("1, x", "`x`"),
            ("0-1 (0)", "never"),
            ("0-1 (-0.5)", "never"),
            ("0-1 [0]", "no values"),
            ("0-1 [x]", "`0-1 [x]`"),
            ("0-1 (+0.1", "`0-1 (+0.1`"),
            ("0-1 [5)", "`0-1 [5)`"),
            ("5 [2]", "`5 [2]`"),
            ("inf", "`inf`"),
            ("nan", "`nan`"),
            ("0-1 (+0.000001)", "more than 400"),
            ("0-1 [100000000000]", "more than 400"),
            ("1-1000", "more than 400"),
        ] {
            let error = numbers(text, false).unwrap_err();
            assert!(error.message().contains(word), "{text}: {error}");
            assert!(error.suggestion().is_some());
        }
    }

    #[test]
    fn words_may_be_quoted() {
        let cases: &[(&str, &[&str])] = &[
            ("fox, owl ,castle", &["fox", "owl", "castle"]),
            ("a fox", &["a fox"]),
            (r#""a fox, red", owl"#, &["a fox, red", "owl"]),
            (r#"fox, """#, &["fox", ""]),
            (r#""say ""hi""", x"#, &[r#"say "hi""#, "x"]),
            ("fox,,owl,", &["fox", "owl"]),
        ];
        for (text, expected) in cases {
            assert_eq!(&items(text).unwrap(), expected, "{text}");
        }
    }
}
