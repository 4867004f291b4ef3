//! The transformer of the UNet: self-attention, cross-attention over the prompt, feed-forward.

use crate::{
    Result,
    architecture::Heads,
    model::layers::Scope,
    ops::{self, Activation, Linear, Map, Norm, Tokens},
};

/// The epsilon of the normalization before the blocks, which differs from that of the resnets.
const NORM_EPS: f32 = 1e-6;

/// The epsilon of the layer normalizations in the blocks.
const LAYER_NORM_EPS: f32 = 1e-5;

/// Transformer blocks over the pixels of a map (Rombach et al., 2022).
#[derive(Debug)]
pub(crate) struct Transformer {
    norm: Norm,
    proj_in: Linear,
    blocks: Vec<Block>,
    proj_out: Linear,
    groups: usize,
}

impl Transformer {
    pub(crate) fn new(
        at: &Scope<'_>,
        channels: usize,
        context: usize,
        heads: Heads,
        groups: usize,
    ) -> Result<Transformer> {
        let proj_in = at.linear("proj_in", channels)?;
        let width = proj_in.0.outputs();
        let expected = match heads {
            Heads::Count(count) => {
                format!("a multiple of {count} outputs, one part for each attention head")
            }
            Heads::Width(width) => {
                format!("a multiple of {width} outputs, so many for each attention head")
            }
        };
        let count = heads.of(width);
        at.require(count.is_some(), "proj_in", &expected)?;
        let heads = count.unwrap_or(1);
        Ok(Transformer {
            norm: at.norm("norm", channels, groups, NORM_EPS)?,
            proj_in,
            blocks: (0..at.count("transformer_blocks", "attn1.to_q"))
                .map(|i| {
                    Block::new(&at.at(format!("transformer_blocks.{i}")), width, context, heads)
                })
                .collect::<Result<_>>()?,
            proj_out: at.linear_to("proj_out", width, channels)?,
            groups,
        })
    }

    /// What its blocks read of a prompt `(B, S, context)`: the same in every step.
    pub(crate) fn read<'a>(
        &'a self,
        prompt: &'a Tokens,
    ) -> impl Iterator<Item = Result<Keys>> + 'a {
        self.blocks.iter().map(|block| block.attn2.keys(prompt))
    }

    /// * `x`: `(B, H, W, C)`
    /// * `prompt`: what [`read`](Transformer::read) gave, from this transformer's first block on
    /// * returns `(B, H, W, C)`
    pub(crate) fn forward<'a>(
        &self,
        x: Map,
        prompt: &mut impl Iterator<Item = &'a Keys>,
    ) -> Result<Map> {
        let size = x.size();
        let h = ops::group_norm(&self.norm, self.groups, &x)?.into_tokens();
        let mut h = ops::linear(&self.proj_in, &{ h })?;
        for (block, keys) in self.blocks.iter().zip(prompt) {
            h = block.forward(h, keys)?;
        }
        let h = ops::linear_plus(&self.proj_out, &h, &x.into_tokens())?;
        Ok(h.into_map(size.height, size.width))
    }
}

/// What attention looks at: keys and values, `(B, S, C)` each.
#[derive(Debug)]
pub(crate) struct Keys {
    keys: Tokens,
    values: Tokens,
}

#[derive(Debug)]
struct Block {
    norm1: Norm,
    attn1: Attention,
    norm2: Norm,
    attn2: Attention,
    norm3: Norm,
    /// To values and gates.
    ff_in: Linear,
    ff_out: Linear,
}

impl Block {
    fn new(at: &Scope<'_>, width: usize, context: usize, heads: usize) -> Result<Block> {
        let norm = |name| at.norm(name, width, 1, LAYER_NORM_EPS);
        let ff_in = at.linear("ff.net.0.proj", width)?;
        let hidden = ff_in.0.outputs();
        at.require(hidden.is_multiple_of(2), "ff.net.0.proj", "values and as many gates")?;
        Ok(Block {
            norm1: norm("norm1")?,
            attn1: Attention::new(&at.at("attn1"), width, width, heads)?,
            norm2: norm("norm2")?,
            attn2: Attention::new(&at.at("attn2"), width, context, heads)?,
            norm3: norm("norm3")?,
            ff_in,
            ff_out: at.linear_to("ff.net.2", hidden / 2, width)?,
        })
    }

    fn forward(&self, x: Tokens, prompt: &Keys) -> Result<Tokens> {
        // What is no longer needed goes at once: its memory, still in the cache, takes what comes next.
        let h = ops::layer_norm(&self.norm1, &x)?;
        let keys = self.attn1.keys(&h)?;
        let x = self.attn1.forward(&{ h }, &{ keys }, &{ x })?;
        let x = self.attn2.forward(&ops::layer_norm(&self.norm2, &x)?, prompt, &{ x })?;
        let h = ops::layer_norm(&self.norm3, &x)?;
        let h = ops::linear_then(&self.ff_in, Activation::Geglu, &{ h })?;
        ops::linear_plus(&self.ff_out, &h, &x)
    }
}

#[derive(Debug)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl Attention {
    /// From tokens of `width` over a context of `context` channels.
    fn new(at: &Scope<'_>, width: usize, context: usize, heads: usize) -> Result<Attention> {
        Ok(Attention {
            to_q: at.linear_to("to_q", width, width)?,
            to_k: at.linear_to("to_k", context, width)?,
            to_v: at.linear_to("to_v", context, width)?,
            to_out: at.linear_to("to_out.0", width, width)?,
            heads,
        })
    }

    /// What there is to see of a context.
    fn keys(&self, context: &Tokens) -> Result<Keys> {
        let (keys, values) = (ops::linear(&self.to_k, context)?, ops::linear(&self.to_v, context)?);
        Ok(Keys { keys, values })
    }

    /// Attention of `x`, plus `residual`.
    fn forward(
        &self,
        x: &Tokens,
        Keys { keys, values }: &Keys,
        residual: &Tokens,
    ) -> Result<Tokens> {
        let q = ops::linear(&self.to_q, x)?;
        let h = ops::attention(&{ q }, keys, values, self.heads, false)?;
        ops::linear_plus(&self.to_out, &h, residual)
    }
}
