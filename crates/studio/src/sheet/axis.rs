//! An axis of a sheet: what changes along it, and its values.

use std::collections::BTreeMap;

use engine::{
    adapter::{Outline, Target},
    sample::{SAMPLERS, schedule::SCHEDULES},
};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

use super::values;
use crate::{
    AdapterParams, Code, Error, FileRef, GenerationParams, Kind, Library, Result,
    library::model_name,
};

/// What changes along an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AxisTarget {
    /// How much an adapter weighs; one that is not on the stack is laid on it.
    Weight {
        /// The adapter.
        file: FileRef,
        /// Which of its weights.
        part: WeightPart,
    },
    /// Sampler steps.
    Steps,
    /// Classifier-free guidance.
    Guidance,
    /// The seed.
    Seed,
    /// The sampler, by id or name.
    Sampler,
    /// The schedule, by id or name.
    Schedule,
    /// Which layer of the text encoder.
    ClipSkip,
    /// How much of the first picture is repainted.
    Denoising,
    /// The base model, by name.
    Model,
    /// Words of the prompts: the first of the values is what is sought, each takes its place.
    Words,
}

/// Which weights of an adapter an axis changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
pub enum WeightPart {
    /// All alike.
    Both,
    /// The UNet's.
    Unet,
    /// The text encoders'.
    TextEncoder,
}

/// An axis as a person asks for it.
#[derive(Debug, Clone, PartialEq, Deserialize, TS)]
pub struct AxisWish {
    /// What changes.
    pub target: AxisTarget,
    /// What the person calls an adapter; `null`: what the library calls it.
    #[serde(default)]
    pub title: Option<String>,
    /// Values between commas, with ranges: `0-1 (+0.25)`, `0-1 [5]`, `1-5`.
    pub values: String,
}

/// An axis as it is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct Axis {
    /// What changes.
    pub target: AxisTarget,
    /// What it is called.
    pub title: String,
    /// What must be made anew from one value to the next.
    pub reach: Reach,
    /// From left to right, or from the bottom to the top.
    pub values: Vec<AxisValue>,
}

/// A place on an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
pub struct AxisValue {
    /// For a person.
    pub label: String,
    /// What is put in.
    pub value: Entry,
}

/// What is put in at a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[serde(untagged)]
pub enum Entry {
    /// A weight, a number of steps, …
    Number(f64),
    /// An id, a name, a word.
    Text(String),
}

/// What must be made anew where a value changes, from the cheapest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Nothing of the weights.
    Sampling,
    /// Modules of the UNet.
    Unet,
    /// What the text encoders say.
    Conditioning,
    /// Everything.
    Model,
}

impl Axis {
    /// Reads the values that are wanted. Files are looked up by name, and nothing of them is loaded.
    ///
    /// # Errors
    /// Names the axis and the value that cannot be used.
    pub fn read(
        wish: &AxisWish,
        field: &'static str,
        params: &GenerationParams,
        library: &Library,
    ) -> Result<Axis> {
        let title = title(wish, library);
        let explain = |error: Error| {
            let message = format!("the values of “{title}” cannot be used: {}", error.message());
            let explained = Error::new(Code::InvalidParams { field }, message);
            match error.suggestion() {
                Some(hint) => explained.hint(hint),
                None => explained,
            }
        };
        let values = wish.target.read(&wish.values, params, library).map_err(explain)?;
        let reach = wish.target.reach(params, library).map_err(explain)?;
        Ok(Axis { target: wish.target.clone(), title, reach, values })
    }

    /// Puts in the value at a place.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn apply(&self, place: usize, params: &mut GenerationParams) {
        match (&self.target, &self.values[place].value) {
            (AxisTarget::Weight { file, part }, Entry::Number(weight)) => {
                set_weight(&mut params.adapters, file, *part, *weight);
            }
            (AxisTarget::Steps, Entry::Number(steps)) => params.steps = *steps as u32,
            (AxisTarget::Guidance, Entry::Number(scale)) => params.guidance_scale = *scale,
            (AxisTarget::Seed, Entry::Number(seed)) => params.seed = Some(*seed as u64),
            (AxisTarget::ClipSkip, Entry::Number(layer)) => params.clip_skip = *layer as u32,
            (AxisTarget::Denoising, Entry::Number(strength)) => {
                if let Some(init) = &mut params.init {
                    init.denoising_strength = *strength;
                }
            }
            (AxisTarget::Sampler, Entry::Text(id)) => params.sampler.clone_from(id),
            (AxisTarget::Schedule, Entry::Text(id)) => params.schedule.clone_from(id),
            (AxisTarget::Model, Entry::Text(name)) if *name != params.model.name => {
                params.model = FileRef::named(name);
                // What was said of the one does not hold for another.
                params.prediction = None;
            }
            (AxisTarget::Words, Entry::Text(word)) => {
                if let Entry::Text(sought) = &self.values[0].value {
                    for prompt in [&mut params.prompt, &mut params.negative_prompt] {
                        *prompt = prompt.replace(sought, word);
                    }
                }
            }
            _ => {}
        }
    }
}

impl AxisTarget {
    fn read(
        &self,
        text: &str,
        params: &GenerationParams,
        library: &Library,
    ) -> Result<Vec<AxisValue>> {
        match self {
            AxisTarget::Weight { file, .. } => {
                library.path(Kind::Adapter, file)?;
                numbers(text, 2, f64::MIN..=f64::MAX)
            }
            AxisTarget::Steps => whole(text, 1.0..=1000.0),
            AxisTarget::Guidance => numbers(text, 1, f64::MIN..=f64::MAX),
            // Larger ones cannot be told apart.
            AxisTarget::Seed => whole(text, 0.0..=9_007_199_254_740_991.0),
            AxisTarget::ClipSkip => whole(text, 1.0..=12.0),
            AxisTarget::Denoising if params.init.is_none() => {
                let message = "there is no picture to start from";
                Err(Error::new(Code::InvalidParams { field: "init" }, message)
                    .hint("choose one first: without it the denoising strength means nothing"))
            }
            AxisTarget::Denoising => numbers(text, 2, 0.0..=1.0),
            AxisTarget::Sampler => {
                choices(text, "sampler", SAMPLERS.iter().map(|record| (record.id, record.name)))
            }
            AxisTarget::Schedule => {
                choices(text, "schedule", SCHEDULES.iter().map(|record| (record.id, record.name)))
            }
            AxisTarget::Model => values::items(text)?
                .into_iter()
                .map(|name| {
                    let path = library.path(Kind::BaseModel, &FileRef::named(&name))?;
                    Ok(AxisValue { label: model_name(&path), value: Entry::Text(name) })
                })
                .collect(),
            AxisTarget::Words => words(text, params),
        }
    }

    fn reach(&self, params: &GenerationParams, library: &Library) -> Result<Reach> {
        Ok(match self {
            AxisTarget::Weight { part: WeightPart::Unet, .. } => Reach::Unet,
            AxisTarget::Weight { part: WeightPart::TextEncoder, .. } => Reach::Conditioning,
            AxisTarget::Weight { file, part: WeightPart::Both } => {
                match acts_on_words(params, file, library) {
                    true => Reach::Conditioning,
                    false => Reach::Unet,
                }
            }
            AxisTarget::ClipSkip | AxisTarget::Words => Reach::Conditioning,
            AxisTarget::Model => Reach::Model,
            AxisTarget::Steps
            | AxisTarget::Guidance
            | AxisTarget::Seed
            | AxisTarget::Sampler
            | AxisTarget::Schedule
            | AxisTarget::Denoising => Reach::Sampling,
        })
    }

    fn noun(&self) -> &'static str {
        match self {
            AxisTarget::Weight { .. } => "Weight",
            AxisTarget::Steps => "Steps",
            AxisTarget::Guidance => "Guidance",
            AxisTarget::Seed => "Seed",
            AxisTarget::Sampler => "Sampler",
            AxisTarget::Schedule => "Schedule",
            AxisTarget::ClipSkip => "Clip skip",
            AxisTarget::Denoising => "Denoising strength",
            AxisTarget::Model => "Ground",
            AxisTarget::Words => "Words",
        }
    }
}

/// Whether an adapter changes a text encoder, from headers alone. One that cannot be read says why when the
/// first picture is made.
fn acts_on_words(params: &GenerationParams, adapter: &FileRef, library: &Library) -> bool {
    let look = || -> Result<bool> {
        let target = Target::open(&library.path(Kind::BaseModel, &params.model)?)?;
        let outline = Outline::open(&library.path(Kind::Adapter, adapter)?)?;
        let (report, _) = target.fit(&outline);
        let coverage = target.coverage(&report);
        Ok(coverage.iter().any(|(block, changed, _)| block.is_text_encoder() && *changed > 0))
    };
    look().unwrap_or(true)
}

fn title(wish: &AxisWish, library: &Library) -> String {
    let AxisTarget::Weight { file, part } = &wish.target else {
        return wish.target.noun().to_owned();
    };
    let found = |file: &FileRef| {
        let path = library.path(Kind::Adapter, file).ok()?;
        let entry = library.entries().iter().find(|entry| entry.path == path)?;
        entry.title.clone()
    };
    let name = wish.title.clone().or_else(|| found(file)).unwrap_or_else(|| file.name.clone());
    match part {
        WeightPart::Both => name,
        WeightPart::Unet => format!("{name}, UNet"),
        WeightPart::TextEncoder => format!("{name}, text encoder"),
    }
}

fn set_weight(stack: &mut Vec<AdapterParams>, file: &FileRef, part: WeightPart, weight: f64) {
    let same = |adapter: &AdapterParams| match (&adapter.file.sha256, &file.sha256) {
        (Some(one), Some(other)) => one == other,
        _ => adapter.file.name == file.name,
    };
    let at = stack.iter().position(same).unwrap_or_else(|| {
        stack.push(AdapterParams::new(file.clone(), 0.0));
        stack.len() - 1
    });
    let adapter = &mut stack[at];
    adapter.enabled = true;
    if part != WeightPart::TextEncoder {
        adapter.unet_weight = weight;
    }
    if part != WeightPart::Unet {
        adapter.text_encoder_weight = weight;
        adapter.text_encoder_2_weight = None;
    }
}

/// Numbers, all with as many digits as the longest needs.
fn numbers(
    text: &str,
    least_digits: usize,
    allowed: std::ops::RangeInclusive<f64>,
) -> Result<Vec<AxisValue>> {
    labelled(values::numbers(text, false)?, least_digits, allowed)
}

fn whole(text: &str, allowed: std::ops::RangeInclusive<f64>) -> Result<Vec<AxisValue>> {
    labelled(values::numbers(text, true)?, 0, allowed)
}

fn labelled(
    numbers: Vec<f64>,
    least_digits: usize,
    allowed: std::ops::RangeInclusive<f64>,
) -> Result<Vec<AxisValue>> {
    const EXACT_DIGITS: usize = 3;
    const MOST_DIGITS: usize = 6;
    if let Some(outside) = numbers.iter().find(|number| !allowed.contains(number)) {
        let message = format!("{outside} is out of range");
        return Err(Error::new(Code::InvalidParams { field: "values" }, message).hint(format!(
            "it goes from {} to {}",
            allowed.start(),
            allowed.end()
        )));
    }
    let digits =
        |number: &f64| number.to_string().split_once('.').map_or(0, |(_, digits)| digits.len());
    let exact = numbers.iter().map(digits).max().unwrap_or(0).max(least_digits);
    // A third has no end: as many digits as tell the values apart.
    let told_apart = |digits: &usize| {
        let (digits, mut seen) = (*digits, BTreeMap::new());
        numbers.iter().all(|number| {
            *seen.entry(format!("{number:.digits$}")).or_insert(number.to_bits())
                == number.to_bits()
        })
    };
    let digits = match exact {
        _ if exact <= EXACT_DIGITS => exact,
        _ => (least_digits..MOST_DIGITS).find(told_apart).unwrap_or(MOST_DIGITS),
    };
    let value = |number: f64| AxisValue {
        label: format!("{number:.digits$}"),
        value: Entry::Number(number),
    };
    Ok(numbers.into_iter().map(value).collect())
}

/// Records of a table, by id or by name.
fn choices<'a>(
    text: &str,
    noun: &str,
    table: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Result<Vec<AxisValue>> {
    let find = |wanted: String| {
        let mut records = table.clone();
        let found = records.find(|(id, name)| *id == wanted || name.eq_ignore_ascii_case(&wanted));
        let (id, name) = found.ok_or_else(|| {
            let ids: Vec<_> = table.clone().map(|(id, _)| id).collect();
            Error::new(
                Code::InvalidParams { field: "values" },
                format!("there is no {noun} `{wanted}`"),
            )
            .hint(format!("choose from {}", ids.join(", ")))
        })?;
        Ok(AxisValue { label: name.to_owned(), value: Entry::Text(id.to_owned()) })
    };
    values::items(text)?.into_iter().map(find).collect()
}

fn words(text: &str, params: &GenerationParams) -> Result<Vec<AxisValue>> {
    let words = values::items(text)?;
    let sought = &words[0];
    let stands = |prompt: &str| !sought.is_empty() && prompt.contains(sought.as_str());
    if !stands(&params.prompt) && !stands(&params.negative_prompt) {
        let message = format!("`{sought}` stands neither in the prompt nor in the negative prompt");
        return Err(Error::new(Code::InvalidParams { field: "values" }, message).hint(
            "begin with a word of the prompt, as it is written there; the others take its place",
        ));
    }
    let value = |word: String| AxisValue {
        label: if word.is_empty() { "without".to_owned() } else { word.clone() },
        value: Entry::Text(word),
    };
    Ok(words.into_iter().map(value).collect())
}
