//! UniPC: a second-order predictor, and a corrector that uses the next step's call once more.
//!
//! Zhao et al., 2023, <https://arxiv.org/abs/2302.04867>, with x0 prediction, order 2 and
//! `B(h) = e^h - 1` ("bh2"), on the timesteps of diffusers' `UniPCMultistepScheduler` by default
//! (`timestep_spacing="linspace"`, lower orders in the first and the last step).
//!
//! diffusers works in the variance-preserving scale. There, a step is multiplied by the alpha of its
//! end and starts from latents multiplied by the alpha of its beginning; divided by them, what is left
//! is the form below, in latents `x = x0 + sigma * noise` and the time -ln(sigma).

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing, training::TrainingSchedule};
use crate::{Result, noise::Noise};

pub(super) static UNIPC: Sampler =
    Sampler { id: "unipc", name: "UniPC", spacing: Spacing::Own(sigmas), calls_per_step: 1, run };

/// Evenly spaced whole timesteps from the last on, leaving out timestep 0, which `0.0` stands for.
fn sigmas(training: &TrainingSchedule, steps: usize) -> Vec<f64> {
    let all = training.sigmas();
    let stride = (all.len() - 1) as f64 / steps as f64;
    let timesteps = (1..=steps).rev().map(|i| (i as f64 * stride).round_ties_even() as usize);
    timesteps.map(|t| f64::from(all[t])).chain([0.0]).collect()
}

/// A step that was predicted and waits for its correction.
struct Step {
    /// The latents that it started from.
    x: Tensor,
    /// The estimate of x0 there.
    denoised: Tensor,
    /// The change of the estimate over the step before, extended over this one; order 2 only.
    slope: Option<Slope>,
    /// Its length in the time -ln(sigma).
    h: f64,
}

/// A divided difference of the estimate: the change from the node at `r` to the step's beginning at
/// 0, over `r`. Times are in units of the step, so the node before has a negative one.
struct Slope {
    r: f64,
    per_step: Tensor,
}

fn run(model: &mut dyn Denoise, mut x: Tensor, sigmas: &[f64], _: &mut Noise) -> Result<Tensor> {
    let mut last: Option<Step> = None;

    for (i, pair) in sigmas.windows(2).enumerate() {
        let (sigma, next) = (pair[0], pair[1]);
        let denoised = model.denoise(&x, sigma)?;
        if next == 0.0 {
            // First order, to the end: nothing is left of x.
            return Ok(denoised);
        }

        let h = (sigma / next).ln();
        let last_step = i + 2 == sigmas.len();
        let mut slope = None;
        if let Some(last) = &last {
            x = last.corrected(&denoised)?;
            if !last_step {
                let r = -last.h / h;
                slope = Some(Slope { r, per_step: ((&last.denoised - &denoised)? / r)? });
            }
        }
        let step = Step { x, denoised, slope, h };
        x = step.predicted()?;
        last = Some(step);
    }
    Ok(x)
}

impl Step {
    /// The exact solution for a constant estimate.
    fn first_order(&self) -> Result<Tensor> {
        Ok(((&self.x * (-self.h).exp())? - (&self.denoised * self.b())?)?)
    }

    /// `B(-h)`, with the sign of the x0 form.
    fn b(&self) -> f64 {
        (-self.h).exp_m1()
    }

    /// The latents at the end of the step, before the estimate there is known (UniP-2).
    fn predicted(&self) -> Result<Tensor> {
        let x = self.first_order()?;
        match &self.slope {
            None => Ok(x),
            Some(slope) => Ok((x - (&slope.per_step * (0.5 * self.b()))?)?),
        }
    }

    /// The latents at the end of the step, given the estimate there (UniC of the step's order).
    fn corrected(&self, at_end: &Tensor) -> Result<Tensor> {
        let x = self.first_order()?;
        let change = (at_end - &self.denoised)?;
        let Some(slope) = &self.slope else {
            return Ok((x - (change * (0.5 * self.b()))?)?);
        };
        // The weights integrate 1 and t exactly: w + w_end = b1 and r * w + w_end = b2.
        let phi_1 = self.b() / -self.h - 1.0;
        let phi_2 = phi_1 / -self.h - 0.5;
        let (b1, b2) = (phi_1 / self.b(), 2.0 * phi_2 / self.b());
        let w = (b1 - b2) / (1.0 - slope.r);
        let w_end = b1 - w;
        let sum = ((&slope.per_step * w)? + (change * w_end)?)?;
        Ok((x - (sum * self.b())?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn converges_to_the_exact_solution() {
        assert!(gaussian::error(&UNIPC, 40) < 1e-2);
        assert!(gaussian::order(&UNIPC) > 1.8);
    }
}
