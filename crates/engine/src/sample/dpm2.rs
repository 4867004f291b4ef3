//! DPM2: along the tangent at the middle of the step, which an Euler step reaches.
//!
//! DPM-Solver-2 of Lu et al., 2022, <https://arxiv.org/abs/2206.00927>, with the tangent of Karras et
//! al. in place of epsilon, as in k-diffusion. The middle is that of the logarithm of sigma.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing};
use crate::{Result, noise::Noise};

pub(super) static DPM2: Sampler = Sampler {
    id: "dpm2",
    name: "DPM2",
    spacing: Spacing::WithoutNextToLast,
    calls_per_step: 2,
    run,
};

fn run(model: &mut dyn Denoise, mut x: Tensor, sigmas: &[f64], _: &mut Noise) -> Result<Tensor> {
    for step in sigmas.windows(2) {
        x = second_order_step(model, x, step[0], step[1])?;
    }
    Ok(x)
}

/// A step from `sigma` to `next`; Euler's if there is no middle, because `next` is 0.
pub(super) fn second_order_step(
    model: &mut dyn Denoise,
    x: Tensor,
    sigma: f64,
    next: f64,
) -> Result<Tensor> {
    let denoised = model.denoise(&x, sigma)?;
    let mut d = ((&x - denoised)? / sigma)?;
    if next > 0.0 {
        let middle = (sigma * next).sqrt();
        let x_middle = (&x + (d * (middle - sigma))?)?;
        let denoised = model.denoise(&x_middle, middle)?;
        d = ((x_middle - denoised)? / middle)?;
    }
    Ok((x + (d * (next - sigma))?)?)
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn converges_to_the_exact_solution() {
        assert!(gaussian::error(&DPM2, 40) < 1e-2);
        assert!(gaussian::order(&DPM2) > 1.8);
    }
}
