//! Euler ancestral: an Euler step too far down, then fresh noise back up.
//!
//! Ho et al., 2020, <https://arxiv.org/abs/2006.11239>, algorithm 2, in the form that k-diffusion gave
//! it.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing, ancestral};
use crate::{Result, noise::Noise};

pub(super) static EULER_A: Sampler =
    Sampler { id: "euler_a", name: "Euler a", spacing: Spacing::Schedule, calls_per_step: 1, run };

fn run(
    model: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    noise: &mut Noise,
) -> Result<Tensor> {
    for step in sigmas.windows(2) {
        let (sigma, next) = (step[0], step[1]);
        let denoised = model.denoise(&x, sigma)?;
        let (down, up) = ancestral::split(sigma, next);
        let d = ((&x - denoised)? / sigma)?;
        x = (x + (d * (down - sigma))?)?;
        if next > 0.0 {
            x = (x + (noise.fresh()? * up)?)?;
        }
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn keeps_the_variance() {
        let variance = gaussian::variance(&EULER_A, 200);
        assert!((variance - 1.0).abs() < 0.06, "{variance}");
    }
}
