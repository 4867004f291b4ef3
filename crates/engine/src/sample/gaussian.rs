//! The samplers' exact test: data drawn from N(0, 1), whose denoiser and whose answer can be written
//! down.
//!
//! The denoiser is `x / (1 + sigma^2)`. The probability flow keeps each value at the same quantile, so
//! it takes `x` at `sigma` to `x * sqrt((1 + next^2) / (1 + sigma^2))`. A sampler that adds noise has no
//! such answer, but its results must have the data's variance, 1.

use candle_core::{Device, Tensor};

use super::Sampler;
use crate::{Result, Rng, noise::Noise};

pub(super) fn denoise(x: &Tensor, sigma: f64) -> Result<Tensor> {
    Ok((x / (1.0 + sigma * sigma)).unwrap())
}

/// From 10 to 0.01 in equal ratios, without a `0.0`.
fn sigmas(steps: usize) -> Vec<f64> {
    (0..=steps).map(|i| 10.0 * 0.001f64.powf(i as f64 / steps as f64)).collect()
}

/// How far a sampler without noise ends from the exact solution, relative to it.
pub(super) fn error(sampler: &Sampler, steps: usize) -> f64 {
    let sigmas = sigmas(steps);
    let x = Tensor::new(&[[[[5.0f32]], [[-3.0]], [[0.1]], [[20.0]]]], &Device::Cpu).unwrap();
    let mut noise = Noise::new(Rng::TorchCpu, 0, (1, 4, 1, 1), &sigmas, None).unwrap();
    let out = (sampler.run)(&mut denoise, x.clone(), &sigmas, &mut noise).unwrap();

    let scale = (1.0f64.hypot(0.01) / 1.0f64.hypot(10.0)) as f32;
    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let errors = values(&x).into_iter().zip(values(&out)).map(|(x, out)| {
        let exact = f64::from(x * scale);
        (f64::from(out) - exact).abs() / exact.abs()
    });
    errors.fold(0.0, f64::max)
}

/// The order of convergence of a sampler without noise: half the step divides the error by 2^order.
pub(super) fn order(sampler: &Sampler) -> f64 {
    (error(sampler, 20) / error(sampler, 40)).log2()
}

/// The variance of what a sampler with noise makes, over 4096 values.
pub(super) fn variance(sampler: &Sampler, steps: usize) -> f64 {
    let sigmas = [sigmas(steps), vec![0.0]].concat();
    let mut noise = Noise::new(Rng::TorchCpu, 1, (1, 4, 32, 32), &sigmas, None).unwrap();
    let x = sampler.first_latents(noise.first(), None, sigmas[0]).unwrap();
    let out = (sampler.run)(&mut denoise, x, &sigmas, &mut noise).unwrap();
    f64::from(out.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap())
}
