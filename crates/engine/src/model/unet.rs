//! The UNet: predicts the noise (or the velocity) in latents, given a time and a prompt.
//!
//! Ronneberger et al. (2015) with the transformers of Rombach et al. (2022). Levels, blocks per level
//! and where attention sits are read from the names of the weights.

use crate::{
    Precision, Result,
    architecture::Heads,
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
}

/// The denoising network.
#[derive(Debug)]
pub(crate) struct UNet {
    conv_in: Conv,
    time1: Linear,
    time2: Linear,
    down: Vec<Level>,
    mid: Mid,
    up: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv,
    groups: usize,
}

/// One resolution, on the way down or up.
#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    /// One behind each resnet, or none.
    attentions: Vec<Transformer>,
    /// To the next resolution: stride 2 on the way down, behind a doubling on the way up.
    resample: Option<Conv>,
}

/// What a UNet reads of its prompts: for each cross-attention, in the order in which they come.
#[derive(Debug)]
pub(crate) struct Prompts(Vec<Keys>);

#[derive(Debug)]
struct Mid {
    resnet1: Resnet,
    attention: Option<Transformer>,
    resnet2: Resnet,
}

impl UNet {
    /// Builds the network from the layers below `at`, for a prompt of `context` channels.
    pub(crate) fn new(at: &Scope<'_>, context: usize, config: UNetConfig) -> Result<UNet> {
        let UNetConfig { heads, groups, eps } = config;
        let conv_in = at.conv3("conv_in", 4, 1, 1)?;
        let mut channels = conv_in.weights.outputs();
        at.require(channels.is_multiple_of(2), "conv_in", "an even number of outputs")?;
        let time1 = at.linear("time_embedding.linear_1", channels)?;
        let time = time1.0.outputs();
        let time2 = at.linear_to("time_embedding.linear_2", time, time)?;

        let resnet = |at: Scope<'_>, inputs| Resnet::new(&at, inputs, Some(time), groups, eps);
        let transformer =
            |at: Scope<'_>, channels| Transformer::new(&at, channels, context, heads, groups);

        // The channels of every map that is kept for the way up.
        let mut skips = vec![channels];
        let mut down = Vec::new();
        for level in 0..at.count("down_blocks", "resnets.0.conv1") {
            let at = at.at(format!("down_blocks.{level}"));
            let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
            for i in 0..at.count("resnets", "conv1") {
                resnets.push(resnet(at.at(format!("resnets.{i}")), channels)?);
                channels = resnets[i].channels();
                if at.has(&format!("attentions.{i}.proj_in")) {
                    attentions.push(transformer(at.at(format!("attentions.{i}")), channels)?);
                }
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
            down.push(Level { resnets, attentions, resample });
        }

        let mid = at.at("mid_block");
        let resnet1 = resnet(mid.at("resnets.0"), channels)?;
        channels = resnet1.channels();
        let attention = match mid.has("attentions.0.proj_in") {
            true => Some(transformer(mid.at("attentions.0"), channels)?),
            false => None,
        };
        let resnet2 = resnet(mid.at("resnets.1"), channels)?;
        channels = resnet2.channels();
        let mid = Mid { resnet1, attention, resnet2 };

        let mut up = Vec::new();
        for level in 0..at.count("up_blocks", "resnets.0.conv1") {
            let at = at.at(format!("up_blocks.{level}"));
            let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
            for i in 0..at.count("resnets", "conv1") {
                let skip = skips.pop();
                at.require(skip.is_some(), "resnets.0.conv1", "as many resnets down as up")?;
                resnets.push(resnet(at.at(format!("resnets.{i}")), channels + skip.unwrap_or(0))?);
                channels = resnets[i].channels();
                if at.has(&format!("attentions.{i}.proj_in")) {
                    attentions.push(transformer(at.at(format!("attentions.{i}")), channels)?);
                }
            }
            let resample = match at.has("upsamplers.0.conv") {
                true => Some(at.conv3("upsamplers.0.conv", channels, 1, 1)?),
                false => None,
            };
            if let Some(conv) = &resample {
                channels = conv.weights.outputs();
            }
            up.push(Level { resnets, attentions, resample });
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
            down,
            mid,
            up,
            conv_out,
            groups,
        })
    }

    /// What the network reads of the encoded prompts `(B, S, context)`, once for all steps.
    pub(crate) fn read(&self, prompts: &Tokens) -> Prompts {
        let down = self.down.iter().flat_map(|level| &level.attentions);
        let up = self.up.iter().flat_map(|level| &level.attentions);
        let all = down.chain(&self.mid.attention).chain(up);
        Prompts(all.flat_map(|attention| attention.read(prompts)).collect())
    }

    /// Gives up what the convolutions keep for the next step.
    pub(crate) fn rest(&self) {
        let levels = self.down.iter().chain(&self.up);
        let resnets = levels.flat_map(|level| &level.resnets);
        resnets.chain([&self.mid.resnet1, &self.mid.resnet2]).for_each(Resnet::rest);
    }

    /// One evaluation.
    ///
    /// * `x`: scaled latents, `(B, H, W, 4)`
    /// * `timestep`: `0..1000`, fractional, the same for the whole batch
    /// * `prompts`: as [read](UNet::read), as many as there are latents
    /// * returns `(B, H, W, 4)`
    pub(crate) fn forward(
        &self,
        x: Map,
        timestep: f64,
        prompts: &Prompts,
        precision: Precision,
    ) -> Map {
        let batch = x.size().batch;
        let prompt = &mut prompts.0.iter();
        let time = self.time(timestep, batch, precision);

        let mut x = ops::conv(&self.conv_in, &ops::padded(&x));
        let mut skips = vec![x.clone()];
        for level in &self.down {
            for (i, resnet) in level.resnets.iter().enumerate() {
                x = resnet.forward(x, Some(&time));
                if let Some(attention) = level.attentions.get(i) {
                    x = attention.forward(x, prompt);
                }
                skips.push(x.clone());
            }
            if let Some(conv) = &level.resample {
                x = ops::conv(conv, &ops::padded(&x));
                skips.push(x.clone());
            }
        }

        x = self.mid.resnet1.forward(x, Some(&time));
        if let Some(attention) = &self.mid.attention {
            x = attention.forward(x, prompt);
        }
        x = self.mid.resnet2.forward(x, Some(&time));

        for level in &self.up {
            for (i, resnet) in level.resnets.iter().enumerate() {
                let skip = skips.pop().expect("counted while the network was built");
                x = resnet.forward(ops::concat(&x, &skip), Some(&time));
                if let Some(attention) = level.attentions.get(i) {
                    x = attention.forward(x, prompt);
                }
            }
            if let Some(conv) = &level.resample {
                // The way down rounds an odd side up, so the way up meets the skip's size.
                let size = skips.last().map_or(x.size(), Map::size);
                x = ops::conv_doubled(conv, &x, size.height, size.width);
            }
        }
        ops::conv(&self.conv_out, &ops::group_norm_silu(&self.norm_out, self.groups, &x))
    }

    /// SiLU of the time embedding, the same row for each image: `(B, 1, width)`.
    fn time(&self, timestep: f64, batch: usize, precision: Precision) -> Tokens {
        let waves = sinusoid(timestep, self.time1.0.inputs());
        let waves = Tokens::new(waves.repeat(batch), batch, self.time1.0.inputs(), precision);
        let h = ops::linear_then(&self.time1, Activation::Silu, &waves);
        ops::linear_then(&self.time2, Activation::Silu, &h)
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
