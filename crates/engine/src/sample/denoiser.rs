//! What stands between a sampler and a UNet: the scaling of what the UNet sees and says, and the
//! watcher that counts the calls.

use std::ops::ControlFlow;

use candle_core::Tensor;

use super::{Denoise, Sampler};
use crate::{Error, Estimate, Phase, Progress, Result, Watch, preview::Look};

/// What a UNet outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prediction {
    /// The noise in its input.
    Epsilon,
    /// The velocity, `alpha * noise - sigma * x0` in the variance-preserving scale (Salimans and Ho,
    /// 2022).
    V,
}

/// The numbers that make a denoiser of a UNet: `x0 = c_skip * x + c_out * unet(c_in * x, t)`.
///
/// Karras et al., 2022, table 1, with data of unit variance; `DiscreteEpsDDPMDenoiser` and
/// `DiscreteVDDPMDenoiser` of k-diffusion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scalings {
    /// How much of the noisy latents goes into the estimate.
    pub c_skip: f64,
    /// How much of the UNet's output goes into the estimate.
    pub c_out: f64,
    /// What the latents are multiplied by for the UNet, which was trained on inputs of constant
    /// variance.
    pub c_in: f64,
}

impl Prediction {
    /// The scalings at `sigma`.
    #[must_use]
    pub fn scalings(self, sigma: f64) -> Scalings {
        let variance = sigma * sigma + 1.0;
        let c_in = 1.0 / variance.sqrt();
        match self {
            Prediction::Epsilon => Scalings { c_skip: 1.0, c_out: -sigma, c_in },
            Prediction::V => Scalings { c_skip: 1.0 / variance, c_out: -sigma * c_in, c_in },
        }
    }
}

impl Scalings {
    /// What the UNet is shown for latents `x`; any shape.
    ///
    /// # Errors
    /// Only if the tensor operation fails.
    pub fn input(&self, x: &Tensor) -> Result<Tensor> {
        Ok((x * self.c_in)?)
    }

    /// The estimate of the clean latents, from `x` and what the UNet said of it; equal shapes.
    ///
    /// # Errors
    /// Only if the tensor operation fails.
    pub fn denoised(&self, x: &Tensor, output: &Tensor) -> Result<Tensor> {
        Ok(((x * self.c_skip)? + (output * self.c_out)?)?)
    }
}

/// A denoiser that reports each call, and stops when the watcher says so.
///
/// The sampler's `?` carries [`Error::Cancelled`] out, so no sampler has a line about it.
pub struct Watched<'a, 'w, D> {
    inner: D,
    look: Look,
    watch: &'a mut Watch<'w>,
    done: usize,
    total: usize,
    calls_per_step: usize,
}

impl<'a, 'w, D: Denoise> Watched<'a, 'w, D> {
    /// Watches a run of `sampler` down `sigmas` (the ones that are run, not the full schedule), and
    /// announces it. `look` is what the latents are looked at with.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the watcher wants to stop before the first call.
    pub fn new(
        inner: D,
        look: Look,
        watch: &'a mut Watch<'w>,
        sampler: &Sampler,
        sigmas: &[f64],
    ) -> Result<Self> {
        let (total, calls_per_step) = (sampler.calls(sigmas), sampler.calls_per_step);
        let mut watched = Watched { inner, look, watch, done: 0, total, calls_per_step };
        watched.report(None)?;
        Ok(watched)
    }

    fn report(&mut self, denoised: Option<&Tensor>) -> Result<()> {
        let progress = Progress {
            phase: Phase::Sample,
            done: self.done,
            total: self.total,
            // The last step makes a single call, so rounding up is right for it too.
            step: self.done.div_ceil(self.calls_per_step),
            denoised: denoised.map(|latents| Estimate { latents, look: &self.look }),
        };
        match (self.watch)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

impl<D: Denoise> Denoise for Watched<'_, '_, D> {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let denoised = self.inner.denoise(x, sigma)?;
        self.done += 1;
        self.report(Some(&denoised))?;
        Ok(denoised)
    }
}

impl<D> std::fmt::Debug for Watched<'_, '_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watched({} of {} calls)", self.done, self.total)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::{
        super::{SAMPLERS, schedule::SCHEDULES, training::TrainingSchedule},
        *,
    };
    use crate::{Rng, noise::Noise, preview};

    const SHAPE: (usize, usize, usize, usize) = (1, 4, 2, 2);

    fn zeros() -> Tensor {
        Tensor::zeros(SHAPE, DType::F32, &Device::Cpu).unwrap()
    }

    /// A UNet that is always right, of either prediction, gives the clean latents back.
    #[test]
    fn a_right_prediction_gives_x0() -> Result<()> {
        let noise = Noise::new(Rng::TorchCpu, 0, SHAPE, &[], None)?.first().clone();
        let x0 = Tensor::full(0.7f32, SHAPE, &Device::Cpu)?;
        for sigma in [0.03, 1.0, 14.6] {
            let x = (&x0 + (&noise * sigma)?)?;
            let alpha = 1.0 / sigma.hypot(1.0);
            let v = ((&noise * alpha)? - (&x0 * (sigma * alpha))?)?;
            for (prediction, output) in [(Prediction::Epsilon, &noise), (Prediction::V, &v)] {
                let scalings = prediction.scalings(sigma);
                let apart = (scalings.denoised(&x, output)? - &x0)?.abs()?.max_all()?;
                assert!(apart.to_scalar::<f32>()? < 1e-5, "{prediction:?} at {sigma}");
                assert_eq!(scalings.c_in, alpha);
            }
        }
        Ok(())
    }

    /// Every sampler makes the calls that were announced, and begins the steps that there are.
    #[test]
    fn every_call_is_counted() -> Result<()> {
        let training = TrainingSchedule::stable_diffusion();
        for sampler in SAMPLERS {
            for steps in [1, 2, 7] {
                let sigmas = sampler.sigmas(&training, SCHEDULES[0], steps);
                let mut noise = Noise::new(Rng::Nv, 0, SHAPE, &sigmas, None)?;
                let mut seen = Vec::new();
                let mut watch = |p: Progress<'_>| {
                    assert_eq!(p.phase, Phase::Sample);
                    assert_eq!(p.denoised.is_some(), p.done > 0);
                    seen.push((p.done, p.total, p.step));
                    ControlFlow::Continue(())
                };
                let inner = |_: &Tensor, _| Ok(zeros());
                let mut model = Watched::new(inner, preview::PLAIN, &mut watch, sampler, &sigmas)?;
                (sampler.run)(&mut model, zeros(), &sigmas, &mut noise)?;

                let total = sampler.calls(&sigmas);
                assert_eq!(seen.first(), Some(&(0, total, 0)), "{} {steps}", sampler.id);
                assert_eq!(seen.last(), Some(&(total, total, steps)), "{} {steps}", sampler.id);
                assert_eq!(seen.len(), total + 1, "{} {steps}", sampler.id);
            }
        }
        Ok(())
    }

    #[test]
    fn a_break_ends_the_run_within_one_call() -> Result<()> {
        let training = TrainingSchedule::stable_diffusion();
        for sampler in SAMPLERS {
            let sigmas = sampler.sigmas(&training, SCHEDULES[0], 5);
            let mut noise = Noise::new(Rng::Nv, 0, SHAPE, &sigmas, None)?;
            let mut calls = 0;
            let inner = |_: &Tensor, _| {
                calls += 1;
                Ok(zeros())
            };
            let mut watch = |p: Progress<'_>| match p.done {
                3 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            };
            let mut model = Watched::new(inner, preview::PLAIN, &mut watch, sampler, &sigmas)?;
            let ended = (sampler.run)(&mut model, zeros(), &sigmas, &mut noise);
            assert!(matches!(ended, Err(Error::Cancelled)), "{}", sampler.id);
            assert_eq!(calls, 3, "{}", sampler.id);
        }
        Ok(())
    }
}
