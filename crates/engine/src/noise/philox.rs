//! `torch.randn` on a CUDA device: Philox and the Box-Muller transform.
//!
//! Philox 4x32-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") is a cipher:
//! the random numbers are the encryption of a counter under the seed as key. The counter is made of
//! the number of the call and the index of the element, so every element is computed on its own, and
//! of the four words that come out, one pair is used.
//!
//! The transform is in double precision, as A1111's `NV` source has it. A CUDA device does it in
//! single precision with its own logarithm and sine, so the last bits differ there.

/// The generator of a CUDA device.
#[derive(Debug, Clone)]
pub(super) struct Philox {
    key: [u32; 2],
    /// How often it was asked; the first word of the counter.
    calls: u32,
}

impl Philox {
    /// All 64 bits of the seed are used.
    pub(super) fn new(seed: u64) -> Philox {
        Philox { key: [seed as u32, (seed >> 32) as u32], calls: 0 }
    }

    /// The next call of `torch.randn` with `count` elements.
    pub(super) fn randn(&mut self, count: usize) -> Vec<f32> {
        let (key, call) = (self.key, self.calls);
        self.calls = call.wrapping_add(1);
        (0..count)
            .map(|index| {
                let [a, b, ..] = philox([call, 0, index as u32, 0], key);
                box_muller(a, b)
            })
            .collect()
    }
}

/// Ten rounds of Philox 4x32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b] = [u64::from(counter[0]) * 0xd251_1f53, u64::from(counter[2]) * 0xcd9e_8d57];
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        // The golden ratio and the square root of 3, less one: the key schedule is a Weyl sequence.
        key[0] = key[0].wrapping_add(0x9e37_79b9);
        key[1] = key[1].wrapping_add(0xbb67_ae85);
    }
    counter
}

/// The sine half of the Box-Muller transform, with the uniform numbers in the middle of their cells.
fn box_muller(a: u32, b: u32) -> f32 {
    const CELL: f32 = 1.0 / 4_294_967_296.0;
    const ANGLE: f32 = CELL * std::f32::consts::TAU;
    let u = f64::from(a) * f64::from(CELL) + f64::from(CELL / 2.0);
    let angle = f64::from(b) * f64::from(ANGLE) + f64::from(ANGLE / 2.0);
    ((-2.0 * u.ln()).sqrt() * angle.sin()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with their code (Random123, `kat_vectors`).
    #[test]
    fn the_cipher_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    /// `torch.manual_seed(0); torch.randn(12, device="cuda")`.
    #[test]
    fn the_numbers_are_those_of_a_cuda_device() {
        let cuda = [
            -0.924_662_6,
            -0.425_344_15,
            -2.643_845_7,
            0.145_183_88,
            -0.120_866_47,
            -0.579_725_6,
            -0.622_851_2,
            -0.328_387_1,
            -1.074_542_3,
            -0.363_144_07,
            -1.671_050_7,
            2.265_505,
        ];
        for (ours, theirs) in Philox::new(0).randn(12).into_iter().zip(cuda) {
            assert!((ours - theirs).abs() <= 1e-6 * theirs.abs(), "{ours} instead of {theirs}");
        }
    }
}
