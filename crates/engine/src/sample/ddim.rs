//! DDIM: a straight line from the noisy latents through the estimate of the clean ones.
//!
//! Song et al., 2020, <https://arxiv.org/abs/2010.02502>, equation 12 without noise, on the timesteps
//! that diffusers' `DDIMScheduler` takes for Stable Diffusion: `timestep_spacing="leading"`,
//! `steps_offset=1`, `set_alpha_to_one=False`.
//!
//! In latents `x = x0 + sigma * noise`, the step is Euler's. What is special is the end: the last
//! sigma is the training's smallest and not 0, and the result is returned in the variance-preserving
//! scale, where diffusers works.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing, training::TrainingSchedule};
use crate::{Result, noise::Noise};

pub(super) static DDIM: Sampler =
    Sampler { id: "ddim", name: "DDIM", spacing: Spacing::Own(sigmas), calls_per_step: 1, run };

/// Every so many-th timestep from 1 on, with a whole stride.
fn sigmas(training: &TrainingSchedule, steps: usize) -> Vec<f64> {
    let all = training.sigmas();
    let stride = (all.len() / steps).max(1);
    let timesteps = (0..steps).rev().map(|i| (i * stride + 1).min(all.len() - 1));
    timesteps.chain([0]).map(|t| f64::from(all[t])).collect()
}

fn run(model: &mut dyn Denoise, mut x: Tensor, sigmas: &[f64], _: &mut Noise) -> Result<Tensor> {
    for step in sigmas.windows(2) {
        let (sigma, next) = (step[0], step[1]);
        let denoised = model.denoise(&x, sigma)?;
        let noise = ((x - &denoised)? / sigma)?;
        x = (denoised + (noise * next)?)?;
    }
    let last = sigmas.last().copied().unwrap_or(0.0);
    Ok((x / last.hypot(1.0))?)
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn converges_to_the_exact_solution() {
        assert!(gaussian::error(&DDIM, 40) < 0.1);
        assert!(gaussian::order(&DDIM) > 0.8);
    }

    #[test]
    fn more_steps_than_timesteps_are_possible() {
        let training = TrainingSchedule::from_betas(&[0.1; 5]).unwrap();
        let all = training.sigmas();
        assert_eq!(sigmas(&training, 2), [3, 1, 0].map(|t| f64::from(all[t])));
        assert_eq!(sigmas(&training, 8).len(), 9);
        assert_eq!(sigmas(&training, 8)[0], training.sigma_max());
    }
}
