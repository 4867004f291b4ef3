//! Heun: an Euler step, then the same step again along the mean of both ends' tangents.
//!
//! Karras et al., 2022, <https://arxiv.org/abs/2206.00364>, algorithm 2 without churn.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing};
use crate::{Result, noise::Noise};

pub(super) static HEUN: Sampler =
    Sampler { id: "heun", name: "Heun", spacing: Spacing::Schedule, calls_per_step: 2, run };

fn run(model: &mut dyn Denoise, mut x: Tensor, sigmas: &[f64], _: &mut Noise) -> Result<Tensor> {
    for step in sigmas.windows(2) {
        let (sigma, next) = (step[0], step[1]);
        let denoised = model.denoise(&x, sigma)?;
        let mut d = ((&x - denoised)? / sigma)?;
        // There is no tangent at sigma = 0, so the last step is Euler's.
        if next > 0.0 {
            let end = (&x + (&d * (next - sigma))?)?;
            let denoised = model.denoise(&end, next)?;
            let d_end = ((end - denoised)? / next)?;
            d = ((d + d_end)? / 2.0)?;
        }
        x = (x + (d * (next - sigma))?)?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn converges_to_the_exact_solution() {
        assert!(gaussian::error(&HEUN, 40) < 1e-2);
        assert!(gaussian::order(&HEUN) > 1.8);
    }
}
