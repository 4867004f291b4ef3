//! The VAE: pictures to latents an eighth of their size, and back (Kingma & Welling, 2013; Rombach et
//! al., 2022); or [TAESD](super::tiny) in its place.

use crate::{
    Result,
    model::{
        layers::Scope,
        resnet::Resnet,
        tiny::{TinyDecoder, TinyEncoder},
    },
    ops::{self, Conv, Linear, Map, Norm},
};

/// The epsilon of all its normalizations.
const EPS: f32 = 1e-6;

/// From latents to a picture.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// The one that models are trained with.
    Kl(Box<KlDecoder>),
    /// TAESD.
    Tiny(TinyDecoder),
}

/// From a picture to the latents' mean.
#[derive(Debug)]
pub(crate) enum Encoder {
    /// The one that models are trained with.
    Kl(Box<KlEncoder>),
    /// TAESD.
    Tiny(TinyEncoder),
}

impl Decoder {
    /// From the layers below `at` (the whole VAE's place) with `groups` groups in its norms.
    pub(crate) fn new(at: &Scope<'_>, groups: usize) -> Result<Decoder> {
        Ok(match at.has("decoder.layers.0") {
            true => Decoder::Tiny(TinyDecoder::new(at)?),
            false => Decoder::Kl(Box::new(KlDecoder::new(at, groups)?)),
        })
    }

    /// How many times larger the picture is than its latents.
    pub(crate) fn scale(&self) -> usize {
        match self {
            Decoder::Kl(decoder) => decoder.scale(),
            Decoder::Tiny(decoder) => decoder.scale(),
        }
    }

    /// Roughly what decoding a picture of this many pixels takes at most, in bytes.
    pub(crate) fn peak_bytes(&self, pixels: u64) -> u64 {
        match self {
            Decoder::Kl(decoder) => decoder.peak_bytes(pixels),
            Decoder::Tiny(decoder) => decoder.peak_bytes(pixels),
        }
    }

    /// * `latents`: divided by the scaling factor, `(B, H, W, 4)`
    /// * returns `(B, 8 H, 8 W, 3)`, -1 to 1
    pub(crate) fn forward(&self, latents: Map) -> Result<Map> {
        match self {
            Decoder::Kl(decoder) => decoder.forward(latents),
            Decoder::Tiny(decoder) => decoder.forward(&latents),
        }
    }
}

impl Encoder {
    /// From the layers below `at` (the whole VAE's place) with `groups` groups in its norms.
    pub(crate) fn new(at: &Scope<'_>, groups: usize) -> Result<Encoder> {
        Ok(match at.has("encoder.layers.0") {
            true => Encoder::Tiny(TinyEncoder::new(at)?),
            false => Encoder::Kl(Box::new(KlEncoder::new(at, groups)?)),
        })
    }

    /// * `picture`: `(B, H, W, 3)`, -1 to 1
    /// * returns the mean and maybe more channels behind it, `(B, H / 8, W / 8, 4 or 8)`
    pub(crate) fn forward(&self, picture: Map) -> Result<Map> {
        match self {
            Encoder::Kl(encoder) => encoder.forward(picture),
            Encoder::Tiny(encoder) => encoder.forward(&picture),
        }
    }
}

/// From latents to a picture.
#[derive(Debug)]
pub(crate) struct KlDecoder {
    post_quant: Option<Linear>,
    conv_in: Conv,
    mid: Mid,
    up: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv,
    groups: usize,
}

/// From a picture to the latents' mean.
#[derive(Debug)]
pub(crate) struct KlEncoder {
    conv_in: Conv,
    down: Vec<Level>,
    mid: Mid,
    norm_out: Norm,
    conv_out: Conv,
    quant: Option<Linear>,
    groups: usize,
}

#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    resample: Option<Conv>,
}

impl KlDecoder {
    /// From the layers below `at` (the whole VAE's place) with `groups` groups in its norms.
    fn new(at: &Scope<'_>, groups: usize) -> Result<KlDecoder> {
        let post_quant = match at.has("post_quant_conv") {
            true => Some(at.linear_to("post_quant_conv", 4, 4)?),
            false => None,
        };
        let at = at.at("decoder");
        let conv_in = at.conv3("conv_in", 4, 1, 1)?;
        let mut channels = conv_in.weights.outputs();
        let mid = Mid::new(&at.at("mid_block"), channels, groups)?;
        let up = levels(&at, "up_blocks", "upsamplers", &mut channels, groups)?;
        let conv_out = at.conv3("conv_out", channels, 1, 1)?;
        at.require(conv_out.weights.outputs() == 3, "conv_out", "3 outputs")?;
        let norm_out = at.norm("conv_norm_out", channels, groups, EPS)?;
        Ok(KlDecoder { post_quant, conv_in, mid, up, norm_out, conv_out, groups })
    }

    /// How many times larger the picture is than its latents.
    fn scale(&self) -> usize {
        1 << self.up.iter().filter(|level| level.resample.is_some()).count()
    }

    /// Roughly what decoding a picture of this many pixels takes at most, in bytes: at full size, a
    /// map, its normalized copy and the convolution's result, in f32, as wide as the last enlargement
    /// leaves them.
    fn peak_bytes(&self, pixels: u64) -> u64 {
        let last = self.up.iter().rev().find_map(|level| level.resample.as_ref());
        let channels = last.map_or(0, |conv| conv.weights.outputs());
        pixels * 3 * channels as u64 * size_of::<f32>() as u64
    }

    /// * `latents`: divided by the scaling factor, `(B, H, W, 4)`
    /// * returns `(B, 8 H, 8 W, 3)`, -1 to 1
    fn forward(&self, latents: Map) -> Result<Map> {
        let x = match &self.post_quant {
            Some(layer) => ops::linear_map(layer, &latents)?,
            None => latents,
        };
        let mut x = self.mid.forward(ops::conv(&self.conv_in, &ops::padded(&x))?)?;
        for level in &self.up {
            for resnet in &level.resnets {
                x = once(resnet, x)?;
            }
            if let Some(conv) = &level.resample {
                let size = x.size();
                x = ops::conv_doubled(conv, &x, 2 * size.height, 2 * size.width)?;
            }
        }
        ops::conv(&self.conv_out, &ops::group_norm_silu(&self.norm_out, self.groups, &x)?)
    }
}

impl KlEncoder {
    /// From the layers below `at` (the whole VAE's place) with `groups` groups in its norms.
    fn new(at: &Scope<'_>, groups: usize) -> Result<KlEncoder> {
        let encoder = at.at("encoder");
        let conv_in = encoder.conv3("conv_in", 3, 1, 1)?;
        let mut channels = conv_in.weights.outputs();
        let down = levels(&encoder, "down_blocks", "downsamplers", &mut channels, groups)?;
        let mid = Mid::new(&encoder.at("mid_block"), channels, groups)?;
        let conv_out = encoder.conv3("conv_out", channels, 1, 1)?;
        encoder.require(conv_out.weights.outputs() == 8, "conv_out", "8 outputs")?;
        Ok(KlEncoder {
            norm_out: encoder.norm("conv_norm_out", channels, groups, EPS)?,
            conv_in,
            down,
            mid,
            conv_out,
            quant: match at.has("quant_conv") {
                true => Some(at.linear_to("quant_conv", 8, 8)?),
                false => None,
            },
            groups,
        })
    }

    /// * `picture`: `(B, H, W, 3)`, -1 to 1
    /// * returns mean and logarithm of the variance, `(B, H / 8, W / 8, 4 + 4)`
    fn forward(&self, picture: Map) -> Result<Map> {
        let mut x = ops::conv(&self.conv_in, &ops::padded(&picture))?;
        for level in &self.down {
            for resnet in &level.resnets {
                x = once(resnet, x)?;
            }
            if let Some(conv) = &level.resample {
                x = ops::conv(conv, &ops::padded(&x))?;
            }
        }
        x = self.mid.forward(x)?;
        x = ops::conv(&self.conv_out, &ops::group_norm_silu(&self.norm_out, self.groups, &x)?)?;
        match &self.quant {
            Some(layer) => ops::linear_map(layer, &x),
            None => Ok(x),
        }
    }
}

/// Runs a resnet that has no other map until the next picture, so that nothing is kept for one.
fn once(resnet: &Resnet, x: Map) -> Result<Map> {
    let x = resnet.forward(x, None)?;
    resnet.rest();
    Ok(x)
}

fn levels(
    at: &Scope<'_>,
    blocks: &str,
    samplers: &str,
    channels: &mut usize,
    groups: usize,
) -> Result<Vec<Level>> {
    let down = samplers == "downsamplers";
    (0..at.count(blocks, "resnets.0.conv1"))
        .map(|level| {
            let at = at.at(format!("{blocks}.{level}"));
            let mut resnets = Vec::new();
            for i in 0..at.count("resnets", "conv1") {
                let resnet =
                    Resnet::new(&at.at(format!("resnets.{i}")), *channels, None, groups, EPS)?;
                *channels = resnet.channels();
                resnets.push(resnet);
            }
            let name = format!("{samplers}.0.conv");
            let resample = match at.has(&name) {
                // Unlike the UNet, the encoder pads at the right and below only.
                true if down => Some(at.conv3(&name, *channels, 2, 0)?),
                true => Some(at.conv3(&name, *channels, 1, 1)?),
                false => None,
            };
            if let Some(conv) = &resample {
                *channels = conv.weights.outputs();
            }
            Ok(Level { resnets, resample })
        })
        .collect()
}

/// The lowest resolution: resnet, attention with one head, resnet.
#[derive(Debug)]
struct Mid {
    resnet1: Resnet,
    attention: Option<Attention>,
    resnet2: Resnet,
}

#[derive(Debug)]
struct Attention {
    norm: Norm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    groups: usize,
}

impl Mid {
    fn new(at: &Scope<'_>, channels: usize, groups: usize) -> Result<Mid> {
        let resnet = |name| -> Result<Resnet> {
            let resnet = Resnet::new(&at.at(name), channels, None, groups, EPS)?;
            at.at(name).require(
                resnet.channels() == channels,
                "conv1",
                "as many outputs as inputs",
            )?;
            Ok(resnet)
        };
        let attention = match at.has("attentions.0.to_q") {
            true => {
                let at = at.at("attentions.0");
                let linear = |name| at.linear_to(name, channels, channels);
                Some(Attention {
                    norm: at.norm("group_norm", channels, groups, EPS)?,
                    to_q: linear("to_q")?,
                    to_k: linear("to_k")?,
                    to_v: linear("to_v")?,
                    to_out: linear("to_out.0")?,
                    groups,
                })
            }
            false => None,
        };
        Ok(Mid { resnet1: resnet("resnets.0")?, attention, resnet2: resnet("resnets.1")? })
    }

    fn forward(&self, x: Map) -> Result<Map> {
        let mut x = once(&self.resnet1, x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(x)?;
        }
        once(&self.resnet2, x)
    }
}

impl Attention {
    fn forward(&self, x: Map) -> Result<Map> {
        let size = x.size();
        let h = ops::group_norm(&self.norm, self.groups, &x)?.into_tokens();
        let (q, k) = (ops::linear(&self.to_q, &h)?, ops::linear(&self.to_k, &h)?);
        let h = ops::attention(&q, &k, &ops::linear(&self.to_v, &h)?, 1, false)?;
        let h = ops::linear_plus(&self.to_out, &h, &x.into_tokens())?;
        Ok(h.into_map(size.height, size.width))
    }
}
