//! The training's noise schedule: which sigma each timestep stands for.
//!
//! A UNet was trained on a fixed number of noise levels and is told the level as a timestep, the
//! index of the level. Between them, timesteps are fractional: the logarithm of sigma is taken to be
//! linear from one to the next.
//!
//! Everything is computed in f32, step by step as in the references, and not in f64: sigmas are
//! written into comparisons, and Brownian noise notices the last bit.

/// The shapes that the betas (how much noise each step of the training's forward process adds) come
/// in, by the names that diffusers gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BetaCurve {
    /// `linear`: evenly spaced.
    Linear,
    /// `scaled_linear`: their square roots are evenly spaced. Stable Diffusion.
    ScaledLinear,
    /// `squaredcos_cap_v2`: the share of the signal falls like a squared cosine (Nichol and Dhariwal,
    /// 2021). Has no start and end of its own.
    SquaredCosine,
}

impl BetaCurve {
    /// The curve of this name in a `scheduler_config.json`.
    #[must_use]
    pub fn named(name: &str) -> Option<BetaCurve> {
        match name {
            "linear" => Some(BetaCurve::Linear),
            "scaled_linear" => Some(BetaCurve::ScaledLinear),
            "squaredcos_cap_v2" => Some(BetaCurve::SquaredCosine),
            _ => None,
        }
    }
}

/// The noise levels that a UNet was trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSchedule {
    /// Ascending; the index is the timestep.
    sigmas: Vec<f32>,
    log_sigmas: Vec<f32>,
}

impl TrainingSchedule {
    /// More timesteps than any model has; keeps a damaged file from taking all memory.
    pub const MAX_TIMESTEPS: usize = 100_000;

    /// The schedule of Stable Diffusion 1.x, 2.x and XL: 1000 timesteps, scaled linear from 0.00085 to
    /// 0.012.
    #[must_use]
    pub fn stable_diffusion() -> TrainingSchedule {
        TrainingSchedule::new(BetaCurve::ScaledLinear, 0.00085, 0.012, 1000)
            .expect("the constants describe a schedule")
    }

    /// The same with pure noise at its end ([`zero_terminal`](TrainingSchedule::zero_terminal)).
    #[must_use]
    pub fn stable_diffusion_zero_terminal() -> TrainingSchedule {
        TrainingSchedule::stable_diffusion()
            .zero_terminal()
            .expect("the constants describe a schedule")
    }

    /// `timesteps` betas from `start` to `end` along a curve.
    ///
    /// # Errors
    /// Says in words what is wrong with the numbers, for a message that names their file.
    pub fn new(
        curve: BetaCurve,
        start: f64,
        end: f64,
        timesteps: usize,
    ) -> Result<TrainingSchedule, String> {
        if timesteps > Self::MAX_TIMESTEPS {
            return Err(format!(
                "{timesteps} training timesteps, more than any model has ({})",
                Self::MAX_TIMESTEPS
            ));
        }
        let betas: Vec<f32> = match curve {
            BetaCurve::Linear => linspace(start as f32, end as f32, timesteps),
            BetaCurve::ScaledLinear => linspace(start.sqrt() as f32, end.sqrt() as f32, timesteps)
                .into_iter()
                .map(|root| root * root)
                .collect(),
            BetaCurve::SquaredCosine => {
                let signal = |i: usize| {
                    let t = i as f64 / timesteps as f64;
                    ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2)
                };
                (0..timesteps)
                    .map(|i| (1.0 - signal(i + 1) / signal(i)).min(0.999) as f32)
                    .collect()
            }
        };
        TrainingSchedule::from_betas(&betas)
    }

    /// The schedule of betas that are given one by one.
    ///
    /// # Errors
    /// Says in words what is wrong with the numbers, for a message that names their file.
    pub fn from_betas(betas: &[f32]) -> Result<TrainingSchedule, String> {
        if betas.len() < 2 || betas.len() > Self::MAX_TIMESTEPS {
            return Err(format!(
                "{} betas; a schedule has from 2 to {}",
                betas.len(),
                Self::MAX_TIMESTEPS
            ));
        }
        // torch.cumprod of f32 multiplies in f64 and rounds each result.
        let mut product = 1.0f64;
        let sigmas: Vec<f32> = betas
            .iter()
            .map(|&beta| {
                product *= f64::from(1.0 - beta);
                let signal = product as f32;
                ((1.0 - signal) / signal).sqrt()
            })
            .collect();
        TrainingSchedule::from_sigmas(sigmas)
    }

    fn from_sigmas(sigmas: Vec<f32>) -> Result<TrainingSchedule, String> {
        // Also false for NaN.
        let ascending = sigmas.is_sorted_by(|a, b| a < b);
        if !(ascending && sigmas[0] > 0.0 && sigmas[sigmas.len() - 1].is_finite()) {
            return Err("betas that are not all between 0 and 1".into());
        }
        let log_sigmas = sigmas.iter().map(|&sigma| ln(sigma)).collect();
        Ok(TrainingSchedule { sigmas, log_sigmas })
    }

    /// The same with pure noise at its last timestep: what is left of the picture there, √ᾱ, is moved and
    /// stretched so that the first timestep keeps its value and the last one has none (Lin et al., 2023,
    /// <https://arxiv.org/abs/2305.08891>, algorithm 1).
    ///
    /// "None" is ComfyUI's ᾱ of 4.9 · 10⁻⁸, so that the last sigma is a number.
    ///
    /// # Errors
    /// Says in words what is wrong with the numbers: a schedule that is too fine at its end.
    pub fn zero_terminal(&self) -> Result<TrainingSchedule, String> {
        const LAST: f64 = 4.897_345_189_085_343_5e-8;
        let signal = |sigma: f32| (1.0 / (f64::from(sigma).powi(2) + 1.0)).sqrt();
        let (first, last) = (signal(self.sigmas[0]), signal(self.sigmas[self.sigmas.len() - 1]));
        let sigma = |signal: f64| ((1.0 - signal) / signal).sqrt() as f32;
        let rescaled = |value: f32| ((signal(value) - last) * first / (first - last)).powi(2);
        let mut sigmas: Vec<f32> =
            self.sigmas.iter().map(|&value| sigma(rescaled(value))).collect();
        sigmas.pop();
        sigmas.push(sigma(LAST));
        TrainingSchedule::from_sigmas(sigmas)
    }

    /// The sigma of every timestep, ascending.
    #[must_use]
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// The sigma of timestep 0.
    #[must_use]
    pub fn sigma_min(&self) -> f64 {
        f64::from(self.sigmas[0])
    }

    /// The sigma of the last timestep.
    #[must_use]
    pub fn sigma_max(&self) -> f64 {
        f64::from(self.sigmas[self.sigmas.len() - 1])
    }

    /// The timestep, fractional, that stands for a sigma; the first or last for one outside.
    ///
    /// `DiscreteSchedule.sigma_to_t` of k-diffusion with `quantize=False`.
    #[must_use]
    pub fn sigma_to_t(&self, sigma: f64) -> f64 {
        let log_sigma = ln(sigma as f32);
        let above = self.log_sigmas.partition_point(|&log| log <= log_sigma);
        let low = above.saturating_sub(1).min(self.sigmas.len() - 2);
        let (a, b) = (self.log_sigmas[low], self.log_sigmas[low + 1]);
        let w = ((a - log_sigma) / (a - b)).clamp(0.0, 1.0);
        f64::from((1.0 - w) * low as f32 + w * (low + 1) as f32)
    }

    /// The sigma that a timestep stands for, fractional or not; `t` from 0 to the last timestep.
    ///
    /// `DiscreteSchedule.t_to_sigma` of k-diffusion.
    #[must_use]
    pub fn t_to_sigma(&self, t: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let t = (t as f32).clamp(0.0, last as f32);
        let w = t.fract();
        let (low, high) = (t.floor() as usize, t.ceil() as usize);
        f64::from(exp((1.0 - w) * self.log_sigmas[low] + w * self.log_sigmas[high]))
    }
}

/// `count` evenly spaced numbers, ends included, as `torch.linspace` computes them: from both ends
/// towards the middle, with fused multiply-adds.
pub(super) fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / count.saturating_sub(1) as f32;
    (0..count)
        .map(|i| {
            if i < count / 2 {
                step.mul_add(i as f32, start)
            } else {
                step.mul_add(-((count - 1 - i) as f32), end)
            }
        })
        .collect()
}

// Through f64, so that the result is the correctly rounded one on every system.

/// The natural logarithm.
pub(super) fn ln(x: f32) -> f32 {
    f64::from(x).ln() as f32
}

/// The exponential function.
pub(super) fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_and_sigmas_are_inverse() {
        let training = TrainingSchedule::stable_diffusion();
        for (t, &sigma) in training.sigmas().iter().enumerate() {
            assert_eq!(training.sigma_to_t(f64::from(sigma)), t as f64);
        }
        for t in [0.0, 0.25, 1.5, 500.125, 998.75, 999.0] {
            let back = training.sigma_to_t(training.t_to_sigma(t));
            assert!((back - t).abs() < 1e-3, "{t} became {back}");
        }
    }

    #[test]
    fn sigmas_outside_are_the_ends() {
        let training = TrainingSchedule::stable_diffusion();
        assert_eq!(training.sigma_to_t(1e-9), 0.0);
        assert_eq!(training.sigma_to_t(1e9), 999.0);
        assert_eq!(training.t_to_sigma(-1.0), training.t_to_sigma(0.0));
        assert_eq!(training.t_to_sigma(f64::from(u32::MAX)), training.t_to_sigma(999.0));
    }

    #[test]
    fn betas_that_describe_no_schedule_are_refused() {
        let refused = |betas: &[f32]| TrainingSchedule::from_betas(betas).is_err();
        assert!(refused(&[]));
        assert!(refused(&[0.1]));
        assert!(refused(&[0.1, 0.0]));
        assert!(refused(&[0.1, 1.0]));
        assert!(refused(&[0.1, -0.1]));
        assert!(refused(&[0.1, f32::NAN]));
        assert!(refused(&[f32::INFINITY, 0.1]));
        assert!(TrainingSchedule::new(BetaCurve::Linear, 1e-4, 0.02, usize::MAX).is_err());
        assert!(TrainingSchedule::new(BetaCurve::Linear, f64::NAN, 0.02, 10).is_err());
        assert!(TrainingSchedule::new(BetaCurve::Linear, 1e-4, 0.02, 0).is_err());
        assert!(!refused(&[0.1, 0.2]));
    }
}
