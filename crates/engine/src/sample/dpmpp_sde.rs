//! DPM-Solver++ for the stochastic equation: two calls a step, Brownian noise in both.
//!
//! `sample_dpmpp_sde` of k-diffusion with eta = 1 and r = 1/2: the estimate at the middle of the step
//! is used for the whole of it.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing, ancestral, dpmpp_2s_a::toward};
use crate::{
    Result,
    noise::Noise,
    sample::training::{exp, ln},
};

pub(super) static DPMPP_SDE: Sampler = Sampler {
    id: "dpmpp_sde",
    name: "DPM++ SDE",
    spacing: Spacing::Schedule,
    calls_per_step: 2,
    run,
};

fn run(
    model: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    noise: &mut Noise,
) -> Result<Tensor> {
    for step in sigmas.windows(2) {
        let (sigma, next) = (step[0], step[1]);
        let denoised = model.denoise(&x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let [from, middle, to] = times(sigma, next);

        let (down, up) = ancestral::split(sigma, middle);
        let x_middle = toward(&denoised, &x, down / sigma)?;
        let x_middle = (x_middle + (noise.brownian(from, middle)? * up)?)?;
        let denoised = model.denoise(&x_middle, middle)?;

        let (down, up) = ancestral::split(sigma, next);
        x = toward(&denoised, &x, down / sigma)?;
        x = (x + (noise.brownian(from, to)? * up)?)?;
    }
    Ok(x)
}

/// Begin, middle and end of a step, as times of the Brownian motion.
///
/// The middle is that of `-ln(sigma)`. k-diffusion takes all three through that logarithm and back in
/// f32, which changes the sixth digit; Brownian motion is rough, so that a time off by 1e-6 is noise
/// off by 1e-3. Hence the same detour here.
fn times(sigma: f64, next: f64) -> [f64; 3] {
    let (t, t_next) = (-ln(sigma as f32), -ln(next as f32));
    let middle = t + (t_next - t) * 0.5;
    [t, middle, t_next].map(|t| f64::from(exp(-t)))
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn keeps_the_variance() {
        let variance = gaussian::variance(&DPMPP_SDE, 40);
        assert!((variance - 1.0).abs() < 0.06, "{variance}");
    }
}
