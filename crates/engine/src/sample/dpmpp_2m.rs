//! DPM-Solver++(2M): second order for the price of one denoiser call a step.
//!
//! Lu et al., 2022, <https://arxiv.org/abs/2211.01095>, algorithm 2, in the k-diffusion
//! parameterization. The previous estimate of `x0` supplies the second-order term.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing};
use crate::{Result, noise::Noise};

pub(super) static DPMPP_2M: Sampler = Sampler {
    id: "dpmpp_2m",
    name: "DPM++ 2M",
    spacing: Spacing::Schedule,
    calls_per_step: 1,
    run,
};

fn run(model: &mut dyn Denoise, mut x: Tensor, sigmas: &[f64], _: &mut Noise) -> Result<Tensor> {
    // The estimate of x0 from the step before, and the length of that step.
    let mut last: Option<(Tensor, f64)> = None;

    for step in sigmas.windows(2) {
        let (sigma, next) = (step[0], step[1]);
        let denoised = model.denoise(&x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }

        // The solver's time is -ln(sigma), so the length of this step is:
        let h = (sigma / next).ln();
        let estimate = match &last {
            None => denoised.clone(),
            // Extrapolate along the line through the last two estimates.
            Some((previous, h_last)) => {
                let k = h / (2.0 * h_last);
                ((&denoised * (1.0 + k))? - (previous * k)?)?
            }
        };
        x = ((x * (next / sigma))? - (estimate * (-h).exp_m1())?)?;
        last = Some((denoised, h));
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn converges_to_the_exact_solution() {
        assert!(gaussian::error(&DPMPP_2M, 40) < 1e-2);
        assert!(gaussian::order(&DPMPP_2M) > 1.8);
    }
}
