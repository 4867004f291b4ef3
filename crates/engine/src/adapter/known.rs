//! Algorithms that are recognized and named, but not applied yet.
//!
//! Their modules are listed with their algorithm's name, never left out in silence. An algorithm
//! that learns to be applied moves from here to a file of its own.

use crate::adapter::{Algorithm, parts::Parts, tlora};

/// Records of what has no rank and no formula here yet.
const fn named(
    id: &'static str,
    name: &'static str,
    suffixes: &'static [(&'static str, &'static str)],
    recognizes: fn(&Parts) -> bool,
) -> Algorithm {
    Algorithm { id, name, suffixes, recognizes, rank: |_| None, inputs: |_| None, apply: None }
}

/// LyCORIS' sparse additions to the weight.
pub(super) static SPARSE: Algorithm = named(
    "sparse",
    "LoRA with a sparse bias",
    &[("bias_indices", "indices"), ("bias_values", "values"), ("bias_size", "size")],
    |parts| parts.has("indices") || parts.has("values"),
);

/// Another weight in place of the base's.
pub(super) static REPLACEMENT: Algorithm = named(
    "replacement",
    "a replaced weight",
    &[("set_weight", "set_weight"), ("reshape_weight", "reshape_weight")],
    |parts| parts.has("set_weight") || parts.has("reshape_weight"),
);

/// PEFT's butterflies turn inputs, and say in their configuration how.
pub(super) static BOFT_OF_INPUTS: Algorithm = named(
    "boft_input",
    "BOFT of inputs",
    &[("boft_R", "stages"), ("boft_s", "stage_scale")],
    |parts| parts.has("stages"),
);

/// Kopiczko et al., 2023, <https://arxiv.org/abs/2310.11454>: the matrices are random, and mostly not in the file.
pub(super) static VERA: Algorithm =
    named("vera", "VeRA", &[("vera_lambda_b", "vera_b"), ("vera_lambda_d", "vera_d")], |parts| {
        parts.has("vera_b") || parts.has("vera_d")
    });

/// Gao et al., 2024, <https://arxiv.org/abs/2405.03003>: a few coefficients of the change's spectrum, at random
/// places.
pub(super) static FOURIER: Algorithm =
    named("fourierft", "FourierFT", &[("fourierft_spectrum", "spectrum")], |parts| {
        parts.has("spectrum")
    });

/// As LyCORIS writes it. What its factors were at first depends on a setting of the training that is not in the
/// file.
pub(super) static TLORA_ALONE: Algorithm =
    named("tlora", "T-LoRA (ortho) without its first state", tlora::SUFFIXES, |parts| {
        parts.has("lambda_layer")
    });
