//! `torch.randn` on a CPU, bit for bit: a Mersenne Twister and the Box-Muller transform.
//!
//! What PyTorch computes depends on how many numbers are asked for. From 16 on it draws all uniform
//! numbers first and transforms them in groups of 16, with single-precision polynomials written for
//! vector registers; below 16 it transforms one pair at a time in double precision, and keeps the
//! second number of a pair for the next call. Both are reproduced here, so a generator can be asked
//! for any sequence of counts.
//!
//! The polynomials are those of Cephes (Moshier) evaluated with fused multiply-adds, as PyTorch does
//! on a processor with AVX2. A system's own `log`, `sin` and `cos` differ in the last bit for one
//! number in seven, so they are no replacement.

use std::f64::consts::TAU;

/// PyTorch's generator on the CPU.
#[derive(Debug, Clone)]
pub(super) struct TorchCpu {
    uniform: Mt19937,
    /// The second number of the last pair, when the count was below 16 and odd.
    spare: Option<f64>,
}

impl TorchCpu {
    /// Only the low 32 bits of the seed are used, as `torch.Generator.manual_seed` does.
    pub(super) fn new(seed: u64) -> TorchCpu {
        TorchCpu { uniform: Mt19937::new(seed as u32), spare: None }
    }

    /// The next call of `torch.randn` with `count` elements.
    pub(super) fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| self.one() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform.next_f32()).collect();
        for group in values.as_chunks_mut().0 {
            box_muller(group);
        }
        // An incomplete last group is filled by drawing the last 16 places again.
        if !count.is_multiple_of(16) {
            let last = values.last_chunk_mut().expect("there are at least 16 values");
            last.fill_with(|| self.uniform.next_f32());
            box_muller(last);
        }
        values
    }

    /// One normal number from the double-precision path.
    fn one(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = TAU * self.uniform.next_f64();
        let radius = (-2.0 * (-self.uniform.next_f64()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Turns 16 uniform numbers into 16 normal ones: eight radii, then eight angles.
fn box_muller(group: &mut [f32; 16]) {
    let (radii, angles) = group.split_at_mut(8);
    for (a, b) in radii.iter_mut().zip(angles) {
        // `1 - u` lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * ln(1.0 - *a)).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * *b);
        *a = radius * cos;
        *b = radius * sin;
    }
}

/// Cephes' `logf`, for `0 < x`.
fn ln(x: f32) -> f32 {
    // x = mantissa * 2^exponent, with the mantissa in [sqrt(1/2), sqrt(2)).
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let mut exponent = (bits >> 23) as f32 - 126.0;
    let mantissa = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000);
    let m = if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        mantissa - 1.0 + mantissa
    } else {
        mantissa - 1.0
    };
    let square = m * m;
    let mut y = horner(
        m,
        [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333e-1,
        ],
    ) * m;
    // ln 2 is added in two parts, whose sum is more precise than one number.
    y = y.mul_add(square, exponent * -2.121_944_4e-4);
    y = square.mul_add(-0.5, y);
    exponent.mul_add(0.693_359_4, m + y)
}

/// Cephes' `sinf` and `cosf`, for `0 <= x < 2 pi`.
fn sin_cos(x: f32) -> (f32, f32) {
    // The nearest even multiple of pi / 4, and the distance to it in three parts.
    let octant = ((x * 1.273_239_5) as u32 + 1) & !1;
    let multiple = octant as f32;
    let x = multiple.mul_add(-0.785_156_25, x);
    let x = multiple.mul_add(-2.418_756_5e-4, x);
    let x = multiple.mul_add(-3.774_895e-8, x);

    let square = x * x;
    let cos = horner(square, [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]) * square;
    let cos = cos.mul_add(square, square * -0.5) + 1.0;
    let sin = horner(square, [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]) * square;
    let sin = sin.mul_add(x, x);

    match octant & 6 {
        0 => (sin, cos),
        2 => (cos, -sin),
        4 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// A polynomial, highest power first, with fused multiply-adds.
fn horner<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    coefficients.into_iter().reduce(|sum, c| sum.mul_add(x, c)).unwrap_or(0.0)
}

/// The 32-bit Mersenne Twister (Matsumoto and Nishimura, 1998).
#[derive(Debug, Clone)]
struct Mt19937 {
    state: Box<[u32; Self::SIZE]>,
    next: usize,
}

impl Mt19937 {
    const SIZE: usize = 624;
    const SHIFT: usize = 397;

    fn new(seed: u32) -> Mt19937 {
        let mut state = Box::new([seed; Self::SIZE]);
        for i in 1..Self::SIZE {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Mt19937 { state, next: Self::SIZE }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::SIZE {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    fn refill(&mut self) {
        for i in 0..Self::SIZE {
            let next = self.state[(i + 1) % Self::SIZE];
            let y = self.state[i] & 0x8000_0000 | next & 0x7fff_ffff;
            let twist = if y & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[i] = self.state[(i + Self::SHIFT) % Self::SIZE] ^ y >> 1 ^ twist;
        }
        self.next = 0;
    }

    /// In `[0, 1)`, with 24 random bits.
    fn next_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 * 2f32.powi(-24)
    }

    /// In `[0, 1)`, with 53 random bits.
    fn next_f64(&mut self) -> f64 {
        let high = u64::from(self.next_u32());
        let bits = high << 32 | u64::from(self.next_u32());
        (bits & ((1 << 53) - 1)) as f64 * 2f64.powi(-53)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The C++ standard fixes the 10,000th number of the default seed.
    #[test]
    fn the_twister_is_the_standard_one() {
        let mut twister = Mt19937::new(5489);
        let last = (0..10_000).map(|_| twister.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn the_polynomials_are_good_to_single_precision() {
        for i in 1..=10_000 {
            let x = i as f32 / 10_000.0;
            assert!((f64::from(ln(x)) - f64::from(x).ln()).abs() < 1e-6, "ln({x})");
            let angle = f64::from(std::f32::consts::TAU * x);
            let (sin, cos) = sin_cos(angle as f32);
            assert!((f64::from(sin) - angle.sin()).abs() < 1e-6, "sin({angle})");
            assert!((f64::from(cos) - angle.cos()).abs() < 1e-6, "cos({angle})");
        }
    }
}
