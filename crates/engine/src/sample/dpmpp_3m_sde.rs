//! DPM-Solver++(3M) for the stochastic equation: third order, one call a step, Brownian noise.
//!
//! `sample_dpmpp_3m_sde` of k-diffusion with eta = 1. The last three estimates of `x0` give its first
//! and second derivative (divided differences); the exponential integrator weighs them with the phi
//! functions.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing};
use crate::{Result, noise::Noise};

pub(super) static DPMPP_3M_SDE: Sampler = Sampler {
    id: "dpmpp_3m_sde",
    name: "DPM++ 3M SDE",
    spacing: Spacing::WithoutNextToLast,
    calls_per_step: 1,
    run,
};

/// The estimate of a step and the step's length in the time -ln(sigma).
struct Past {
    denoised: Tensor,
    h: f64,
}

fn run(
    model: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    noise: &mut Noise,
) -> Result<Tensor> {
    let mut last: Option<Past> = None;
    let mut last_but_one: Option<Past> = None;

    for step in sigmas.windows(2) {
        let (sigma, next) = (step[0], step[1]);
        let denoised = model.denoise(&x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }

        let h = (sigma / next).ln();
        // The noise doubles the rate at which x is drawn to the estimate.
        let rate = 2.0 * h;
        x = ((x * (-rate).exp())? - (&denoised * (-rate).exp_m1())?)?;

        let phi_2 = (-rate).exp_m1() / rate + 1.0;
        if let Some(last) = &last {
            // Derivatives are per step of this length.
            let slope = ((&denoised - &last.denoised)? * (h / last.h))?;
            match &last_but_one {
                None => x = (x + (slope * phi_2)?)?,
                Some(earlier) => {
                    let (r0, r1) = (last.h / h, earlier.h / h);
                    let earlier_slope = ((&last.denoised - &earlier.denoised)? / r1)?;
                    let bend = ((&slope - earlier_slope)? / (r0 + r1))?;
                    let slope = (slope + (&bend * r0)?)?;
                    let phi_3 = phi_2 / rate - 0.5;
                    x = ((x + (slope * phi_2)?)? - (bend * phi_3)?)?;
                }
            }
        }
        let deviation = next * (-(-rate).exp_m1()).sqrt();
        x = (x + (noise.brownian(sigma, next)? * deviation)?)?;
        last_but_one = last.replace(Past { denoised, h });
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn keeps_the_variance() {
        let variance = gaussian::variance(&DPMPP_3M_SDE, 40);
        assert!((variance - 1.0).abs() < 0.06, "{variance}");
    }
}
