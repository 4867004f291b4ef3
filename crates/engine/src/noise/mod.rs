//! Seeded Gaussian noise: the same numbers on every device.
//!
//! All randomness of a picture comes from one [`Noise`], made of the seed. It is computed on the CPU,
//! so that a picture does not depend on the device that it is made on, and with the generators of
//! PyTorch, so that a seed starts from the same noise here as in other programs.
//!
//! A sampler takes from it what it needs: [`fresh`](Noise::fresh) noise after each ancestral step, or
//! [`brownian`](Noise::brownian) noise that belongs to a stretch of sigma. The two do not disturb each
//! other.
//!
//! # Adding a generator
//!
//! Write `noise/<name>.rs` with a `randn(count)` that goes on where the last call ended, and add it
//! to [`Rng`] and `Generator`.

mod brownian;
mod philox;
mod torch_cpu;

use candle_core::{DType, Device, Tensor};

use self::{brownian::BrownianTree, philox::Philox, torch_cpu::TorchCpu};
use crate::{Error, Result, Rng};

/// The noise of one picture: f32 tensors on the CPU, of the latents' shape and unit variance.
///
/// Of a seed, [`Rng::TorchCpu`] uses the low 32 bits and [`Rng::Nv`] all 64, as in PyTorch. Brownian
/// noise uses all 64 with both.
#[derive(Debug)]
pub struct Noise {
    generator: Generator,
    shape: (usize, usize, usize, usize),
    first: Tensor,
    tree: BrownianTree,
}

impl Noise {
    /// The noise of a picture whose latents have this shape, `(1, 4, h, w)`.
    ///
    /// `sigmas` is the *full* schedule, also when img2img runs only its end: its largest and smallest
    /// sigma (0 aside) are the ends of the Brownian motion, so the tail of a schedule meets the noise
    /// that it would have met in the whole. Samplers without Brownian noise ignore it.
    ///
    /// `given` takes the place of the first noise. The generator draws its own all the same, so that
    /// what follows is what would have followed: giving a picture the very noise that its seed makes
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if `given` has another shape.
    pub fn new(
        rng: Rng,
        seed: u64,
        shape: (usize, usize, usize, usize),
        sigmas: &[f64],
        given: Option<&Tensor>,
    ) -> Result<Noise> {
        let mut generator = Generator::new(rng, seed);
        let first = generator.randn_tensor(shape)?;
        let first = match given {
            None => first,
            Some(given) if given.dims() == first.dims() => {
                given.to_device(&Device::Cpu)?.to_dtype(DType::F32)?
            }
            Some(given) => {
                return Err(Error::InvalidRequest {
                    field: "the noise",
                    found: format!("of shape {:?}", given.dims()),
                    rule: format!("this size needs {:?}", first.dims()),
                });
            }
        };
        let positive = || sigmas.iter().filter(|&&sigma| sigma > 0.0).map(|&sigma| time(sigma));
        let (low, high) = match (positive().reduce(f64::min), positive().reduce(f64::max)) {
            (Some(low), Some(high)) => (low, high),
            _ => (0.0, 0.0),
        };
        let tree = BrownianTree::new(rng, seed, low, high, first.elem_count());
        Ok(Noise { generator, shape, first, tree })
    }

    /// What the latents start from.
    #[must_use]
    pub fn first(&self) -> &Tensor {
        &self.first
    }

    /// New noise, independent of all before: `torch.randn_like(x)` with the same generator.
    ///
    /// # Errors
    /// Only if there is no memory for the tensor.
    pub fn fresh(&mut self) -> Result<Tensor> {
        self.generator.randn_tensor(self.shape)
    }

    /// The noise that belongs to the stretch from `sigma` to `next`, where `next < sigma`.
    ///
    /// It depends on nothing but the seed and the two sigmas: stretches that follow one another have
    /// independent noise, and two halves add up (weighted by the square roots of their lengths) to
    /// the whole. `BrownianTreeNoiseSampler` of k-diffusion, with f32 sigmas as times.
    ///
    /// # Errors
    /// Only if there is no memory for the tensor.
    pub fn brownian(&mut self, sigma: f64, next: f64) -> Result<Tensor> {
        let (from, to) = (time(next), time(sigma));
        let length = ((to - from) as f32).sqrt();
        let mut values = self.tree.increment(from, to);
        // Time runs down with sigma, so the motion is against its direction.
        values.iter_mut().for_each(|w| *w = -*w / length);
        Ok(Tensor::from_vec(values, self.shape, &Device::Cpu)?)
    }
}

/// A sigma as a time of the Brownian motion: as precise as an f32, which is what the reference has.
fn time(sigma: f64) -> f64 {
    f64::from(sigma as f32)
}

/// A seeded generator of any kind.
#[derive(Debug, Clone)]
enum Generator {
    TorchCpu(TorchCpu),
    Nv(Philox),
}

impl Generator {
    fn new(rng: Rng, seed: u64) -> Generator {
        match rng {
            Rng::TorchCpu => Generator::TorchCpu(TorchCpu::new(seed)),
            Rng::Nv => Generator::Nv(Philox::new(seed)),
        }
    }

    /// The next call of `torch.randn(count)`.
    fn randn(&mut self, count: usize) -> Vec<f32> {
        match self {
            Generator::TorchCpu(generator) => generator.randn(count),
            Generator::Nv(generator) => generator.randn(count),
        }
    }

    fn randn_tensor(&mut self, shape: (usize, usize, usize, usize)) -> Result<Tensor> {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        Ok(Tensor::from_vec(self.randn(count), shape, &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn given_noise_leaves_the_generator_where_it_was() {
        let shape = (1, 4, 3, 3);
        for rng in [Rng::TorchCpu, Rng::Nv] {
            let given = Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
            let mut without = Noise::new(rng, 5, shape, &[], None).unwrap();
            let mut with = Noise::new(rng, 5, shape, &[], Some(&given)).unwrap();
            assert_eq!(values(with.first()), [1.0; 36]);
            assert_eq!(values(&with.fresh().unwrap()), values(&without.fresh().unwrap()));
        }
    }

    #[test]
    fn noise_of_another_shape_is_refused() {
        let given = Tensor::zeros((1, 4, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let error = Noise::new(Rng::Nv, 0, (1, 4, 3, 3), &[], Some(&given)).unwrap_err();
        assert!(error.to_string().contains("[1, 4, 3, 3]"), "{error}");
    }

    #[test]
    fn the_bits_of_a_seed_that_count() {
        let shape = (1, 4, 4, 4);
        let first = |rng, seed| values(Noise::new(rng, seed, shape, &[], None).unwrap().first());
        assert_eq!(first(Rng::TorchCpu, 3), first(Rng::TorchCpu, 3 + (1 << 40)));
        assert_ne!(first(Rng::Nv, 3), first(Rng::Nv, 3 + (1 << 40)));
    }
}
