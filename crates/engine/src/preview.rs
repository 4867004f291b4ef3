//! Previews: what the latents roughly look like, without the VAE.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{
    Error, Image, Result,
    loaded::{map_of, to_byte},
    model::vae::Decoder,
    ops::Storage,
};

/// What latents look like: a linear fit of a VAE's decoder.
#[derive(Debug)]
pub(crate) struct Colors {
    /// Red, green and blue of each latent channel, -1 to 1.
    factors: [[f32; 3]; 4],
    /// What is added to each color.
    bias: [f32; 3],
}

/// SD 1.x and 2.x: the factors that ComfyUI uses.
pub(crate) static SD: Colors = Colors {
    factors: [
        [0.3512, 0.2297, 0.3227],
        [0.3250, 0.4974, 0.2350],
        [-0.2829, 0.1762, 0.2721],
        [-0.2120, -0.2616, -0.7177],
    ],
    bias: [0.0; 3],
};

/// Without TAESD, for SD 1.x and 2.x.
#[cfg(test)]
pub(crate) const PLAIN: Look = Look { colors: &SD, decoder: None };

/// SDXL: the factors that ComfyUI uses.
pub(crate) static SDXL: Colors = Colors {
    factors: [
        [0.3651, 0.4232, 0.4341],
        [-0.2533, -0.0042, 0.1068],
        [0.1076, 0.1111, -0.0362],
        [-0.3165, -0.2492, -0.2188],
    ],
    bias: [0.1084, -0.0175, -0.0011],
};

/// What the clean latents will be, as far as a step can tell.
#[derive(Debug, Clone, Copy)]
pub struct Estimate<'a> {
    /// `(1, 4, h, w)`, of unit variance.
    pub latents: &'a Tensor,
    pub(crate) look: &'a Look,
}

/// What there is to look at latents with.
#[derive(Debug, Clone)]
pub struct Look {
    pub(crate) colors: &'static Colors,
    /// TAESD, with how it is stored.
    pub(crate) decoder: Option<(Arc<Decoder>, Storage)>,
}

impl Estimate<'_> {
    /// A picture of the size that TAESD makes, if there is one; else a small one, one pixel for each place
    /// of the latents: `h × w`.
    ///
    /// # Errors
    /// Fails if the latents have another shape.
    pub fn preview(&self) -> Result<Image> {
        match &self.look.decoder {
            Some((decoder, storage)) => {
                let picture = decoder.forward(map_of(self.latents, 1, storage)?)?;
                let size = picture.size();
                Ok(Image {
                    width: size.width as u32,
                    height: size.height as u32,
                    pixels: picture.into_tokens().values()?.iter().map(|&c| to_byte(c)).collect(),
                })
            }
            None => preview(self.latents, self.look.colors),
        }
    }
}

fn preview(latents: &Tensor, colors: &Colors) -> Result<Image> {
    let (_, channels, height, width) = latents.dims4()?;
    if channels != colors.factors.len() {
        return Err(Error::InvalidRequest {
            field: "latents",
            found: format!("of {channels} channels"),
            rule: "a preview takes 4".into(),
        });
    }
    let planes = latents.flatten_all()?.to_vec1::<f32>()?;
    let pixels = (0..height * width)
        .flat_map(|pixel| {
            let mut color = colors.bias;
            for (channel, factors) in colors.factors.iter().enumerate() {
                let value = planes[channel * height * width + pixel];
                for (color, factor) in color.iter_mut().zip(factors) {
                    *color += value * factor;
                }
            }
            color.map(to_byte)
        })
        .collect();
    Ok(Image { width: width as u32, height: height as u32, pixels })
}
