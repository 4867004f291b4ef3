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
//! 2022), never a timestep. `sigmas` descends and ends in `0.0`; `n` steps have `n + 1` sigmas.
//!
//! # Adding a sampler
//!
//! Write `sample/<name>.rs`, add its record to [`SAMPLERS`], add its golden tensor.
//!
//! **Invariant:** all randomness comes from [`Noise`]. The device's own generator differs between
//! backends and cannot be seeded on the CPU, so an image made with it cannot be made again.

pub mod schedule;

use candle_core::Tensor;

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
    /// Shown to the person.
    pub name: &'static str,
    /// Runs the sampler over the sigmas.
    pub run: fn(&mut dyn Denoise, Tensor, &[f64], &mut Noise) -> Result<Tensor>,
}

/// Every sampler, in the order in which the person sees them.
pub static SAMPLERS: &[&Sampler] = &[];
