//! Euler: straight along the tangent, from one sigma to the next.
//!
//! Karras et al., 2022, <https://arxiv.org/abs/2206.00364>, algorithm 2 without churn and without its
//! second-order correction.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing};
use crate::{Result, noise::Noise};

pub(super) static EULER: Sampler =
    Sampler { id: "euler", name: "Euler", spacing: Spacing::Schedule, calls_per_step: 1, run };

fn run(model: &mut dyn Denoise, mut x: Tensor, sigmas: &[f64], _: &mut Noise) -> Result<Tensor> {
    for step in sigmas.windows(2) {
        let (sigma, next) = (step[0], step[1]);
        let denoised = model.denoise(&x, sigma)?;
        let d = ((&x - denoised)? / sigma)?;
        x = (x + (d * (next - sigma))?)?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn converges_to_the_exact_solution() {
        assert!(gaussian::error(&EULER, 40) < 0.1);
        assert!(gaussian::order(&EULER) > 0.8);
    }
}
