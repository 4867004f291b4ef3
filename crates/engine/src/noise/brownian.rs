//! Brownian motion that does not depend on how often, or in which order, it is looked at.
//!
//! The samplers for stochastic differential equations need noise that belongs to a stretch of sigma,
//! not to a step: with twice the steps, the two halves of a stretch must add up to the noise of the
//! whole. A Brownian tree does this. The motion over the whole interval is drawn first; each half is
//! then drawn conditionally on the whole (a Brownian bridge), down to the resolution of the times.
//!
//! This is `BrownianTree` of torchsde 0.2.6 (Li et al., 2020), which k-diffusion uses. Three things
//! decide its numbers: each node has its own seed, which `numpy.random.SeedSequence` derives from the
//! node's place in the tree; times are rounded to six decimals; and sums are taken from left to right.

use super::Generator;
use crate::Rng;

/// Brownian motion over one interval of time, for a number of elements.
#[derive(Debug, Clone)]
pub(super) struct BrownianTree {
    rng: Rng,
    entropy: u64,
    /// First and last time, as given.
    times: (f64, f64),
    elements: usize,
}

/// One interval of the tree. Its halves are `2 * index` and `2 * index + 1`, one level deeper.
#[derive(Debug, Clone, Copy)]
struct Node {
    start: f64,
    end: f64,
    index: u64,
    depth: u64,
}

impl BrownianTree {
    /// The motion from `start` to `end`; `entropy` is the seed of the picture.
    pub(super) fn new(rng: Rng, entropy: u64, start: f64, end: f64, elements: usize) -> Self {
        BrownianTree { rng, entropy, times: (start, end), elements }
    }

    /// How far each element moves between two times, `from <= to`. Times outside of the tree's
    /// interval count as its ends.
    pub(super) fn increment(&self, from: f64, to: f64) -> Vec<f32> {
        let (start, end) = self.times;
        let root = Node { start: round(start), end: round(end), index: 0, depth: 0 };
        let from = round(from.clamp(root.start, root.end));
        let to = round(to.clamp(root.start, root.end));

        let mut sum = vec![0.0; self.elements];
        if from < to {
            let scale = (end - start).sqrt() as f32;
            let mut motion = self.randn(seed(self.entropy, &[]));
            motion.iter_mut().for_each(|w| *w *= scale);
            self.add(root, motion, from, to, &mut sum);
        }
        sum
    }

    /// Adds the motion between `from` and `to`, which lie in `node`, whose whole motion is given.
    ///
    /// Ends, because each level halves the interval and all times are multiples of a millionth.
    fn add(&self, node: Node, motion: Vec<f32>, from: f64, to: f64, sum: &mut [f32]) {
        if from == node.start && to == node.end {
            sum.iter_mut().zip(motion).for_each(|(sum, w)| *sum += w);
            return;
        }
        let middle = round(0.5 * (node.end + node.start));
        let (index, depth) = (2 * node.index, node.depth + 1);
        let left = Node { start: node.start, end: middle, index, depth };
        let right = Node { start: middle, end: node.end, index: index + 1, depth };

        // Given the whole, the left half is normal: its share of the whole is the mean.
        let (before, after) = (middle - node.start, node.end - middle);
        let reciprocal = 1.0 / (node.end - node.start);
        let deviation = (before * after * reciprocal).sqrt() as f32;
        let (before, reciprocal) = (before as f32, reciprocal as f32);
        let mut left_motion = self.randn(seed(self.entropy, &[node.index, node.depth]));
        for (left, whole) in left_motion.iter_mut().zip(&motion) {
            *left = before * whole * reciprocal + deviation * *left;
        }
        let right_motion = |left: &[f32]| motion.iter().zip(left).map(|(w, l)| w - l).collect();

        if to <= middle {
            self.add(left, left_motion, from, to, sum);
        } else if from >= middle {
            self.add(right, right_motion(&left_motion), from, to, sum);
        } else {
            let right_motion = right_motion(&left_motion);
            self.add(left, left_motion, from, middle, sum);
            self.add(right, right_motion, middle, to, sum);
        }
    }

    fn randn(&self, seed: u32) -> Vec<f32> {
        Generator::new(self.rng, u64::from(seed)).randn(self.elements)
    }
}

/// To six decimals, correctly rounded, ties to even: Python's `round(time, 6)`.
///
/// Multiplying by a million would round twice, and a middle is often close to a tie.
fn round(time: f64) -> f64 {
    format!("{time:.6}").parse().expect("a formatted number is a number")
}

/// The first word of `numpy.random.SeedSequence(entropy, spawn_key=key, pool_size=24)`.
///
/// The entropy is hashed into a pool, every word of which is then made to depend on every other
/// (O'Neill, 2015, "Developing a seed_seq alternative").
fn seed(entropy: u64, spawn_key: &[u64]) -> u32 {
    const POOL: usize = 24;

    let mut words = split(entropy);
    if !spawn_key.is_empty() {
        // So that a key is not mistaken for more entropy.
        words.resize(POOL, 0);
        words.extend(spawn_key.iter().flat_map(|&part| split(part)));
    }

    let mut constant = 0x43b0_d7e5_u32;
    let mut hash = |word: u32| {
        let word = word ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let word = word.wrapping_mul(constant);
        word ^ word >> 16
    };
    let mix = |x: u32, y: u32| {
        let word = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
        word ^ word >> 16
    };

    let mut pool = [0; POOL];
    for (i, word) in pool.iter_mut().enumerate() {
        *word = hash(words.get(i).copied().unwrap_or(0));
    }
    for from in 0..POOL {
        for to in (0..POOL).filter(|&to| to != from) {
            pool[to] = mix(pool[to], hash(pool[from]));
        }
    }
    for &word in words.iter().skip(POOL) {
        for to in &mut pool {
            *to = mix(*to, hash(word));
        }
    }

    let word = (pool[0] ^ 0x8b51_f9dd).wrapping_mul(0x8b51_f9dd_u32.wrapping_mul(0x58f3_8ded));
    word ^ word >> 16
}

/// A number as 32-bit words, lowest first, at least one.
fn split(number: u64) -> Vec<u32> {
    match (number as u32, (number >> 32) as u32) {
        (low, 0) => vec![low],
        (low, high) => vec![low, high],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SeedSequence(entropy, spawn_key=key, pool_size=24).generate_state(1)` of numpy 2.4.
    #[test]
    fn seeds_are_those_of_numpy() {
        for (entropy, key, expected) in SEEDS {
            assert_eq!(seed(*entropy, key), *expected, "{entropy} {key:?}");
        }
    }

    const SEEDS: &[(u64, &[u64], u32)] = &[
        (0, &[], 4_025_752_534),
        (42, &[], 387_750_627),
        (42, &[0, 0], 2_102_017_995),
        ((1 << 53) - 1, &[], 3_124_999_606),
        ((1 << 53) - 1, &[12_345, 14], 2_826_273_505),
        (1 << 32, &[1, 1], 3_261_137_881),
        (7, &[(1 << 33) + 5, 34], 4_188_306_624),
    ];

    #[test]
    fn times_round_as_in_python() {
        // The first is exactly halfway; 1.0000005 is a little above, in binary.
        assert_eq!(round(0.007_812_5), 0.007_812);
        assert_eq!(round(0.011_718_75), 0.011_719);
        assert_eq!(round(1.000_000_5), 1.000_001);
        assert_eq!(round(14.614_646_911_621_094), 14.614_647);
    }

    #[test]
    fn halves_add_up_to_the_whole() {
        let tree = BrownianTree::new(Rng::TorchCpu, 7, 0.03, 14.6, 32);
        let whole = tree.increment(0.2, 9.7);
        let (left, right) = (tree.increment(0.2, 1.5), tree.increment(1.5, 9.7));
        for ((left, right), whole) in left.iter().zip(&right).zip(&whole) {
            assert!((left + right - whole).abs() < 1e-5, "{left} + {right} = {whole}");
        }
    }

    #[test]
    fn times_outside_count_as_the_ends() {
        let tree = BrownianTree::new(Rng::Nv, 7, 1.0, 2.0, 4);
        assert_eq!(tree.increment(0.5, 3.0), tree.increment(1.0, 2.0));
        assert_eq!(tree.increment(2.5, 3.0), [0.0; 4]);
        assert_eq!(tree.increment(1.5, 1.500_000_1), [0.0; 4], "the same time after rounding");
    }
}
