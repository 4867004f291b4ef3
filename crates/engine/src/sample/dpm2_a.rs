//! DPM2 ancestral: a DPM2 step too far down, then fresh noise back up.
//!
//! `sample_dpm_2_ancestral` of k-diffusion.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing, ancestral, dpm2::second_order_step};
use crate::{Result, noise::Noise};

pub(super) static DPM2_A: Sampler = Sampler {
    id: "dpm2_a",
    name: "DPM2 a",
    spacing: Spacing::WithoutNextToLast,
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
        let (down, up) = ancestral::split(sigma, next);
        x = second_order_step(model, x, sigma, down)?;
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
        let variance = gaussian::variance(&DPM2_A, 100);
        assert!((variance - 1.0).abs() < 0.06, "{variance}");
    }
}
