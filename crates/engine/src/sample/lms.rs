//! LMS: along a polynomial through the last four tangents (Adams-Bashforth with unequal steps).
//!
//! `sample_lms` of k-diffusion, order 4.

use candle_core::Tensor;

use super::{Denoise, Sampler, Spacing};
use crate::{Result, noise::Noise};

pub(super) static LMS: Sampler =
    Sampler { id: "lms", name: "LMS", spacing: Spacing::Schedule, calls_per_step: 1, run };

const ORDER: usize = 4;

fn run(model: &mut dyn Denoise, mut x: Tensor, sigmas: &[f64], _: &mut Noise) -> Result<Tensor> {
    // The last tangents and the sigmas that they belong to, oldest first.
    let mut tangents: Vec<Tensor> = Vec::with_capacity(ORDER);
    for (i, step) in sigmas.windows(2).enumerate() {
        let (sigma, next) = (step[0], step[1]);
        let denoised = model.denoise(&x, sigma)?;
        if tangents.len() == ORDER {
            tangents.remove(0);
        }
        tangents.push(((&x - denoised)? / sigma)?);

        let nodes = &sigmas[i + 1 - tangents.len()..=i];
        for (j, tangent) in tangents.iter().enumerate() {
            x = (x + (tangent * weight(nodes, j, sigma, next))?)?;
        }
    }
    Ok(x)
}

/// The integral from `sigma` to `next` of the polynomial that is 1 at node `j` and 0 at the others.
///
/// Two points of Gauss-Legendre quadrature are exact up to degree 3, which is what four nodes have.
fn weight(nodes: &[f64], j: usize, sigma: f64, next: f64) -> f64 {
    let (middle, half) = ((sigma + next) / 2.0, (next - sigma) / 2.0);
    let basis = |at: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|&(k, _)| k != j);
        others.map(|(_, node)| (at - node) / (nodes[j] - node)).product()
    };
    let offset = half / 3f64.sqrt();
    half * (basis(middle - offset) + basis(middle + offset))
}

#[cfg(test)]
mod tests {
    use super::{super::gaussian, *};

    #[test]
    fn converges_to_the_exact_solution() {
        assert!(gaussian::error(&LMS, 40) < 1e-2);
        assert!(gaussian::order(&LMS) > 1.8);
    }

    #[test]
    fn a_cubic_is_integrated_exactly() {
        let nodes = [3.0, 2.2, 1.7, 1.0];
        let f = |x: f64| x.powi(3) - 2.0 * x;
        let integral = |x: f64| x.powi(4) / 4.0 - x * x;
        let sum: f64 = (0..4).map(|j| weight(&nodes, j, 1.0, 0.5) * f(nodes[j])).sum();
        assert!((sum - (integral(0.5) - integral(1.0))).abs() < 1e-12);
    }
}
