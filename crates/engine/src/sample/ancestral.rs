//! What the ancestral samplers share: how much of a step is noise.

/// Splits a step from `sigma` to `next` in two: down to the first of the results without noise, then
/// up again to `next` with fresh noise of the second's deviation.
///
/// The split is the one for which the step draws from the posterior of the forward process, as DDPM
/// does (eta = 1): `up^2 = next^2 (sigma^2 - next^2) / sigma^2`, `down^2 = next^2 - up^2`.
pub(super) fn split(sigma: f64, next: f64) -> (f64, f64) {
    let ratio = next / sigma;
    (next * ratio, next * (1.0 - ratio * ratio).sqrt())
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn the_parts_make_up_the_step() {
        for (sigma, next) in [(14.6, 9.7), (2.0, 1.9), (1.0, 0.03)] {
            let (down, up) = split(sigma, next);
            assert!((down.hypot(up) - next).abs() < 1e-12 * next);
            let variance: f64 = next * next * (sigma * sigma - next * next) / (sigma * sigma);
            assert!((up - variance.sqrt()).abs() < 1e-12 * next);
        }
    }

    #[test]
    fn the_last_step_has_no_noise() {
        assert_eq!(split(0.03, 0.0), (0.0, 0.0));
    }
}
