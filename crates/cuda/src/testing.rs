//! What the tests of the kernels share: cards, numbers, and comparisons.

use crate::{Buffer, Card, Format};

/// All formats, each with the size of its steps near 1.
pub(crate) const FORMATS: [(Format, f64); 3] =
    [(Format::F32, 1.2e-7), (Format::F16, 9.8e-4), (Format::Bf16, 7.9e-3)];

/// The emulated card, and a real one where there is one.
pub(crate) fn cards() -> Vec<Card> {
    #[allow(unused_mut, reason = "it grows where there is a driver")]
    let mut cards = vec![Card::emulated()];
    #[cfg(feature = "nvidia")]
    match Card::open(0) {
        Ok(card) => cards.push(card),
        Err(error) => eprintln!("skipped: no CUDA device ({error})"),
    }
    cards
}

/// Numbers between -1 and 1 that look random.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A buffer of [`numbers`], and what it holds once they are rounded.
pub(crate) fn random(card: &Card, count: usize, seed: u64, format: Format) -> (Buffer, Vec<f64>) {
    let buffer = Buffer::upload(card, &numbers(count, seed), format).unwrap();
    let exact = wide(&buffer);
    (buffer, exact)
}

/// What a buffer holds.
pub(crate) fn wide(buffer: &Buffer) -> Vec<f64> {
    buffer.download().unwrap().into_iter().map(f64::from).collect()
}

/// Asserts that a result is what it should be, up to `tolerance` of one step of its format at the size of
/// the number, or at `size` where that is more.
#[track_caller]
pub(crate) fn assert_close(ours: &Buffer, exact: &[f64], tolerance: f64, size: f64, what: &str) {
    let step = FORMATS.iter().find(|(format, _)| *format == ours.format()).unwrap().1;
    let ours = wide(ours);
    assert_eq!(ours.len(), exact.len(), "{what}");
    for (at, (ours, exact)) in ours.iter().zip(exact).enumerate() {
        let most = tolerance * step * exact.abs().max(size);
        assert!((ours - exact).abs() <= most, "{what}: {ours} instead of {exact} at {at}");
    }
}
