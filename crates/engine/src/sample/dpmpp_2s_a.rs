//! DPM-Solver++(2S) ancestral: a second-order step too far down, then fresh noise back up.
//!
//! Lu et al., 2022, <https://arxiv.org/abs/2211.01095>, algorithm 1 with r = 1/2, in the k-diffusion
//! parameterization.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing, ancestral};
use crate::{Result, noise::Noise};

pub(super) static DPMPP_2S_A: Sampler = Sampler {
    id: "dpmpp_2s_a",
    name: "DPM++ 2S a",
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
        let (down, up) = ancestral::split(sigma, next);

        // The middle of the step in the solver's time, -ln(sigma).
        let middle = (sigma * down).sqrt();
        let x_middle = toward(&denoised, &x, middle / sigma)?;
        let denoised = model.denoise(&x_middle, middle)?;
        x = toward(&denoised, &x, down / sigma)?;
        x = (x + (noise.fresh()? * up)?)?;
    }
    Ok(x)
}

/// The exact solution for a constant estimate `x0`: the noise shrinks by `ratio`.
///
/// In the paper's terms `sigma_t / sigma_s * x - (e^-h - 1) * x0`, where `e^-h` is the ratio.
pub(super) fn toward(x0: &Tensor, x: &Tensor, ratio: f64) -> Result<Tensor> {
    Ok(((x * ratio)? + (x0 * (1.0 - ratio))?)?)
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn keeps_the_variance() {
        let variance = gaussian::variance(&DPMPP_2S_A, 100);
        assert!((variance - 1.0).abs() < 0.06, "{variance}");
    }
}
