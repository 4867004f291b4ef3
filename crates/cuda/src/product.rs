//! Matrix products: linear layers and convolutions.

/// A function of each result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x Φ(x)`.
    Gelu,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// The gated linear unit of Shazeer (2020): the first half of the outputs are values, the second
    /// gates, and `value · gelu(gate)` is stored, half as wide.
    Geglu,
}
