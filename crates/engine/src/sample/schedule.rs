//! Schedules: which sigmas a sampler walks down.
//!
//! A schedule turns a number of steps into a list of sigmas: descending, within what the UNet was
//! trained on, and with a `0.0` at the end. Few steps are best spent where the picture changes most,
//! and schedules differ in where they think that is.
//!
//! The sigmas are f32 numbers, computed in the order in which the references compute them (karras and
//! exponential: k-diffusion 0.1.1; the others, and all display names: A1111 1.10).
//!
//! # Adding a schedule
//!
//! Write its function, add its record to [`SCHEDULES`], add its golden sigmas.

use super::training::{TrainingSchedule, linspace};

/// What the rest of the program knows of a schedule.
#[derive(Debug)]
pub struct Schedule {
    /// Written into files; never changes once released.
    pub id: &'static str,
    /// Shown to the person, and written into A1111's parameters.
    pub name: &'static str,
    /// The sigmas of this many steps, at least 1, with a `0.0` at the end.
    pub sigmas: fn(&TrainingSchedule, usize) -> Vec<f64>,
}

/// Every schedule, in the order in which the person sees them.
pub static SCHEDULES: &[&Schedule] = &[
    &Schedule { id: "normal", name: "Normal", sigmas: normal },
    &Schedule { id: "karras", name: "Karras", sigmas: karras },
    &Schedule { id: "exponential", name: "Exponential", sigmas: exponential },
    &Schedule { id: "sgm_uniform", name: "SGM Uniform", sigmas: sgm_uniform },
    &Schedule { id: "simple", name: "Simple", sigmas: simple },
    &Schedule { id: "ddim_uniform", name: "DDIM", sigmas: ddim_uniform },
    &Schedule { id: "beta", name: "Beta", sigmas: beta },
];

/// The part of a full schedule that img2img runs.
///
/// As in A1111: of `steps` steps, the last `t_enc + 1` are run, where `t_enc` is the denoising
/// strength times the steps, rounded down. `steps` is what the person asked for; a schedule may have
/// made one more or less of it. At least one step is left.
#[must_use]
pub fn img2img_tail(sigmas: &[f64], steps: usize, denoising_strength: f64) -> &[f64] {
    let t_enc = (denoising_strength.min(0.999) * steps as f64) as usize;
    let skipped = steps.saturating_sub(t_enc + 1);
    &sigmas[skipped.min(sigmas.len().saturating_sub(2))..]
}

/// Evenly spaced timesteps, from the last to the first.
fn normal(training: &TrainingSchedule, steps: usize) -> Vec<f64> {
    at_timesteps(training, linspace(last_timestep(training), 0.0, steps))
}

/// Evenly spaced timesteps, from the last to the first but without it: the last step goes from the
/// last but one to no noise at all (Stability AI's generative-models).
fn sgm_uniform(training: &TrainingSchedule, steps: usize) -> Vec<f64> {
    let mut timesteps = linspace(last_timestep(training), 0.0, steps + 1);
    timesteps.pop();
    at_timesteps(training, timesteps)
}

/// Evenly spaced in the 7th root of sigma: Karras et al., 2022, equation 5, with rho = 7.
fn karras(training: &TrainingSchedule, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let low = training.sigma_min().powf(1.0 / RHO);
    let high = training.sigma_max().powf(1.0 / RHO);
    let roots =
        linspace(0.0, 1.0, steps).into_iter().map(|x| high as f32 + x * (low - high) as f32);
    ending_in_zero(roots.map(|root| f64::from(root).powf(RHO) as f32))
}

/// Evenly spaced in the logarithm of sigma.
fn exponential(training: &TrainingSchedule, steps: usize) -> Vec<f64> {
    let (high, low) = (training.sigma_max().ln(), training.sigma_min().ln());
    let logs = linspace(high as f32, low as f32, steps);
    ending_in_zero(logs.into_iter().map(super::training::exp))
}

/// Every so many-th of the training's sigmas, from the largest; fractions are rounded down.
fn simple(training: &TrainingSchedule, steps: usize) -> Vec<f64> {
    let descending: Vec<f32> = training.sigmas().iter().rev().copied().collect();
    let stride = descending.len() as f64 / steps as f64;
    ending_in_zero((0..steps).map(|i| descending[(i as f64 * stride) as usize]))
}

/// Every so many-th of the training's sigmas, counted from timestep 1 upwards with a whole stride:
/// the timesteps of the original DDIM. Where the stride does not divide the timesteps, there are more
/// steps than asked for.
fn ddim_uniform(training: &TrainingSchedule, steps: usize) -> Vec<f64> {
    let stride = (training.sigmas().len() / steps).max(1);
    let ascending: Vec<f32> = training.sigmas().iter().skip(1).step_by(stride).copied().collect();
    ending_in_zero(ascending.into_iter().rev())
}

/// Dense at both ends and linear in sigma: the quantiles of a beta distribution with alpha = beta =
/// 0.6 (Lee et al., 2024, "Beta sampling is all you need").
fn beta(training: &TrainingSchedule, steps: usize) -> Vec<f64> {
    let (low, high) = (training.sigma_min(), training.sigma_max());
    let distribution = SymmetricBeta::new(0.6);
    let stride = 1.0 / (steps.max(2) - 1) as f64;
    ending_in_zero((0..steps).map(|i| {
        // The end is exactly 1, whatever the rounding of the stride.
        let position = if i > 0 && i == steps - 1 { 1.0 } else { i as f64 * stride };
        (low + distribution.quantile(1.0 - position) * (high - low)) as f32
    }))
}

fn last_timestep(training: &TrainingSchedule) -> f32 {
    (training.sigmas().len() - 1) as f32
}

fn at_timesteps(training: &TrainingSchedule, timesteps: Vec<f32>) -> Vec<f64> {
    ending_in_zero(timesteps.into_iter().map(|t| training.t_to_sigma(f64::from(t)) as f32))
}

pub(super) fn ending_in_zero(sigmas: impl Iterator<Item = f32>) -> Vec<f64> {
    sigmas.map(f64::from).chain([0.0]).collect()
}

/// The beta distribution with both parameters equal to `a`, which is symmetric about 1/2.
#[derive(Debug, Clone, Copy)]
struct SymmetricBeta {
    a: f64,
    /// The beta function B(a, a).
    norm: f64,
}

impl SymmetricBeta {
    fn new(a: f64) -> SymmetricBeta {
        // By symmetry, the distribution function at 1/2 is 1/2: that fixes the norm.
        let half = SymmetricBeta { a, norm: 1.0 }.distribution(0.5f64.powf(a));
        SymmetricBeta { a, norm: 2.0 * half }
    }

    /// The distribution function at `x`, which is given as `u = x^a`, for `x <= 1/2`.
    ///
    /// The integral of `x^(a-1) (1-x)^(a-1)`, term by term: the second factor is a binomial series.
    /// In `u`, the function has no singularity.
    fn distribution(self, u: f64) -> f64 {
        let x = u.powf(1.0 / self.a);
        let (mut coefficient, mut sum) = (1.0, 0.0);
        for n in 0.. {
            let n = f64::from(n);
            let term = coefficient / (self.a + n);
            sum += term;
            if term <= sum * f64::EPSILON / 4.0 {
                break;
            }
            coefficient *= (n + 1.0 - self.a) / (n + 1.0) * x;
        }
        u * sum / self.norm
    }

    /// Where the distribution function reaches `p`, from 0 to 1.
    fn quantile(self, p: f64) -> f64 {
        if p > 0.5 {
            return 1.0 - self.quantile(1.0 - p);
        }
        // Newton's method in u. The function is convex there, so from the right it never overshoots.
        let mut u = 0.5f64.powf(self.a);
        for _ in 0..64 {
            let slope = (1.0 - u.powf(1.0 / self.a)).powf(self.a - 1.0) / (self.a * self.norm);
            let next = u - (self.distribution(u) - p) / slope;
            if next >= u {
                break;
            }
            u = next.max(0.0);
        }
        u.powf(1.0 / self.a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_descends_to_zero() {
        let training = TrainingSchedule::stable_diffusion();
        for schedule in SCHEDULES {
            for steps in [1, 2, 3, 7, 20, 150, 1000] {
                let sigmas = (schedule.sigmas)(&training, steps);
                assert!(sigmas.is_sorted_by(|a, b| a > b), "{} {steps}", schedule.id);
                assert_eq!(sigmas.last(), Some(&0.0), "{} {steps}", schedule.id);
                assert!(sigmas[0] <= training.sigma_max() * 1.000_001, "{} {steps}", schedule.id);
                if schedule.id != "ddim_uniform" {
                    assert_eq!(sigmas.len(), steps + 1, "{}", schedule.id);
                }
            }
        }
    }

    #[test]
    fn ddim_uniform_makes_what_its_stride_makes() {
        let training = TrainingSchedule::stable_diffusion();
        assert_eq!(ddim_uniform(&training, 20).len() - 1, 20);
        assert_eq!(ddim_uniform(&training, 30).len() - 1, 31);
    }

    #[test]
    fn img2img_runs_the_end() {
        let sigmas: Vec<f64> = (0..=20).rev().map(f64::from).collect();
        assert_eq!(img2img_tail(&sigmas, 20, 0.5), &sigmas[9..]);
        assert_eq!(img2img_tail(&sigmas, 20, 1.0), &sigmas[..]);
        assert_eq!(img2img_tail(&sigmas, 20, 0.0), &[1.0, 0.0]);
        // A schedule that made less than was asked for.
        assert_eq!(img2img_tail(&[3.0, 0.0], 20, 0.1), &[3.0, 0.0]);
    }

    /// `scipy.stats.beta.ppf(p, 0.6, 0.6)`.
    #[test]
    fn quantiles_are_those_of_the_beta_distribution() {
        let distribution = SymmetricBeta::new(0.6);
        for (p, expected) in QUANTILES {
            let found = distribution.quantile(*p);
            assert!((found - expected).abs() <= 1e-13 * expected, "{p}: {found:e} {expected:e}");
        }
    }

    const QUANTILES: &[(f64, f64)] = &[
        (0.0, 0.0),
        (1e-6, 1.855_882_462_405_304_3e-10),
        (0.001, 1.855_873_851_745_199e-5),
        (0.05, 0.012_554_456_873_611_399),
        (0.25, 0.175_680_378_652_694_98),
        (0.4999, 0.499_861_274_905_499_75),
        (0.5, 0.5),
        (0.75, 0.824_319_621_347_305),
        (0.95, 0.987_445_543_126_388_5),
        (0.999, 0.999_981_441_261_482_6),
    ];
}
