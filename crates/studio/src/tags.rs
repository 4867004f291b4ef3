//! Adapter tags in a prompt: `<lora:NAME:TE:UNET:RANK>`, as A1111 and its extensions read them.
//!
//! A tag is `<type:arguments>`; everything up to the next `>` belongs to it, and it is cut out without
//! leaving anything behind. Arguments are separated by colons. Those of `lora` (and of its other name,
//! `lyco`) are the adapter's name, the text encoder's weight (1 if it is missing), the UNet's (the text
//! encoder's if it is missing) and a limit of the rank; `te=`, `unet=` and `dyn=` name them and win over the
//! positions. `te2=` is ours, for SDXL's second text encoder.
//!
//! Of sd-webui-lora-block-weight: `lbw=` (or `w=`, or in place of the UNet's weight) takes a list of factors
//! or a preset's name, `start=`, `stop=` and `step=a-b` the steps in which the adapter acts.

use std::fmt::Write;

use engine::adapter::{
    block::BlockWeights,
    curve::{Curve, Fade, position},
};

use crate::params::{AdapterParams, FileRef};

/// One adapter as a tag names it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tag {
    /// The adapter's file name without extension, or an alias of it.
    pub name: String,
    /// Weight for the UNet.
    pub unet_weight: f64,
    /// Weight for the text encoder.
    pub text_encoder_weight: f64,
    /// Weight for the second text encoder, if it has one of its own.
    pub text_encoder_2_weight: Option<f64>,
    /// Factors of single blocks.
    pub blocks: Option<BlockWeights>,
    /// The first step in which it acts, from 1.
    pub start: Option<u32>,
    /// The last step in which it acts.
    pub stop: Option<u32>,
    /// How many ranks are used.
    pub rank_limit: Option<u32>,
}

impl Tag {
    /// The tag of an adapter on the stack of a picture of so many steps. What a tag cannot say is left out:
    /// fades.
    #[must_use]
    pub fn of(adapter: &AdapterParams, steps: u32) -> Tag {
        let (start, stop) = adapter.to_use(Default::default()).map_or((None, None), |adapter| {
            interval(&adapter.over_steps, steps).unwrap_or_default()
        });
        Tag {
            name: adapter.file.name.clone(),
            unet_weight: adapter.unet_weight,
            text_encoder_weight: adapter.text_encoder_weight,
            text_encoder_2_weight: adapter.text_encoder_2_weight,
            blocks: adapter.blocks.as_deref().and_then(BlockWeights::new),
            start,
            stop,
            rank_limit: adapter.rank_limit,
        }
    }

    /// The adapter on the stack of a picture of so many steps.
    #[must_use]
    pub fn into_params(self, steps: u32) -> AdapterParams {
        let Tag { start, stop, .. } = self;
        let over_steps = (start.is_some() || stop.is_some()).then(|| {
            let curve = Curve::between(start, stop, steps);
            curve.keyframes().iter().map(|&keyframe| keyframe.into()).collect()
        });
        AdapterParams {
            text_encoder_weight: self.text_encoder_weight,
            text_encoder_2_weight: self.text_encoder_2_weight,
            blocks: self.blocks.map(|blocks| blocks.factors().to_vec()),
            over_steps,
            rank_limit: self.rank_limit,
            ..AdapterParams::new(FileRef::named(self.name), self.unet_weight)
        }
    }
}

/// The first and the last step in which a curve is 1, if it is 0 in all others.
fn interval(curve: &Curve, steps: u32) -> Option<(Option<u32>, Option<u32>)> {
    let frames = curve.keyframes();
    let jumps = frames.iter().all(|frame| frame.fade == Fade::Hold);
    let on: Vec<u32> = (1..=steps).filter(|step| curve.at(position(*step, steps)) != 0.0).collect();
    let (first, last) = (*on.first()?, *on.last()?);
    let whole = on.len() as u32 == last + 1 - first
        && on.iter().all(|step| curve.at(position(*step, steps)) == 1.0);
    (jumps && whole).then_some(((first > 1).then_some(first), (last < steps).then_some(last)))
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
    let mut text = format!("<lora:{name}:{te}");
    if te != unet {
        let _ = write!(text, ":{unet}");
    }
    if let Some(second) = tag.text_encoder_2_weight {
        let _ = write!(text, ":te2={second}");
    }
    if let Some(blocks) = tag.blocks {
        let factors: Vec<String> = blocks.factors().iter().map(f64::to_string).collect();
        let _ = write!(text, ":lbw={}", factors.join(","));
    }
    for (key, number) in [("start", tag.start), ("stop", tag.stop), ("dyn", tag.rank_limit)] {
        if let Some(number) = number {
            let _ = write!(text, ":{key}={number}");
        }
    }
    text + ">"
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
        let mut positional = Vec::new();
        let mut named = Named::default();
        for argument in arguments.split(':') {
            match argument.split('=').collect::<Vec<_>>()[..] {
                [key, value] => {
                    if !named.take(key, value) {
                        let argument = argument.trim();
                        self.warnings.push(format!("`{argument}` in `{tag}` has no effect here"));
                    }
                }
                _ => positional.push(argument),
            }
        }
        let mut positional = positional.into_iter();
        let Some(name) = positional.next().filter(|name| !name.is_empty()) else {
            self.warnings.push(format!("`{tag}` was left out: it names no adapter"));
            return;
        };
        let Named { te, te2, unet, blocks, start, stop, rank_limit } = named;
        let te = te.or(positional.next());
        let (mut third, mut blocks) = (positional.next(), blocks);
        // The extension takes a list here that is no number.
        if let Some(list) = third.filter(|text| number(text).is_none()) {
            third = None;
            match block_weights(list) {
                Some(list) => blocks = blocks.or(Some(list)),
                None => {
                    self.warnings.push(format!("`{list}` in `{tag}` has no effect here"));
                }
            }
        }
        let unet = unet.or(third);
        let rank_limit = rank_limit.or_else(|| positional.next()?.trim().parse().ok());
        let weight = |text: Option<&str>, otherwise| text.map_or(Some(otherwise), number);
        let weights = weight(te, 1.0).and_then(|te| {
            Some((te, weight(unet, te)?, te2.map(|text| number(text).ok_or(())).transpose().ok()?))
        });
        match weights {
            Some((text_encoder_weight, unet_weight, text_encoder_2_weight)) => {
                let name = name.to_owned();
                self.tags.push(Tag {
                    name,
                    unet_weight,
                    text_encoder_weight,
                    text_encoder_2_weight,
                    blocks,
                    start,
                    stop,
                    rank_limit,
                });
            }
            None => {
                self.warnings.push(format!("`{tag}` was left out: a weight of it is not a number"));
            }
        }
    }
}

/// Arguments with a name.
#[derive(Default)]
struct Named<'a> {
    te: Option<&'a str>,
    te2: Option<&'a str>,
    unet: Option<&'a str>,
    blocks: Option<BlockWeights>,
    start: Option<u32>,
    stop: Option<u32>,
    rank_limit: Option<u32>,
}

impl<'a> Named<'a> {
    /// Whether it is understood.
    fn take(&mut self, key: &str, value: &'a str) -> bool {
        let step = |text: &str| text.trim().parse::<u32>().ok();
        match key {
            "te" | "te1" => self.te = Some(value),
            "te2" => self.te2 = Some(value),
            "unet" => self.unet = Some(value),
            "lbw" | "w" => match block_weights(value) {
                Some(list) => self.blocks = Some(list),
                None => return false,
            },
            "start" => self.start = step(value),
            "stop" => self.stop = step(value),
            "step" => match value.split_once('-').map(|(from, to)| (step(from), step(to))) {
                Some((Some(from), Some(to))) => (self.start, self.stop) = (Some(from), Some(to)),
                _ => return false,
            },
            // A limit of 0 would leave nothing.
            "dyn" => self.rank_limit = step(value).filter(|limit| *limit > 0),
            _ => return false,
        }
        let number = match key {
            "start" => self.start,
            "stop" => self.stop,
            "dyn" => self.rank_limit,
            _ => Some(0),
        };
        number.is_some()
    }
}

/// A preset's name, or a list of factors.
fn block_weights(text: &str) -> Option<BlockWeights> {
    BlockWeights::preset(text.trim()).or_else(|| {
        let factors: Option<Vec<f64>> = text.split(',').map(number).collect();
        BlockWeights::new(&factors?)
    })
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, text_encoder_weight: f64, unet_weight: f64) -> Tag {
        Tag { name: name.into(), unet_weight, text_encoder_weight, ..Tag::default() }
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
            ("<lora:x:te2=abc>", 0),
            ("<lora:x:1:OUT>", 1),
            ("<lora:x:1:lbw=1,2,3>", 1),
            ("<lora:x:1:lbwe=IN01>", 1),
            ("<lora:x:1:step=4>", 1),
            ("<lora:x:1:start=R>", 1),
            ("<lora:x:1:dyn=0>", 1),
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
    fn blocks_steps_and_ranks() {
        let outall = BlockWeights::preset("OUTALL");
        let list = "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1";
        let cases = [
            ("<lora:x:1:OUTALL>".to_owned(), Tag { blocks: outall, ..tag("x", 1.0, 1.0) }),
            ("<lora:x:1:0.8:lbw=OUTALL>".into(), Tag { blocks: outall, ..tag("x", 1.0, 0.8) }),
            (format!("<lora:x:0.5:{list}>"), Tag { blocks: outall, ..tag("x", 0.5, 0.5) }),
            (format!("<lora:w={list}:x>"), Tag { blocks: outall, ..tag("x", 1.0, 1.0) }),
            ("<lora:x:1:1:8>".into(), Tag { rank_limit: Some(8), ..tag("x", 1.0, 1.0) }),
            ("<lora:x:1:dyn=4>".into(), Tag { rank_limit: Some(4), ..tag("x", 1.0, 1.0) }),
            (
                "<lora:x:1:start=3:stop=9>".into(),
                Tag { start: Some(3), stop: Some(9), ..tag("x", 1.0, 1.0) },
            ),
            (
                "<lora:x:1:step=3-9>".into(),
                Tag { start: Some(3), stop: Some(9), ..tag("x", 1.0, 1.0) },
            ),
            (
                "<lora:x:te2=0.3:0.5>".into(),
                Tag { text_encoder_2_weight: Some(0.3), ..tag("x", 0.5, 0.5) },
            ),
        ];
        for (prompt, expected) in cases {
            let found = split(&prompt);
            assert_eq!(found.warnings, [""; 0], "{prompt}");
            assert_eq!(found.tags, std::slice::from_ref(&expected), "{prompt}");
            let params = expected.clone().into_params(20);
            assert_eq!(Tag::of(&params, 20), expected, "{prompt}");
        }
    }

    /// A fade is more than a tag can say.
    #[test]
    fn fades_have_no_tag() {
        let mut params = tag("x", 1.0, 1.0).into_params(20);
        let frame = |at, factor, fade| engine::adapter::curve::Keyframe { at, factor, fade }.into();
        params.over_steps = Some(vec![frame(0.0, 0.0, Fade::Linear), frame(1.0, 1.0, Fade::Hold)]);
        assert_eq!(Tag::of(&params, 20), tag("x", 1.0, 1.0));
    }

    #[test]
    fn written_tags_read_back() {
        let more = Tag {
            blocks: BlockWeights::preset("MIDD"),
            start: Some(2),
            stop: Some(7),
            rank_limit: Some(4),
            text_encoder_2_weight: Some(0.25),
            ..tag("d", 1.0, 0.5)
        };
        for tag in [tag("ink", 0.8, 0.8), tag("a b", 0.1, -2.5), tag("c", 1e-7, 1.0), more] {
            assert_eq!(split(&write(&tag)).tags, [tag]);
        }
    }
}
