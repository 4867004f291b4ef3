//! Adapter tags in a prompt: `<lora:NAME:TE:UNET>`, as A1111 reads them.
//!
//! A tag is `<type:arguments>`; everything up to the next `>` belongs to it, and it is cut out without
//! leaving anything behind. Arguments are separated by colons. Those of `lora` (and of its other name,
//! `lyco`) are the adapter's name, the text encoder's weight (1 if it is missing) and the UNet's (the
//! text encoder's if it is missing); `te=` and `unet=` name them and win over the positions.

/// One adapter as a tag names it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tag {
    /// The adapter's file name without extension, or an alias of it.
    pub name: String,
    /// Weight for the UNet.
    pub unet_weight: f64,
    /// Weight for the text encoder.
    pub text_encoder_weight: f64,
}

/// A prompt without its tags, the tags, and what could not be honored.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The prompt without tags.
    pub prompt: String,
    /// Adapters in the order of the prompt.
    pub tags: Vec<Tag>,
    /// Clauses for the person.
    pub warnings: Vec<String>,
}

/// Takes the tags out of a prompt.
///
/// Text that only looks like a tag (no `>`, nothing behind the colon) stays where it is. White space is
/// left alone, except at the ends of a prompt that had tags: to the tokenizer it makes no difference.
#[must_use]
pub fn split(prompt: &str) -> Split {
    let mut found = Split { prompt: String::new(), tags: Vec::new(), warnings: Vec::new() };
    let (mut rest, mut any) = (prompt, false);
    while let Some(start) = rest.find('<') {
        let (before, from) = rest.split_at(start);
        found.prompt.push_str(before);
        match parse(from) {
            Some((kind, arguments, len)) => {
                any = true;
                found.take(kind, arguments, &from[..len]);
                rest = &from[len..];
            }
            None => {
                found.prompt.push('<');
                rest = &from[1..];
            }
        }
    }
    found.prompt.push_str(rest);
    if any {
        found.prompt = found.prompt.trim().to_owned();
    }
    found
}

/// The tag as it is written into a prompt.
#[must_use]
pub fn write(tag: &Tag) -> String {
    // Neither character can be escaped in a tag.
    let name = tag.name.replace([':', '>'], "");
    let Tag { unet_weight: unet, text_encoder_weight: te, .. } = tag;
    if te == unet { format!("<lora:{name}:{te}>") } else { format!("<lora:{name}:{te}:{unet}>") }
}

/// Type, arguments and length of a tag that begins here.
fn parse(text: &str) -> Option<(&str, &str, usize)> {
    let (kind, rest) = text[1..].split_once(|c: char| !c.is_alphanumeric() && c != '_')?;
    let colon = 1 + kind.len();
    if kind.is_empty() || !text[colon..].starts_with(':') {
        return None;
    }
    let (arguments, _) = rest.split_once('>')?;
    (!arguments.is_empty()).then_some((kind, arguments, colon + 1 + arguments.len() + 1))
}

impl Split {
    fn take(&mut self, kind: &str, arguments: &str, tag: &str) {
        if kind != "lora" && kind != "lyco" {
            self.warnings.push(format!("`{tag}` was left out: only adapters (`lora`) can be used"));
            return;
        }
        let (mut positional, mut te, mut unet) = (Vec::new(), None, None);
        for argument in arguments.split(':') {
            match argument.split('=').collect::<Vec<_>>()[..] {
                ["te", value] => te = Some(value),
                ["unet", value] => unet = Some(value),
                ["dyn", _] => self.rank_limit(tag),
                [other, _] => {
                    self.warnings.push(format!("`{other}` in `{tag}` has no effect here"));
                }
                _ => positional.push(argument),
            }
        }
        let mut positional = positional.into_iter();
        let Some(name) = positional.next().filter(|name| !name.is_empty()) else {
            self.warnings.push(format!("`{tag}` was left out: it names no adapter"));
            return;
        };
        let te = te.or(positional.next());
        let unet = match (unet, positional.next()) {
            // Here some extensions put the weights of single blocks.
            (None, Some(blocks)) if number(blocks).is_none() => {
                self.warnings.push(format!("`{blocks}` in `{tag}` has no effect here"));
                None
            }
            (named, third) => named.or(third),
        };
        if positional.next().is_some() {
            self.rank_limit(tag);
        }
        let weight = |text: Option<&str>, otherwise| text.map_or(Some(otherwise), number);
        let weights = weight(te, 1.0).and_then(|te| weight(unet, te).map(|unet| (te, unet)));
        match weights {
            Some((text_encoder_weight, unet_weight)) => {
                let name = name.to_owned();
                self.tags.push(Tag { name, unet_weight, text_encoder_weight });
            }
            None => {
                self.warnings.push(format!("`{tag}` was left out: a weight of it is not a number"));
            }
        }
    }

    fn rank_limit(&mut self, tag: &str) {
        self.warnings.push(format!("`{tag}` limits the rank, which has no effect here"));
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, text_encoder_weight: f64, unet_weight: f64) -> Tag {
        Tag { name: name.into(), unet_weight, text_encoder_weight }
    }

    #[test]
    fn positions_and_names_as_in_a1111() {
        let cases = [
            ("<lora:ink>", tag("ink", 1.0, 1.0)),
            ("<lora:ink:0.5>", tag("ink", 0.5, 0.5)),
            ("<lora:ink:0.5:0.25>", tag("ink", 0.5, 0.25)),
            ("<lyco:ink:-1>", tag("ink", -1.0, -1.0)),
            ("<lora:ink:te=0.5>", tag("ink", 0.5, 0.5)),
            ("<lora:ink:unet=0.5>", tag("ink", 1.0, 0.5)),
            ("<lora:ink:1:unet=0.3:te=0.2>", tag("ink", 0.2, 0.3)),
            ("<lora:te=0.2:ink>", tag("ink", 0.2, 0.2)),
            ("<lora:My LoRA v1.2 (final):0.7>", tag("My LoRA v1.2 (final)", 0.7, 0.7)),
        ];
        for (prompt, expected) in cases {
            let found = split(prompt);
            assert_eq!(found.tags, [expected], "{prompt}");
            assert_eq!(found.warnings, [""; 0], "{prompt}");
            assert_eq!(found.prompt, "");
        }
    }

    #[test]
    fn tags_leave_nothing_behind() {
        let found = split("a <lora:x:1>fox, <lora:y:0.5:0.2> on ice <lora:x:0.1>");
        assert_eq!(found.prompt, "a fox,  on ice");
        assert_eq!(found.tags, [tag("x", 1.0, 1.0), tag("y", 0.5, 0.2), tag("x", 0.1, 0.1)]);
    }

    #[test]
    fn what_is_no_tag_stays() {
        for prompt in ["a < b", "<3", "<lora>", "<lora:>", "a <lora:x", "<:x>", "<krk>", " x "] {
            let found = split(prompt);
            assert_eq!(found.prompt, prompt);
            assert!(found.tags.is_empty() && found.warnings.is_empty(), "{prompt}: {found:?}");
        }
        // A tag ends at the next `>`, wherever it began.
        assert_eq!(split("1 < 2 <lora:x:1>").tags, [tag("x", 1.0, 1.0)]);
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let cases = [
            ("<hypernet:x:1>", 0),
            ("<lora:x:abc>", 0),
            ("<lora:x:1:1:8>", 1),
            ("<lora:x:1:dyn=8>", 1),
            ("<lora:x:1:OUTALL>", 1),
            ("<lora:x:1:lbw=OUTALL>", 1),
            ("<lora::1>", 0),
            ("<lora:x:nan>", 0),
        ];
        for (prompt, tags) in cases {
            let found = split(prompt);
            assert_eq!(found.tags.len(), tags, "{prompt}");
            assert_eq!(found.warnings.len(), 1, "{prompt}: {:?}", found.warnings);
            assert_eq!(found.prompt, "");
        }
    }

    #[test]
    fn written_tags_read_back() {
        for tag in [tag("ink", 0.8, 0.8), tag("a b", 0.1, -2.5), tag("c", 1e-7, 1.0)] {
            assert_eq!(split(&write(&tag)).tags, [tag]);
        }
    }
}
