//! The residual block of UNet and VAE, and the layers that change a map's size.

use crate::{
    Result,
    model::layers::Scope,
    ops::{self, Conv, Linear, Map, Norm, Tokens},
};

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))`.
#[derive(Debug)]
pub(crate) struct Resnet {
    norm1: Norm,
    conv1: Conv,
    /// From the time embedding to this block's channels; the VAE has none.
    time: Option<Linear>,
    norm2: Norm,
    conv2: Conv,
    /// Brings the input to the output's channels where they differ.
    shortcut: Option<Linear>,
    groups: usize,
}

impl Resnet {
    /// * `inputs`: channels of the input
    /// * `time`: width of the time embedding, for a UNet
    pub(crate) fn new(
        at: &Scope<'_>,
        inputs: usize,
        time: Option<usize>,
        groups: usize,
        eps: f32,
    ) -> Result<Resnet> {
        let conv1 = at.conv3("conv1", inputs, 1, 1)?;
        let channels = conv1.weights.outputs();
        let conv2 = at.conv3("conv2", channels, 1, 1)?;
        at.require(conv2.weights.outputs() == channels, "conv2", "as many outputs as conv1")?;
        Ok(Resnet {
            norm1: at.norm("norm1", inputs, groups, eps)?,
            conv1,
            time: match time {
                Some(width) => Some(at.linear_to("time_emb_proj", width, channels)?),
                None => None,
            },
            norm2: at.norm("norm2", channels, groups, eps)?,
            conv2,
            shortcut: match inputs == channels {
                true => None,
                false => Some(at.linear_to("conv_shortcut", inputs, channels)?),
            },
            groups,
        })
    }

    /// Channels of the output.
    pub(crate) fn channels(&self) -> usize {
        self.conv2.weights.outputs()
    }

    /// Gives up what its convolutions keep for the next map.
    pub(crate) fn rest(&self) {
        self.conv1.weights.rest();
        self.conv2.weights.rest();
    }

    /// * `x`: `(B, H, W, inputs)`
    /// * `time`: SiLU of the time embedding, `(B, 1, width)`
    /// * returns `(B, H, W, channels)`
    pub(crate) fn forward(&self, x: Map, time: Option<&Tokens>) -> Result<Map> {
        let time = self.time.as_ref().zip(time).map(|(layer, time)| ops::linear(layer, time));
        let time = time.transpose()?;
        // Each map goes as soon as nothing needs it: a VAE's largest are hundreds of megabytes.
        let h = ops::group_norm_silu(&self.norm1, self.groups, &x)?;
        let h = ops::conv_plus(&self.conv1, &{ h }, time.as_ref(), None)?;
        let h = ops::group_norm_silu(&self.norm2, self.groups, &{ h })?;
        let x = match &self.shortcut {
            Some(shortcut) => ops::linear_map(shortcut, &{ x })?,
            None => x,
        };
        ops::conv_plus(&self.conv2, &h, None, Some(&x))
    }
}
