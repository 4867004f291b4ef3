//! Elementary functions that give the same bits on every machine, and that compilers vectorize.

use libm::erff;

/// `e^x` in f32, within 2 units in the last place.
///
/// Range reduction to `2^n * e^r` with `|r| <= ln(2) / 2` and the degree-5 polynomial of Cephes
/// (`expf.c`, S. Moshier). Underflows to 0 below -87.3 and saturates at `e^88.37` above.
#[inline]
#[must_use]
pub fn exp(x: f32) -> f32 {
    /// Adding and subtracting 1.5 · 2^23 rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let clamped = x.clamp(-87.336_54, 88.376_26);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_3e-1;
    let mantissa = p * r * r + r + 1.0;
    // n is from -126 to 127, so n + 127 is a valid exponent field.
    let scale = f32::from_bits(((n as i32 + 127) as u32) << 23);
    let value = mantissa * scale;
    if x < -87.336_54 {
        0.0
    } else if x.is_nan() {
        x
    } else {
        value
    }
}

/// The sigmoid linear unit `x / (1 + e^-x)` (Elfwing et al., 2017).
#[inline]
#[must_use]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The exact Gaussian error linear unit `x Φ(x)` (Hendrycks & Gimpel, 2016), as diffusers uses it.
#[inline]
#[must_use]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// CLIP's approximation of the GELU: `x · sigmoid(1.702 x)`.
#[inline]
#[must_use]
pub fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_f64_over_its_range() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_at_their_ends() {
        assert!(silu(-200.0).abs() < 1e-35);
        assert_eq!(silu(200.0), 200.0);
        assert_eq!(gelu(20.0), 20.0);
        assert!((f64::from(gelu(1.0)) - 0.841_344_746_068_543).abs() < 1e-7);
        assert!((f64::from(quick_gelu(1.0)) - 1.0 / (1.0 + (-1.702f64).exp())).abs() < 1e-7);
    }
}
