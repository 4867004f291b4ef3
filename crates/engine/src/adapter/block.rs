//! Blocks: the parts of a base model that an adapter may act on with weights of their own.
//!
//! They are counted as the original code does: on the way into the UNet, in its middle, on the way out.
//! The list of 26 factors (text encoders, IN00 to IN11, the middle, OUT00 to OUT11) and its shorter forms
//! are those of the extension sd-webui-lora-block-weight, by which people share them.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use crate::{
    architecture::Modules,
    checkpoint::keys::{Renames, UNetBlocks},
};

/// Factors in the full list.
pub const FACTORS: usize = 26;

/// Kinds of [`Block`], for tables of one number for each.
pub const BLOCKS: usize = FACTORS + 2;

/// Blocks on each side of the UNet, as far as the list goes.
const SIDE: usize = 12;

/// Where a module belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Block {
    /// The text encoder; of two, the first.
    TextEncoder,
    /// On the way in, from 0.
    In(usize),
    /// At the lowest resolution.
    Middle,
    /// On the way out, from 0.
    Out(usize),
    /// What belongs to no block of the UNet: time embeddings, the last layers.
    Rest,
    /// SDXL's second text encoder.
    TextEncoder2,
}

impl Block {
    /// Every block, in the order of its [index](Block::index).
    #[must_use]
    pub fn all() -> [Block; BLOCKS] {
        std::array::from_fn(|index| match index {
            0 => Block::TextEncoder,
            1..=SIDE => Block::In(index - 1),
            13 => Block::Middle,
            14..FACTORS => Block::Out(index - 14),
            FACTORS => Block::Rest,
            _ => Block::TextEncoder2,
        })
    }

    /// Its place in tables of [`BLOCKS`] numbers; the first 26 are the places in the list of factors.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Block::TextEncoder => 0,
            Block::In(at) if at < SIDE => 1 + at,
            Block::Middle => 13,
            Block::Out(at) if at < SIDE => 14 + at,
            Block::TextEncoder2 => FACTORS + 1,
            Block::In(_) | Block::Out(_) | Block::Rest => FACTORS,
        }
    }

    /// Whether it is a part of a text encoder.
    #[must_use]
    pub fn is_text_encoder(self) -> bool {
        matches!(self, Block::TextEncoder | Block::TextEncoder2)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Block::TextEncoder => f.write_str("TE"),
            Block::In(at) => write!(f, "IN{at:02}"),
            Block::Middle => f.write_str("MID"),
            Block::Out(at) => write!(f, "OUT{at:02}"),
            Block::Rest => f.write_str("other"),
            Block::TextEncoder2 => f.write_str("TE2"),
        }
    }
}

/// The block of every module of one base model.
#[derive(Debug, Default)]
pub struct Blocks(HashMap<String, Block>);

impl Blocks {
    /// Reads them off the modules' names.
    #[must_use]
    pub fn of(modules: &Modules) -> Blocks {
        let names: BTreeSet<&str> = modules.keys().map(String::as_str).collect();
        let rows = UNetBlocks::from_diffusers(&names, "unet.").rows();
        let to_ldm: Renames = rows.into_iter().map(|(ldm, diffusers)| (diffusers, ldm)).collect();
        let block = |module: &str| match module.strip_prefix("unet.") {
            None if module.starts_with("text_encoder_2.") => Block::TextEncoder2,
            None => Block::TextEncoder,
            Some(path) => to_ldm.rename(path).map_or(Block::Rest, |name| of_original(&name)),
        };
        Blocks(modules.keys().map(|module| (module.clone(), block(module))).collect())
    }

    /// The block of a module; of one that the base model lacks, the rest.
    #[must_use]
    pub fn get(&self, module: &str) -> Block {
        self.0.get(module).copied().unwrap_or(Block::Rest)
    }

    /// Of each block that the base model has: how many of these modules are in it, and how many there are.
    pub fn coverage<'a>(
        &self,
        modules: impl Iterator<Item = &'a str>,
    ) -> Vec<(Block, usize, usize)> {
        let counts = self.count(modules).into_iter().zip(self.sizes());
        let blocks = Block::all().into_iter().zip(counts);
        blocks.filter(|row| row.1.1 > 0).map(|(block, (some, all))| (block, some, all)).collect()
    }

    /// How many modules each block has.
    #[must_use]
    pub fn sizes(&self) -> [usize; BLOCKS] {
        count(self.0.values().copied())
    }

    /// How many of these modules are in each block.
    pub fn count<'a>(&self, modules: impl Iterator<Item = &'a str>) -> [usize; BLOCKS] {
        count(modules.map(|module| self.get(module)))
    }
}

fn count(blocks: impl Iterator<Item = Block>) -> [usize; BLOCKS] {
    let mut counts = [0; BLOCKS];
    blocks.for_each(|block| counts[block.index()] += 1);
    counts
}

/// The block of a module of the UNet by its original name.
fn of_original(name: &str) -> Block {
    let number = |rest: &str| rest.split('.').next().and_then(|number| number.parse().ok());
    if let Some(rest) = name.strip_prefix("input_blocks.") {
        number(rest).map_or(Block::Rest, Block::In)
    } else if let Some(rest) = name.strip_prefix("output_blocks.") {
        number(rest).map_or(Block::Rest, Block::Out)
    } else if name.starts_with("middle_block.") {
        Block::Middle
    } else {
        Block::Rest
    }
}

/// What an adapter's weight is multiplied by in each block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockWeights([f64; FACTORS]);

/// Which places of the full list the shorter ones have.
const SHORT_LISTS: &[&[usize]] = &[
    // SDXL, LoRA: IN04 05 07 08, OUT00 to 05
    &[0, 5, 6, 8, 9, 13, 14, 15, 16, 17, 18, 19],
    // SD 1.x and 2.x, LoRA: IN01 02 04 05 07 08, OUT03 to 11
    &[0, 2, 3, 5, 6, 8, 9, 13, 17, 18, 19, 20, 21, 22, 23, 24, 25],
    // SDXL, LoCon: IN00 to 08, OUT00 to 08
    &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22],
];

/// Names of lists that come with the extension, each with its 17 factors.
pub const PRESETS: &[(&str, [f64; 17])] = &[
    ("NONE", [0.0; 17]),
    ("ALL", [1.0; 17]),
    ("INS", [1., 1., 1., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.]),
    ("IND", [1., 0., 0., 0., 1., 1., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.]),
    ("INALL", [1., 1., 1., 1., 1., 1., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.]),
    ("MIDD", [1., 0., 0., 0., 1., 1., 1., 1., 1., 1., 1., 1., 0., 0., 0., 0., 0.]),
    ("OUTD", [1., 0., 0., 0., 0., 0., 0., 0., 1., 1., 1., 1., 0., 0., 0., 0., 0.]),
    ("OUTS", [1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 1., 1., 1., 1., 1.]),
    ("OUTALL", [1., 0., 0., 0., 0., 0., 0., 0., 1., 1., 1., 1., 1., 1., 1., 1., 1.]),
    ("ALL0.5", [0.5; 17]),
];

impl Default for BlockWeights {
    /// The same everywhere.
    fn default() -> BlockWeights {
        BlockWeights([1.0; FACTORS])
    }
}

impl BlockWeights {
    /// A list of 26 factors, or of 12, 17 or 20; blocks that a shorter one lacks get 0. `None` for another
    /// length, or what is no number.
    #[must_use]
    pub fn new(list: &[f64]) -> Option<BlockWeights> {
        if !list.iter().all(|factor| factor.is_finite()) {
            return None;
        }
        if let Ok(all) = list.try_into() {
            return Some(BlockWeights(all));
        }
        let places = SHORT_LISTS.iter().find(|places| places.len() == list.len())?;
        let mut all = [0.0; FACTORS];
        for (place, factor) in places.iter().zip(list) {
            all[*place] = *factor;
        }
        Some(BlockWeights(all))
    }

    /// A list by its name in [`PRESETS`].
    #[must_use]
    pub fn preset(name: &str) -> Option<BlockWeights> {
        let (_, list) = PRESETS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        BlockWeights::new(list)
    }

    /// The full list.
    #[must_use]
    pub fn factors(&self) -> &[f64; FACTORS] {
        &self.0
    }

    /// The factor of a block; 1 for what is in no list.
    #[must_use]
    pub fn of(&self, block: Block) -> f64 {
        match block {
            Block::Rest => 1.0,
            Block::TextEncoder2 => self.0[0],
            block => self.0.get(block.index()).copied().unwrap_or(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_has_its_place() {
        for (index, block) in Block::all().into_iter().enumerate() {
            assert_eq!(block.index(), index, "{block}");
        }
        assert_eq!(Block::In(12).index(), Block::Rest.index());
    }

    #[test]
    fn modules_belong_to_the_original_blocks() {
        // Two resnets a level, attention on the second level alone, as SDXL has it.
        let names = [
            ("unet.conv_in", Block::In(0)),
            ("unet.down_blocks.0.resnets.0.conv1", Block::In(1)),
            ("unet.down_blocks.0.resnets.1.conv1", Block::In(2)),
            ("unet.down_blocks.0.downsamplers.0.conv", Block::In(3)),
            ("unet.down_blocks.1.resnets.0.conv1", Block::In(4)),
            ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", Block::In(4)),
            ("unet.down_blocks.1.resnets.1.time_emb_proj", Block::In(5)),
            ("unet.down_blocks.1.attentions.1.proj_in", Block::In(5)),
            ("unet.mid_block.attentions.0.proj_in", Block::Middle),
            ("unet.up_blocks.0.resnets.0.conv1", Block::Out(0)),
            ("unet.up_blocks.0.attentions.0.proj_in", Block::Out(0)),
            ("unet.up_blocks.0.resnets.1.conv1", Block::Out(1)),
            ("unet.up_blocks.0.attentions.1.proj_in", Block::Out(1)),
            ("unet.up_blocks.0.upsamplers.0.conv", Block::Out(1)),
            ("unet.up_blocks.1.resnets.0.conv1", Block::Out(2)),
            ("unet.time_embedding.linear_1", Block::Rest),
            ("unet.conv_out", Block::Rest),
            ("text_encoder.text_model.encoder.layers.0.mlp.fc1", Block::TextEncoder),
            ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", Block::TextEncoder2),
        ];
        let blocks = Blocks::of(&names.iter().map(|row| (row.0.to_owned(), vec![4, 4])).collect());
        for (name, block) in names {
            assert_eq!(blocks.get(name), block, "{name}");
        }
        assert_eq!(blocks.sizes()[Block::Out(1).index()], 3);
        assert_eq!(blocks.count(["unet.conv_in", "unet.conv_out"].into_iter())[1], 1);
    }

    #[test]
    fn short_lists_leave_blocks_out() {
        let names: Vec<String> = Block::all().iter().map(Block::to_string).collect();
        let kept = |length: usize| -> Vec<&str> {
            let weights = BlockWeights::new(&vec![1.0; length]).unwrap();
            let factors = weights.factors().iter().zip(&names);
            factors.filter(|(factor, _)| **factor == 1.0).map(|(_, name)| &**name).collect()
        };
        assert_eq!(
            kept(12).join(" "),
            "TE IN04 IN05 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05"
        );
        assert_eq!(kept(17)[..8].join(" "), "TE IN01 IN02 IN04 IN05 IN07 IN08 MID");
        assert_eq!(kept(17)[8..].first(), Some(&"OUT03"));
        assert_eq!(kept(20)[1..10].last(), Some(&"IN08"));
        assert_eq!(kept(26).len(), 26);
        assert_eq!(BlockWeights::new(&[1.0; 13]), None);
        assert_eq!(BlockWeights::new(&[f64::NAN; 17]), None);
    }

    #[test]
    fn presets_are_found_in_any_case() {
        let out = BlockWeights::preset("outall").unwrap();
        assert_eq!((out.of(Block::Out(3)), out.of(Block::In(4))), (1.0, 0.0));
        assert_eq!((out.of(Block::Rest), out.of(Block::TextEncoder2)), (1.0, 1.0));
        assert_eq!(BlockWeights::preset("OUT"), None);
    }
}
