//! LCM: believe the estimate, add noise for the next sigma, ask again.
//!
//! Multistep consistency sampling: Song et al., 2023, <https://arxiv.org/abs/2303.01469>, algorithm 1,
//! for latent consistency models (Luo et al., 2023) and adapters trained for them.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing};
use crate::{Result, noise::Noise};

pub(super) static LCM: Sampler =
    Sampler { id: "lcm", name: "LCM", spacing: Spacing::Schedule, calls_per_step: 1, run };

fn run(
    model: &mut dyn Denoise,
    mut x: Tensor,
    sigmas: &[f64],
    noise: &mut Noise,
) -> Result<Tensor> {
    for step in sigmas.windows(2) {
        let (sigma, next) = (step[0], step[1]);
        x = model.denoise(&x, sigma)?;
        if next > 0.0 {
            x = (x + (noise.fresh()? * next)?)?;
        }
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::Rng;

    /// A perfect consistency model answers the same at every sigma.
    #[test]
    fn adds_the_next_sigmas_noise_to_the_estimate() -> Result<()> {
        let shape = (1, 4, 2, 2);
        let sigmas = [10.0, 3.0, 0.0];
        let x0 = Tensor::full(0.5f32, shape, &Device::Cpu)?;
        let mut seen = Vec::new();
        let mut model = |x: &Tensor, _| {
            seen.push(x.clone());
            Ok(x0.clone())
        };

        let x = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
        let mut noise = Noise::new(Rng::TorchCpu, 3, shape, &sigmas, None)?;
        let out = run(&mut model, x, &sigmas, &mut noise)?;

        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&out), values(&x0));
        let expected = (&x0 + (Noise::new(Rng::TorchCpu, 3, shape, &[], None)?.fresh()? * 3.0)?)?;
        assert_eq!(values(&seen[1]), values(&expected));
        Ok(())
    }
}
