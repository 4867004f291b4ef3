//! Models and adapters that were distilled to need few steps: recognized by what they are called.
//!
//! Nothing in their tensors tells them from others. So what is said here is a suggestion, for a person to
//! take or to leave.
//!
//! # Adding one
//!
//! Add a row to [`METHODS`].

/// A method of distillation, and what its makers say a picture needs.
#[derive(Debug, PartialEq)]
pub struct Method {
    /// For files.
    pub id: &'static str,
    /// For a person.
    pub name: &'static str,
    /// Words that its models have in their names.
    words: &'static [&'static str],
    /// Steps, where the name does not say for how many it was made.
    steps: u32,
    /// Classifier-free guidance; 1 is none.
    pub guidance_scale: f64,
    /// Id of the sampler.
    pub sampler: &'static str,
    /// Id of the schedule.
    pub schedule: &'static str,
}

/// What a model's name says of how it wants to be used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Acceleration {
    /// The method that it was distilled with.
    pub method: &'static Method,
    /// How many steps it needs.
    pub steps: u32,
}

/// In the order in which they are looked for: names of merges have several.
pub static METHODS: &[Method] = &[
    // Luo et al., 2023, <https://arxiv.org/abs/2310.04378>.
    Method {
        id: "lcm",
        name: "LCM",
        words: &["lcm"],
        steps: 6,
        guidance_scale: 1.5,
        sampler: "lcm",
        schedule: "sgm_uniform",
    },
    // Lin et al., 2024, <https://arxiv.org/abs/2402.13929>.
    Method {
        id: "lightning",
        name: "Lightning",
        words: &["lightning"],
        steps: 4,
        guidance_scale: 1.0,
        sampler: "euler",
        schedule: "sgm_uniform",
    },
    // Ren et al., 2024, <https://arxiv.org/abs/2404.13686>.
    Method {
        id: "hyper",
        name: "Hyper-SD",
        words: &["hyper", "hypersd"],
        steps: 8,
        guidance_scale: 1.0,
        sampler: "euler",
        schedule: "sgm_uniform",
    },
    // Yin et al., 2024, <https://arxiv.org/abs/2405.14867>.
    Method {
        id: "dmd2",
        name: "DMD2",
        words: &["dmd2", "dmd"],
        steps: 4,
        guidance_scale: 1.0,
        sampler: "lcm",
        schedule: "sgm_uniform",
    },
    // Sauer et al., 2023, <https://arxiv.org/abs/2311.17042>.
    Method {
        id: "turbo",
        name: "Turbo",
        words: &["turbo"],
        steps: 4,
        guidance_scale: 1.0,
        sampler: "euler_a",
        schedule: "sgm_uniform",
    },
];

impl Acceleration {
    /// What a method wants whose id is known.
    #[must_use]
    pub fn by(id: &str) -> Option<Acceleration> {
        let method = METHODS.iter().find(|method| method.id == id)?;
        Some(Acceleration { method, steps: method.steps })
    }
}

/// What names (of a file, in its metadata) say; the first that says something counts.
pub fn recognize<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Acceleration> {
    names.into_iter().find_map(|name| {
        let words = words(name);
        let has =
            |method: &&Method| method.words.iter().any(|word| words.iter().any(|w| w == word));
        let method = METHODS.iter().find(has)?;
        Some(Acceleration { method, steps: steps(&words).unwrap_or(method.steps) })
    })
}

/// The words of a name in lower case. They end where the kind of character changes, but a capital
/// belongs to what follows it, and digits to what comes before them: "dreamXL_v2Turbo8Step" is `dream xl
/// v2 turbo8 step`; digits behind a word also stand alone.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = ' ';
    for c in name.chars() {
        let begins = !before.is_alphanumeric()
            || c.is_uppercase() && !before.is_uppercase()
            || c.is_alphabetic() && before.is_numeric();
        if c.is_alphanumeric() {
            let lower = c.to_lowercase();
            match words.last_mut().filter(|_| !begins) {
                Some(word) => word.extend(lower),
                None => words.push(lower.collect()),
            }
        }
        before = c;
    }
    words
}

/// The number that stands before "step" or "steps".
fn steps(words: &[String]) -> Option<u32> {
    words.windows(2).find_map(|pair| {
        let digits = pair[0].trim_start_matches(|c: char| !c.is_ascii_digit());
        let count = digits.parse().ok().filter(|count| (1..=64).contains(count))?;
        ["step", "steps"].contains(&pair[1].as_str()).then_some(count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{sampler, schedule};

    #[test]
    fn names_of_real_models_say_what_they_want() {
        for (name, found) in [
            ("sdxl_lightning_4step_unet", Some(("lightning", 4))),
            ("sdxl_lightning_8step_lora", Some(("lightning", 8))),
            ("Hyper-SD15-8steps-CFG-lora", Some(("hyper", 8))),
            ("Hyper-SDXL-1step-lora", Some(("hyper", 1))),
            ("lcm-lora-sdv1-5", Some(("lcm", 6))),
            ("LCM_Dreamshaper_v7_4k", Some(("lcm", 6))),
            ("sd_xl_turbo_1.0_fp16", Some(("turbo", 4))),
            ("dreamshaperXL_v21TurboDPMSDE", Some(("turbo", 4))),
            ("juggernautXL_v9Rdphoto2Lightning", Some(("lightning", 4))),
            ("dmd2_sdxl_4step_lora", Some(("dmd2", 4))),
            ("stable-diffusion-xl-turbo-v1", Some(("turbo", 4))),
            // Words that only look like it.
            ("hyperrealism_v2", None),
            ("turbocharged", None),
            ("lightningMcQueen", Some(("lightning", 4))),
            ("v1-5-pruned-emaonly", None),
        ] {
            let what = recognize([name]).map(|it| (it.method.id, it.steps));
            assert_eq!(what, found, "{name}: {:?}", words(name));
        }
    }

    #[test]
    fn what_they_want_exists() {
        for method in METHODS {
            assert_eq!(sampler(method.sampler).id, method.sampler);
            assert_eq!(schedule(method.schedule).id, method.schedule);
        }
    }
}
