//! The UNet as a denoiser: scaling, prediction type and classifier-free guidance around it, and the
//! hand-over from one base model to another.

use candle_core::{Device, Tensor};

use crate::{
    Conditioning, Precision, Request, Result,
    loaded::{Loaded, map_of},
    model::unet::{Prompts, UNet},
    ops::Tokens,
    sample::{Denoise, denoiser::Prediction, training::TrainingSchedule},
    text,
};

/// The UNet as a denoiser, with classifier-free guidance (Ho & Salimans, 2022).
pub(crate) struct Guided<'a> {
    unet: &'a UNet,
    /// Negative prompt and prompt, brought to one length; without guidance the prompt alone.
    prompts: Prompts,
    prediction: Prediction,
    training: &'a TrainingSchedule,
    guidance_scale: Option<f64>,
    precision: Precision,
}

impl<'a> Guided<'a> {
    /// For a request whose prompts were encoded.
    ///
    /// # Errors
    /// Prompts that cannot be brought to one length; a UNet that does not take what belongs to its family.
    pub(crate) fn new(
        loaded: &'a Loaded,
        conditioning: &Conditioning,
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
        let map = map_of(&scalings.input(x)?, batch, self.precision)?;
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
