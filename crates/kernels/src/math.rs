//! Elementary functions that give the same bits on every machine, and that compilers vectorize.

/// `e^x` in f32, within 2 units in the last place.
///
/// Range reduction to `2^n * e^r` with `|r| <= ln(2) / 2` and the degree-5 polynomial of Cephes
/// (`expf.c`, S. Moshier). Underflows to 0 below -87.3 and saturates at `e^88.37` above.
#[inline(always)]
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

/// `1 / x` for `x` from 1 to 10^38, within 2 units in the last place, without a division: processors
/// divide a vector in the time of 16 products.
///
/// Newton's iteration from an initial value that subtracts the exponent from its double (the constant
/// makes its error the same at both ends of an octave, 12 %).
#[inline(always)]
fn reciprocal(x: f32) -> f32 {
    let mut y = f32::from_bits(0x7ef3_11c7_u32.wrapping_sub(x.to_bits()));
    for _ in 0..4 {
        y *= 2.0 - x * y;
    }
    y
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    // Beyond that its value times any x that is near is 0.
    reciprocal(1.0 + exp((-x).min(86.0)))
}

/// The sigmoid linear unit `x / (1 + e^-x)` (Elfwing et al., 2017).
#[inline(always)]
#[must_use]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The error function, within 1e-7.
///
/// `erf(x) = 1 - e^(x p(x))` for positive `x`, with the polynomial of degree 7 that has the least
/// error in `erf` up to 4, where it is 1 in f32 (fitted by `scripts/fit-erf.py`).
#[inline(always)]
#[must_use]
pub fn erf(x: f32) -> f32 {
    const P: [f32; 8] = [
        -1.128_380_3,
        -0.636_597_75,
        -0.102_919_616,
        0.019_583_96,
        -0.000_536_932_1,
        -0.001_032_402_4,
        0.000_308_802_4,
        -0.000_031_440_19,
    ];
    let t = x.abs().min(4.0);
    let mut p = P[7];
    for c in P[..7].iter().rev() {
        p = p * t + c;
    }
    let value = (1.0 - exp(p * t)).copysign(x);
    if x.is_nan() { x } else { value }
}

/// The exact Gaussian error linear unit `x Φ(x)` (Hendrycks & Gimpel, 2016), as diffusers uses it.
#[inline(always)]
#[must_use]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// CLIP's approximation of the GELU: `x · sigmoid(1.702 x)`.
#[inline(always)]
#[must_use]
pub fn quick_gelu(x: f32) -> f32 {
    x * sigmoid(1.702 * x)
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
    fn erf_and_silu_agree_with_f64_over_their_range() {
        for i in -1_000_000..1_000_000 {
            let x = i as f32 * 1e-4;
            let error = f64::from(erf(x)) - libm::erf(f64::from(x));
            assert!(error.abs() < 1.3e-7, "erf({x}) is off by {error:e}");
            let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            let error = f64::from(silu(x)) - exact;
            assert!(error.abs() <= 1e-35 + 5e-7 * exact.abs(), "silu({x}) is off by {error:e}");
        }
    }

    #[test]
    fn activations_at_their_ends() {
        assert!(silu(-200.0).abs() < 1e-35);
        assert!((silu(200.0) - 200.0).abs() < 1e-4);
        assert!(silu(f32::NAN).is_nan() && gelu(f32::NAN).is_nan());
        assert_eq!(gelu(20.0), 20.0);
        assert_eq!(gelu(-20.0), 0.0);
        assert!((f64::from(gelu(1.0)) - 0.841_344_746_068_543).abs() < 1e-7);
        assert!((f64::from(quick_gelu(1.0)) - 1.0 / (1.0 + (-1.702f64).exp())).abs() < 1e-7);
    }
}
