//! The UNet as a denoiser: scaling, prediction type and classifier-free guidance around it, the hand-over
//! from one base model to another, and masks.

use candle_core::{Device, Tensor};
use kernels::conv::Size;

use crate::{
    Conditioning, Precision, Request, Result,
    loaded::Loaded,
    model::unet::{Prompts, UNet},
    ops::{Map, Tokens},
    sample::{Denoise, denoiser::Prediction, training::TrainingSchedule},
    text,
};

/// The UNet as a denoiser, with classifier-free guidance (Ho & Salimans, 2022).
pub(crate) struct Guided<'a> {
    unet: &'a UNet,
    /// Negative prompt and prompt, brought to one length; without guidance the prompt alone.
    prompts: Prompts,
    /// What a UNet for inpainting takes behind the latents: five planes, or none.
    beside: Vec<f32>,
    prediction: Prediction,
    training: &'a TrainingSchedule,
    guidance_scale: Option<f64>,
    precision: Precision,
}

impl<'a> Guided<'a> {
    /// For a request whose prompts were encoded.
    ///
    /// * `beside`: what stands behind the latents, as [inpainting](Loaded::inpainting) gives it
    ///
    /// # Errors
    /// Prompts that cannot be brought to one length; a UNet that does not take what belongs to its family.
    pub(crate) fn new(
        loaded: &'a Loaded,
        conditioning: &Conditioning,
        beside: Vec<f32>,
        request: &Request,
    ) -> Result<Guided<'a>> {
        let guidance_scale = Some(request.guidance_scale).filter(|&scale| scale != 1.0);
        let unet = &loaded.networks().unet;
        let cond = loaded.pooled(unet, conditioning, request, true)?;
        let (pooled, context) = match guidance_scale {
            None => (vec![cond], conditioning.cond.clone()),
            Some(_) => {
                let (cond_tokens, uncond_tokens) =
                    text::same_length(&conditioning.cond, &conditioning.uncond)?;
                let uncond = loaded.pooled(unet, conditioning, request, false)?;
                (vec![uncond, cond], Tensor::cat(&[uncond_tokens, cond_tokens], 0)?)
            }
        };
        let (batch, _, width) = context.dims3()?;
        let values = context.flatten_all()?.to_vec1::<f32>()?;
        let prompts = Tokens::new(values, batch, width, request.precision);
        let pooled: Vec<_> = pooled.into_iter().flatten().collect();
        Ok(Guided {
            unet,
            prompts: unet.read(&prompts, &pooled),
            beside,
            prediction: request.prediction.unwrap_or(loaded.checkpoint.prediction),
            training: &loaded.checkpoint.training,
            guidance_scale,
            precision: request.precision,
        })
    }
}

impl Denoise for Guided<'_> {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let (_, channels, height, width) = x.dims4()?;
        let batch = if self.guidance_scale.is_some() { 2 } else { 1 };
        let scalings = self.prediction.scalings(sigma);
        let mut planes = scalings.input(x)?.flatten_all()?.to_vec1::<f32>()?;
        planes.extend(&self.beside);
        let size = Size { batch, height, width, channels: self.unet.inputs() };
        let map = Map::from_planes(&planes.repeat(batch), size, self.precision);
        let timestep = self.training.sigma_to_t(sigma);
        let out = self.unet.forward(map, timestep, &self.prompts, self.precision).planes();
        let out = Tensor::from_vec(out, (batch, channels, height, width), &Device::Cpu)?;
        match self.guidance_scale {
            None => scalings.denoised(x, &out),
            Some(scale) => {
                let uncond = scalings.denoised(x, &out.narrow(0, 0, 1)?)?;
                let cond = scalings.denoised(x, &out.narrow(0, 1, 1)?)?;
                Ok((&uncond + ((cond - &uncond)? * scale)?)?)
            }
        }
    }
}

/// One denoiser down to a sigma, another from there on.
pub(crate) struct HandOver<'a> {
    pub(crate) first: Guided<'a>,
    /// With the highest sigma that is its.
    pub(crate) second: Option<(Guided<'a>, f64)>,
}

impl Denoise for HandOver<'_> {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        match &mut self.second {
            Some((second, from)) if sigma <= *from => second.denoise(x, sigma),
            _ => self.first.denoise(x, sigma),
        }
    }
}

/// A denoiser that leaves a part of a picture as it is: what was not meant to be repainted is put back
/// after each call, as in A1111. UNets that were made for inpainting see the mask themselves.
pub(crate) struct Masked<D> {
    pub(crate) inner: D,
    /// The picture's latents with the mask, `(1, 1, h, w)`, 1 where it is repainted.
    pub(crate) kept: Option<(Tensor, Tensor)>,
}

impl<D: Denoise> Denoise for Masked<D> {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let denoised = self.inner.denoise(x, sigma)?;
        match &self.kept {
            None => Ok(denoised),
            Some((kept, mask)) => Ok((kept + (denoised - kept)?.broadcast_mul(mask)?)?),
        }
    }
}
