//! DPM-Solver++(2M) for the stochastic equation: one call a step, Brownian noise.
//!
//! Lu et al., 2022, <https://arxiv.org/abs/2211.01095>, in the form of k-diffusion's
//! `sample_dpmpp_2m_sde` with eta = 1 and the midpoint method.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing};
use crate::{Result, noise::Noise};

pub(super) static DPMPP_2M_SDE: Sampler = Sampler {
    id: "dpmpp_2m_sde",
    name: "DPM++ 2M SDE",
    spacing: Spacing::Schedule,
    calls_per_step: 1,
    run,
};

fn run(
    model: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    noise: &mut Noise,
) -> Result<Tensor> {
    // The estimate of x0 from the step before, and the length of that step.
    let mut last: Option<(Tensor, f64)> = None;

    for step in sigmas.windows(2) {
        let (sigma, next) = (step[0], step[1]);
        let denoised = model.denoise(&x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }

        // In the time -ln(sigma). The noise doubles the rate at which x is drawn to the estimate.
        let h = (sigma / next).ln();
        let pull = -(-2.0 * h).exp_m1();
        x = ((x * (1.0 - pull))? + (&denoised * pull)?)?;
        if let Some((previous, h_last)) = &last {
            // Half a step along the line through the last two estimates.
            let change = ((&denoised - previous)? * (h / h_last))?;
            x = (x + (change * (0.5 * pull))?)?;
        }
        x = (x + (noise.brownian(sigma, next)? * (next * pull.sqrt()))?)?;
        last = Some((denoised, h));
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn keeps_the_variance() {
        let variance = gaussian::variance(&DPMPP_2M_SDE, 40);
        assert!((variance - 1.0).abs() < 0.06, "{variance}");
    }
}
