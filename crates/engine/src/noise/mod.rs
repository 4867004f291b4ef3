//! Seeded Gaussian noise: the same numbers on every device.

/// The noise of one picture.
#[derive(Debug)]
pub struct Noise {}
