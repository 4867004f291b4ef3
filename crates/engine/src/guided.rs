//! The UNet as a denoiser: scaling, prediction type and classifier-free guidance around it, the hand-over
//! from one base model to another, and masks.

use candle_core::{Device, Tensor};
use kernels::conv::Size;

use crate::{
    Conditioning, Request, Result,
    adapter::{curve::position, patch::Stack},
    loaded::Loaded,
    model::unet::Prompts,
    ops::{Map, Recorded, Storage, Tokens},
    sample::{Denoise, denoiser::Prediction},
    text,
};

/// How far a card is in recording the UNet's evaluation.
#[derive(Debug)]
enum Recording {
    /// It has yet to be done plainly.
    Ahead,
    /// It was done once.
    Ready,
    Made(Recorded),
    /// It cannot be recorded.
    Impossible,
}

impl Recording {
    /// Before the first evaluation of a base model's UNet. A recording holds no copies from the processor, so
    /// weights that go over at each step keep it from being one.
    fn before(loaded: &Loaded) -> Recording {
        match loaded.streamed_bytes() {
            0 => Recording::Ahead,
            _ => Recording::Impossible,
        }
    }
}

/// The UNet as a denoiser, with classifier-free guidance (Ho & Salimans, 2022).
pub(crate) struct Guided<'a> {
    loaded: &'a mut Loaded,
    /// Negative prompt and prompt, brought to one length; without guidance the prompt alone.
    context: Tokens,
    /// What SDXL is told beside them.
    pooled: Vec<(Vec<f32>, Vec<f64>)>,
    /// What the UNet reads of both, for as long as its weights stay what they are.
    prompts: Prompts,
    /// What a UNet for inpainting takes behind the latents: five planes, or none.
    beside: Vec<f32>,
    prediction: Prediction,
    guidance_scale: Option<f64>,
    storage: Storage,
    /// One evaluation of the UNet as it is, where a card can repeat it: made at the second.
    recorded: Recording,
    /// Where weights change over the steps: the stack, and the sigmas of the steps.
    over_steps: Option<(Stack, Vec<f64>)>,
}

impl<'a> Guided<'a> {
    /// For a request whose prompts were encoded.
    ///
    /// * `stack`: what the UNet was made of
    /// * `sigmas`: those that are run
    ///
    /// # Errors
    /// Prompts that cannot be brought to one length; a UNet that does not take what belongs to its family.
    pub(crate) fn new(
        loaded: &'a mut Loaded,
        conditioning: &Conditioning,
        stack: Stack,
        sigmas: &[f64],
        request: &Request,
    ) -> Result<Guided<'a>> {
        let guidance_scale = Some(request.guidance_scale).filter(|&scale| scale != 1.0);
        let unet = loaded.networks().unet();
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
        let storage = loaded.storage_for(request);
        let context = Tokens::new(&values, batch, width, &storage)?;
        let pooled: Vec<_> = pooled.into_iter().flatten().collect();
        Ok(Guided {
            prompts: unet.read(&context, &pooled)?,
            context,
            pooled,
            beside: loaded.inpainting(request)?,
            prediction: request.prediction.unwrap_or(loaded.checkpoint.prediction),
            guidance_scale,
            storage,
            recorded: Recording::before(loaded),
            over_steps: stack.changes_over_steps().then(|| (stack, sigmas.to_vec())),
            loaded,
        })
    }

    /// What the UNet makes of a batch of scaled latents.
    fn evaluate(&mut self, planes: &[f32], size: Size, timestep: f64) -> Result<Vec<f32>> {
        let unet = self.loaded.networks().unet();
        let waves = unet.waves(timestep, size.batch);
        if let Recording::Made(recorded) = &self.recorded {
            return recorded.run(planes, &waves);
        }
        let tokens =
            |waves: &[f32]| Tokens::new(waves, size.batch, waves.len() / size.batch, &self.storage);
        if let Recording::Ready = self.recorded {
            let work = |x: Map, waves: &Tokens| unet.forward(x, waves, &self.prompts);
            match Recorded::new(planes, size, tokens(&waves)?, work)? {
                None => self.recorded = Recording::Impossible,
                Some(recorded) => {
                    let out = recorded.run(planes, &waves)?;
                    self.recorded = Recording::Made(recorded);
                    return Ok(out);
                }
            }
        }
        let x = Map::from_planes(planes, size, &self.storage)?;
        let out = unet.forward(x, &tokens(&waves)?, &self.prompts)?.planes()?;
        if let Recording::Ahead = self.recorded {
            self.recorded = Recording::Ready;
        }
        Ok(out)
    }

    /// Brings the UNet to the weights of the step that a sigma belongs to.
    fn follow(&mut self, sigma: f64) -> Result<()> {
        let Some((stack, sigmas)) = &mut self.over_steps else { return Ok(()) };
        // The last sigma is the end of the last step. A call between two belongs to the one before.
        let steps = sigmas.len().saturating_sub(1).max(1);
        // Some samplers come to a sigma by another way than the schedule did.
        let begun = sigmas[..steps].iter().filter(|begin| **begin * (1.0 + 1e-6) >= sigma).count();
        stack.position = position(begun as u32, steps as u32);
        if self.loaded.repaint(stack, self.storage.precision)? {
            self.recorded = Recording::before(self.loaded);
            self.prompts = self.loaded.networks().unet().read(&self.context, &self.pooled)?;
        }
        Ok(())
    }
}

impl Denoise for Guided<'_> {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.follow(sigma)?;
        let unet = self.loaded.networks().unet();
        let (_, channels, height, width) = x.dims4()?;
        let batch = if self.guidance_scale.is_some() { 2 } else { 1 };
        let scalings = self.prediction.scalings(sigma);
        let mut planes = scalings.input(x)?.flatten_all()?.to_vec1::<f32>()?;
        planes.extend(&self.beside);
        let size = Size { batch, height, width, channels: unet.inputs() };
        let timestep = self.loaded.checkpoint.training.sigma_to_t(sigma);
        let out = self.evaluate(&planes.repeat(batch), size, timestep)?;
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
