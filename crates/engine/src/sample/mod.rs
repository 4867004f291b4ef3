//! Samplers: walk noisy latents down a list of sigmas until they are clean.
//!
//! A sampler is one function in one file. It is given latents, sigmas, seeded noise, and a
//! [`Denoise`] that answers "what would the clean latents be?". It knows nothing of prompts,
//! guidance, adapters, progress, previews or cancelling. Those are the denoiser's business, so
//! every sampler has them without a line of its own, and reads like the paper it comes from.
//!
//! # Units
//!
//! `sigma` is the standard deviation of the noise in `x = x0 + sigma * noise` (Karras et al.,
//! 2022), never a timestep. `sigmas` descends and ends in `0.0`; `n` steps have `n + 1` sigmas. Only
//! DDIM's sigmas end earlier, in the smallest of the training.
//!
//! # Adding a sampler
//!
//! Write `sample/<name>.rs`, add its record to [`SAMPLERS`], add its golden tensors. The dropdown,
//! the saved parameters and the progress bar all read the record.
//!
//! **Invariant:** all randomness comes from [`Noise`]. The device's own generator differs between
//! backends and cannot be seeded on the CPU, so an image made with it cannot be made again.

mod ancestral;
mod ddim;
pub mod denoiser;
mod dpm2;
mod dpm2_a;
mod dpmpp_2m;
mod dpmpp_2m_sde;
mod dpmpp_2s_a;
mod dpmpp_3m_sde;
mod dpmpp_sde;
mod euler;
mod euler_a;
#[cfg(test)]
mod gaussian;
mod heun;
mod lcm;
mod lms;
pub mod schedule;
pub mod training;
mod unipc;

use candle_core::Tensor;

use self::{schedule::Schedule, training::TrainingSchedule};
use crate::{Result, noise::Noise};

/// Answers "what would the clean latents be?".
pub trait Denoise {
    /// The estimate of the clean latents `x0` for latents `x` `(1, 4, h, w)` with noise of standard
    /// deviation `sigma`.
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor>;
}

impl<F: FnMut(&Tensor, f64) -> Result<Tensor>> Denoise for F {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self(x, sigma)
    }
}

/// What the rest of the program knows of a sampler.
#[derive(Debug)]
pub struct Sampler {
    /// Written into files; never changes once released.
    pub id: &'static str,
    /// Shown to the person, and written into A1111's parameters.
    pub name: &'static str,
    /// Where its sigmas come from.
    pub spacing: Spacing,
    /// Denoiser calls in every step but the last, which makes a single one.
    pub calls_per_step: usize,
    /// Runs the sampler over the sigmas.
    pub run: fn(&mut dyn Denoise, Tensor, &[f64], &mut Noise) -> Result<Tensor>,
}

/// Where a sampler's sigmas come from.
#[derive(Debug, Clone, Copy)]
pub enum Spacing {
    /// From the schedule, as it makes them.
    Schedule,
    /// From the schedule with one more step, leaving out the last sigma before `0.0`. Second-order
    /// steps across the smallest sigmas bring out noise; A1111 calls this "discard next-to-last sigma".
    WithoutNextToLast,
    /// From the sampler's own timesteps for this many steps, whatever the schedule. Such samplers
    /// start from unit noise in the variance-preserving scale, as diffusers does.
    Own(fn(&TrainingSchedule, usize) -> Vec<f64>),
}

/// Every sampler, in the order in which the person sees them.
pub static SAMPLERS: &[&Sampler] = &[
    &euler::EULER,
    &euler_a::EULER_A,
    &heun::HEUN,
    &dpm2::DPM2,
    &dpm2_a::DPM2_A,
    &lms::LMS,
    &dpmpp_2s_a::DPMPP_2S_A,
    &dpmpp_2m::DPMPP_2M,
    &dpmpp_sde::DPMPP_SDE,
    &dpmpp_2m_sde::DPMPP_2M_SDE,
    &dpmpp_3m_sde::DPMPP_3M_SDE,
    &ddim::DDIM,
    &unipc::UNIPC,
    &lcm::LCM,
];

impl Sampler {
    /// The full schedule: the sigmas of `steps` steps.
    ///
    /// img2img runs the [tail](schedule::img2img_tail) of it.
    ///
    /// # Panics
    /// For 0 steps, which [`Request::check`](crate::Request::check) refuses.
    #[must_use]
    pub fn sigmas(
        &self,
        training: &TrainingSchedule,
        schedule: &Schedule,
        steps: usize,
    ) -> Vec<f64> {
        assert!(steps > 0, "a picture takes at least one step");
        let mut sigmas = match self.spacing {
            Spacing::Schedule => (schedule.sigmas)(training, steps),
            Spacing::WithoutNextToLast => {
                let mut sigmas = (schedule.sigmas)(training, steps + 1);
                sigmas.remove(sigmas.len() - 2);
                sigmas
            }
            Spacing::Own(sigmas) => sigmas(training, steps),
        };
        // More steps than the training has timesteps give sigmas twice. A step of no length changes
        // nothing, but the multistep samplers would divide by its length.
        sigmas.dedup();
        sigmas
    }

    /// How often a run down these sigmas calls the denoiser.
    #[must_use]
    pub fn calls(&self, sigmas: &[f64]) -> usize {
        match sigmas.len().saturating_sub(1) {
            0 => 0,
            steps => (steps - 1) * self.calls_per_step + 1,
        }
    }

    /// The latents that a run starts from: noise at the first sigma, on top of `init` for img2img.
    ///
    /// * `noise`: unit variance, and `init`, clean latents: both `(1, 4, h, w)`
    /// * `sigma`: the first of the sigmas that are run
    ///
    /// The references start from noise alone and so leave out what little of a picture is left at the
    /// first sigma. k-diffusion starts at `sigma * noise`. Diffusers starts at `noise` in the
    /// variance-preserving scale, `x / sqrt(1 + sigma^2)`, which is a little more.
    ///
    /// # Errors
    /// Only if the tensor operation fails.
    pub fn first_latents(
        &self,
        noise: &Tensor,
        init: Option<&Tensor>,
        sigma: f64,
    ) -> Result<Tensor> {
        Ok(match (init, self.spacing) {
            (Some(init), _) => (init + (noise * sigma)?)?,
            (None, Spacing::Own(_)) => (noise * sigma.hypot(1.0))?,
            (None, _) => (noise * sigma)?,
        })
    }
}
