//! Elementary functions that do not depend on the system's mathematical library.

use crate::lanes::Lanes;

/// `e^x` in f32, within 2 units in the last place, from -87.3 to 88.3; saturated beyond.
///
/// Range reduction to `2^n * e^r` with `|r| <= ln(2) / 2` and the degree-5 polynomial of Cephes
/// (`expf.c`, S. Moshier).
#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: L) -> L {
    /// Adding and subtracting 1.5 · 2^23 rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const P: [f32; 6] =
        [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_3e-1];
    // SAFETY: the caller has the instructions.
    unsafe {
        let x = x.max(L::splat(-87.336_54)).min(L::splat(88.376_26));
        let round = L::splat(ROUND);
        let n = x.mul_add(L::splat(std::f32::consts::LOG2_E), round).sub(round);
        let r = n.mul_add(L::splat(-LN_2_HIGH), x);
        let r = n.mul_add(L::splat(-LN_2_LOW), r);
        let mut p = L::splat(P[0]);
        for c in &P[1..] {
            p = p.mul_add(r, L::splat(*c));
        }
        let mantissa = p.mul_add(r.mul(r), r.add(L::splat(1.0)));
        mantissa.mul(n.power_of_2())
    }
}

/// `2^x`, within 8e-5 of its value, a twentieth of what rounding to bf16 does: the polynomial of degree 3
/// with the least relative error from -1/2 to 1/2 (`scripts/fit.py`). Below 2^-126 it is that.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn exp2_rough<L: Lanes>(x: L) -> L {
    // SAFETY: the caller has the instructions.
    unsafe {
        let x = x.max(L::splat(-126.0)).min(L::splat(127.0));
        let round = L::splat(12_582_912.0);
        let whole = x.add(round).sub(round);
        let rest = x.sub(whole);
        let mut p = L::splat(0.055_171_67);
        for c in [0.242_611_12, 0.693_261, 0.999_928_1] {
            p = p.mul_add(rest, L::splat(c));
        }
        p.mul(whole.power_of_2())
    }
}

/// `1 / x` for `x` from 1 to 10^38, within 2 units in the last place, without a division: processors
/// divide a vector in the time of 16 products.
#[inline(always)]
unsafe fn reciprocal<L: Lanes>(x: L) -> L {
    // SAFETY: the caller has the instructions.
    unsafe {
        let mut y = x.reciprocal_guess();
        let negative = L::splat(0.0).sub(x);
        for _ in 0..3 {
            y = y.mul(negative.mul_add(y, L::splat(2.0)));
        }
        y
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
unsafe fn sigmoid<L: Lanes>(x: L) -> L {
    // SAFETY: the caller has the instructions.
    unsafe {
        // Beyond 86, its product with any `x` that is near is 0.
        let e = exp(L::splat(0.0).sub(x).min(L::splat(86.0)));
        reciprocal(e.add(L::splat(1.0)))
    }
}

/// The sigmoid linear unit `x / (1 + e^-x)` (Elfwing et al., 2017).
#[inline(always)]
pub(crate) unsafe fn silu<L: Lanes>(x: L) -> L {
    // SAFETY: the caller has the instructions.
    unsafe { x.mul(sigmoid(x)) }
}

/// The error function, within 1e-7.
///
/// `erf(x) = 1 - e^(x p(x))` for positive `x`, with the polynomial of degree 7 that has the least
/// error in `erf` up to 4, where it is 1 in f32 (`scripts/fit.py`).
#[inline(always)]
pub(crate) unsafe fn erf<L: Lanes>(x: L) -> L {
    const P: [f32; 8] = [
        -3.144_018_8e-5,
        3.088_024e-4,
        -1.032_402_4e-3,
        -5.369_321e-4,
        1.958_396e-2,
        -1.029_196_1e-1,
        -6.365_977_5e-1,
        -1.128_380_3,
    ];
    // SAFETY: the caller has the instructions.
    unsafe {
        let t = x.abs().min(L::splat(4.0));
        let mut p = L::splat(P[0]);
        for c in &P[1..] {
            p = p.mul_add(t, L::splat(*c));
        }
        L::splat(1.0).sub(exp(p.mul(t))).copysign(x)
    }
}

/// The exact Gaussian error linear unit `x Φ(x)` (Hendrycks & Gimpel, 2016), as diffusers uses it.
#[inline(always)]
pub(crate) unsafe fn gelu<L: Lanes>(x: L) -> L {
    // SAFETY: the caller has the instructions.
    unsafe {
        let half = x.mul(L::splat(0.5));
        half.mul_add(erf(x.mul(L::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
    }
}

/// CLIP's approximation of the GELU: `x · sigmoid(1.702 x)`.
#[inline(always)]
pub(crate) unsafe fn quick_gelu<L: Lanes>(x: L) -> L {
    // SAFETY: the caller has the instructions.
    unsafe { x.mul(sigmoid(x.mul(L::splat(1.702)))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{LANES, Plain};

    /// Runs a function on the numbers of a range with each kind of lanes.
    fn over<F: Fn(f32, f32)>(
        range: std::ops::Range<i32>,
        step: f32,
        plain: unsafe fn(Plain) -> Plain,
        #[cfg(target_arch = "x86_64")] avx2: unsafe fn(crate::lanes::Avx2) -> crate::lanes::Avx2,
        #[cfg(target_arch = "x86_64")] avx512: unsafe fn(
            crate::lanes::Avx512,
        ) -> crate::lanes::Avx512,
        check: F,
    ) {
        #[inline(always)]
        unsafe fn run<L: Lanes>(f: unsafe fn(L) -> L, x: [f32; LANES]) -> [f32; LANES] {
            // SAFETY: the caller has the instructions.
            unsafe { f(L::load(x.as_ptr())).to_array() }
        }
        for start in range.step_by(LANES) {
            let x: [f32; LANES] = std::array::from_fn(|i| (start + i as i32) as f32 * step);
            let mut results = vec![];
            // SAFETY: plain Rust, and rungs that the processor has.
            unsafe {
                results.push(run(plain, x));
                #[cfg(target_arch = "x86_64")]
                if crate::Isa::Avx2.is_available() {
                    results.push(run(avx2, x));
                }
                #[cfg(target_arch = "x86_64")]
                if crate::Isa::Avx512.is_available() {
                    results.push(run(avx512, x));
                }
            }
            for values in results {
                x.into_iter().zip(values).for_each(|(x, value)| check(x, value));
            }
        }
    }

    macro_rules! over {
        ($range:expr, $step:expr, $f:ident, $check:expr) => {
            over(
                $range,
                $step,
                $f::<Plain>,
                #[cfg(target_arch = "x86_64")]
                $f::<crate::lanes::Avx2>,
                #[cfg(target_arch = "x86_64")]
                $f::<crate::lanes::Avx512>,
                $check,
            )
        };
    }

    #[test]
    fn functions_agree_with_f64_over_their_range() {
        over!(-873_000..883_000, 1e-4, exp, |x, value| {
            let exact = f64::from(x).exp();
            let error = (f64::from(value) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        });
        over!(-1_000_000..1_000_000, 1e-4, erf, |x, value| {
            let error = f64::from(value) - libm::erf(f64::from(x));
            assert!(error.abs() < 1.3e-7, "erf({x}) is off by {error:e}");
        });
        over!(-1_000_000..1_000_000, 1e-4, silu, |x, value| {
            let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(value) - exact).abs();
            assert!(error <= 1e-35 + 5e-7 * exact.abs(), "silu({x}) is off by {error:e}");
        });
        over!(-100_000..100_000, 1e-3, gelu, |x, value| {
            let x = f64::from(x);
            let exact = 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()));
            let error = (f64::from(value) - exact).abs();
            assert!(error <= 1e-7 * (1.0 + x.abs()), "gelu({x}) is off by {error:e}");
        });
        over!(-100_000..100_000, 1e-3, quick_gelu, |x, value| {
            let x = f64::from(x);
            let exact = x / (1.0 + (-1.702 * x).exp());
            let error = (f64::from(value) - exact).abs();
            assert!(error <= 1e-35 + 1e-5 * exact.abs(), "quick_gelu({x}) is off by {error:e}");
        });
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        // SAFETY: plain Rust.
        let nan = unsafe {
            let x = Plain::splat(f32::NAN);
            [silu(x), gelu(x), quick_gelu(x)].map(|value| value.to_array()[0])
        };
        assert!(nan.into_iter().all(f32::is_nan));
    }
}
