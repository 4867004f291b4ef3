//! The UNet: predicts the noise (or the velocity) in latents, given a time and a prompt.
//!
//! Ronneberger et al. (2015) with the transformers of Rombach et al. (2022). Levels, blocks per level
//! and where attention sits are read from the names of the weights.

use crate::{
    Result,
    architecture::{Heads, INPUTS},
    model::{
        layers::Scope,
        resnet::Resnet,
        transformer::{Keys, Transformer},
    },
    ops::{self, Activation, Conv, Linear, Map, Norm, Tokens},
};

/// What no shape shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct UNetConfig {
    /// Attention heads.
    pub(crate) heads: Heads,
    /// Groups of the group normalizations.
    pub(crate) groups: usize,
    /// Epsilon of the resnets' normalizations.
    pub(crate) eps: f32,
    /// Numbers for each of the sizes that stand behind a pooled prompt.
    pub(crate) size_width: usize,
}

/// The denoising network.
#[derive(Debug)]
pub(crate) struct UNet {
    conv_in: Conv,
    time1: Linear,
    time2: Linear,
    added: Option<Added>,
    down: Vec<Level>,
    mid: Mid,
    up: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv,
    groups: usize,
    context: usize,
}

/// One resolution, on the way down or up.
#[derive(Debug)]
struct Level {
    /// Attention follows some of the resnets.
    blocks: Vec<(Resnet, Option<Transformer>)>,
    /// To the next resolution: stride 2 on the way down, behind a doubling on the way up.
    resample: Option<Conv>,
}

/// What is added to the time embedding: pooled prompts, with sizes (SDXL).
#[derive(Debug)]
struct Added {
    linear1: Linear,
    linear2: Linear,
    size_width: usize,
}

/// What a UNet reads of its prompts.
#[derive(Debug)]
pub(crate) struct Prompts {
    /// For each cross-attention, in the order in which they come.
    keys: Vec<Keys>,
    /// Added to the time embedding, `(B, 1, width)`.
    added: Option<Tokens>,
}

/// The lowest resolution: one resnet, then attention, then another. Pruned models have less.
#[derive(Debug)]
struct Mid {
    resnets: Vec<Resnet>,
    attention: Option<Transformer>,
}

impl UNet {
    /// Builds the network from the layers below `at`, for a prompt of `context` channels.
    pub(crate) fn new(at: &Scope<'_>, context: usize, config: UNetConfig) -> Result<UNet> {
        let UNetConfig { heads, groups, eps, size_width } = config;
        let inputs = at.inputs("conv_in").filter(|inputs| INPUTS.contains(inputs));
        let conv_in = at.conv3("conv_in", inputs.unwrap_or(INPUTS[0]), 1, 1)?;
        let mut channels = conv_in.weights.outputs();
        at.require(channels.is_multiple_of(2), "conv_in", "an even number of outputs")?;
        let time1 = at.linear("time_embedding.linear_1", channels)?;
        let time = time1.0.outputs();
        let time2 = at.linear_to("time_embedding.linear_2", time, time)?;
        let added = match at.inputs("add_embedding.linear_1") {
            Some(inputs) => {
                let linear1 = at.linear_to("add_embedding.linear_1", inputs, time)?;
                let linear2 = at.linear_to("add_embedding.linear_2", time, time)?;
                Some(Added { linear1, linear2, size_width })
            }
            None => None,
        };

        let resnet = |at: Scope<'_>, inputs| Resnet::new(&at, inputs, Some(time), groups, eps);
        let attention = |at: &Scope<'_>, i, channels| -> Result<Option<Transformer>> {
            let at = at.at(format!("attentions.{i}"));
            match at.has("proj_in") {
                true => Transformer::new(&at, channels, context, heads, groups).map(Some),
                false => Ok(None),
            }
        };

        // The channels of every map that is kept for the way up.
        let mut skips = vec![channels];
        let mut down = Vec::new();
        for level in 0..at.count("down_blocks", "resnets.0.conv1") {
            let at = at.at(format!("down_blocks.{level}"));
            let mut blocks = Vec::new();
            for i in 0..at.count("resnets", "conv1") {
                let resnet = resnet(at.at(format!("resnets.{i}")), channels)?;
                channels = resnet.channels();
                blocks.push((resnet, attention(&at, i, channels)?));
                skips.push(channels);
            }
            let resample = match at.has("downsamplers.0.conv") {
                true => Some(at.conv3("downsamplers.0.conv", channels, 2, 1)?),
                false => None,
            };
            if let Some(conv) = &resample {
                channels = conv.weights.outputs();
                skips.push(channels);
            }
            down.push(Level { blocks, resample });
        }

        let mid = at.at("mid_block");
        let mut resnets = Vec::new();
        for i in 0..mid.count("resnets", "conv1") {
            let resnet = resnet(mid.at(format!("resnets.{i}")), channels)?;
            channels = resnet.channels();
            resnets.push(resnet);
        }
        let width = resnets.first().map_or(channels, Resnet::channels);
        let mid = Mid { attention: attention(&mid, 0, width)?, resnets };

        let mut up = Vec::new();
        for level in 0..at.count("up_blocks", "resnets.0.conv1") {
            let at = at.at(format!("up_blocks.{level}"));
            let mut blocks = Vec::new();
            for i in 0..at.count("resnets", "conv1") {
                let skip = skips.pop();
                at.require(skip.is_some(), "resnets.0.conv1", "as many resnets down as up")?;
                let inputs = channels + skip.unwrap_or(0);
                let resnet = resnet(at.at(format!("resnets.{i}")), inputs)?;
                channels = resnet.channels();
                blocks.push((resnet, attention(&at, i, channels)?));
            }
            let resample = match at.has("upsamplers.0.conv") {
                true => Some(at.conv3("upsamplers.0.conv", channels, 1, 1)?),
                false => None,
            };
            if let Some(conv) = &resample {
                channels = conv.weights.outputs();
            }
            up.push(Level { blocks, resample });
        }
        at.require(skips.is_empty(), "conv_out", "as many resnets down as up")?;
        let samplers = |levels: &[Level]| levels.iter().filter(|l| l.resample.is_some()).count();
        at.require(samplers(&down) == samplers(&up), "conv_out", "as many levels down as up")?;

        let conv_out = at.conv3("conv_out", channels, 1, 1)?;
        at.require(conv_out.weights.outputs() == 4, "conv_out", "4 outputs")?;
        Ok(UNet {
            norm_out: at.norm("conv_norm_out", channels, groups, eps)?,
            conv_in,
            time1,
            time2,
            added,
            down,
            mid,
            up,
            conv_out,
            groups,
            context,
        })
    }

    /// Channels that it takes: 4, or 9 if it was made for inpainting.
    pub(crate) fn inputs(&self) -> usize {
        self.conv_in.weights.inputs()
    }

    /// Channels of a prompt.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// How many sizes stand behind a pooled prompt of this width; `None` if the network takes no pooled
    /// prompt, or one of another width.
    pub(crate) fn sizes(&self, pooled: usize) -> Option<usize> {
        let Added { linear1, size_width, .. } = self.added.as_ref()?;
        let rest = linear1.0.inputs().checked_sub(pooled)?;
        rest.is_multiple_of(*size_width).then(|| rest / size_width)
    }

    /// What the network reads of the encoded prompts `(B, S, context)`, once for all steps.
    ///
    /// * `pooled`: for each prompt the pooled encoding and [as many sizes](UNet::sizes), if the network
    ///   takes them
    pub(crate) fn read(
        &self,
        prompts: &Tokens,
        pooled: &[(Vec<f32>, Vec<f64>)],
    ) -> Result<Prompts> {
        let blocks = |levels| -> Vec<&Transformer> {
            let levels: &[Level] = levels;
            let blocks = levels.iter().flat_map(|level| &level.blocks);
            blocks.filter_map(|(_, attention)| attention.as_ref()).collect()
        };
        let all = [blocks(&self.down), self.mid.attention.iter().collect(), blocks(&self.up)];
        let keys = all.iter().flatten().flat_map(|attention| attention.read(prompts));
        let keys = keys.collect::<Result<_>>()?;
        let added = self.added.as_ref().map(|added| {
            let rows = pooled.iter().flat_map(|(pooled, sizes)| {
                let waves = sizes.iter().flat_map(|size| sinusoid(*size, added.size_width));
                pooled.iter().copied().chain(waves).collect::<Vec<f32>>()
            });
            let (rows, inputs) = (rows.collect::<Vec<_>>(), added.linear1.0.inputs());
            let rows = Tokens::new(&rows, pooled.len(), inputs, &prompts.storage())?;
            let h = ops::linear_then(&added.linear1, Activation::Silu, &rows)?;
            ops::linear(&added.linear2, &h)
        });
        Ok(Prompts { keys, added: added.transpose()? })
    }

    /// Gives up what the convolutions keep for the next step.
    pub(crate) fn rest(&self) {
        let levels = self.down.iter().chain(&self.up);
        let resnets = levels.flat_map(|level| &level.blocks).map(|(resnet, _)| resnet);
        resnets.chain(&self.mid.resnets).for_each(Resnet::rest);
    }

    /// One evaluation.
    ///
    /// * `x`: scaled latents, `(B, H, W, 4)`; for inpainting with a mask and the latents of what it leaves
    ///   behind them, `(B, H, W, 9)`
    /// * `waves`: of the [time](UNet::waves), a row for each image
    /// * `prompts`: as [read](UNet::read), as many as there are latents
    /// * returns `(B, H, W, 4)`
    pub(crate) fn forward(&self, x: Map, waves: &Tokens, prompts: &Prompts) -> Result<Map> {
        let prompt = &mut prompts.keys.iter();
        let time = self.time(waves, prompts.added.as_ref())?;

        let mut x = ops::conv(&self.conv_in, &ops::padded(&x))?;
        let mut skips = vec![x.clone()];
        for level in &self.down {
            for (resnet, attention) in &level.blocks {
                x = resnet.forward(x, Some(&time))?;
                if let Some(attention) = attention {
                    x = attention.forward(x, prompt)?;
                }
                skips.push(x.clone());
            }
            if let Some(conv) = &level.resample {
                x = ops::conv(conv, &ops::padded(&x))?;
                skips.push(x.clone());
            }
        }

        for (i, resnet) in self.mid.resnets.iter().enumerate() {
            x = resnet.forward(x, Some(&time))?;
            if let Some(attention) = self.mid.attention.as_ref().filter(|_| i == 0) {
                x = attention.forward(x, prompt)?;
            }
        }

        for level in &self.up {
            for (resnet, attention) in &level.blocks {
                let skip = skips.pop().expect("counted while the network was built");
                x = resnet.forward(ops::concat(&x, &skip)?, Some(&time))?;
                if let Some(attention) = attention {
                    x = attention.forward(x, prompt)?;
                }
            }
            if let Some(conv) = &level.resample {
                // The way down rounds an odd side up, so the way up meets the skip's size.
                let size = skips.last().map_or(x.size(), Map::size);
                x = ops::conv_doubled(conv, &x, size.height, size.width)?;
            }
        }
        ops::conv(&self.conv_out, &ops::group_norm_silu(&self.norm_out, self.groups, &x)?)
    }

    /// What the network is told of the time: a row for each of `batch` images, `(B, 1, width)`.
    ///
    /// * `timestep`: `0..1000`, fractional
    pub(crate) fn waves(&self, timestep: f64, batch: usize) -> Vec<f32> {
        sinusoid(timestep, self.time1.0.inputs()).repeat(batch)
    }

    /// SiLU of the time embedding and what is added to it, a row for each image: `(B, 1, width)`.
    fn time(&self, waves: &Tokens, added: Option<&Tokens>) -> Result<Tokens> {
        let h = ops::linear_then(&self.time1, Activation::Silu, waves)?;
        match added {
            None => ops::linear_then(&self.time2, Activation::Silu, &h),
            Some(added) => ops::silu(&ops::linear_plus(&self.time2, &h, added)?),
        }
    }
}

/// The sinusoidal embedding of Vaswani et al. (2017): cosines first, then sines, with wavelengths
/// from 2π to 2π · 10,000. In f32 throughout, as the reference computes it.
pub(crate) fn sinusoid(timestep: f64, width: usize) -> Vec<f32> {
    let half = width / 2;
    let angles = (0..half).map(|i| {
        let exponent = -(10_000f64.ln() as f32) * i as f32 / half as f32;
        timestep as f32 * libm::expf(exponent)
    });
    angles.clone().map(libm::cosf).chain(angles.map(libm::sinf)).collect()
}
