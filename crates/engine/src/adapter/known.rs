//! Algorithms that are recognized and named, but not applied yet.
//!
//! Their modules are listed with their algorithm's name, never left out in silence. An algorithm
//! that learns to be applied moves from here to a file of its own.

use crate::adapter::{Algorithm, parts::Parts};

/// Records of what has no rank and no formula here yet.
const fn named(
    id: &'static str,
    name: &'static str,
    suffixes: &'static [(&'static str, &'static str)],
    recognizes: fn(&Parts) -> bool,
) -> Algorithm {
    Algorithm { id, name, suffixes, recognizes, rank: |_| None, inputs: |_| None, apply: None }
}

/// A magnitude around any of the low-rank algorithms, so it is looked for before them. Liu et al.,
/// 2024, <https://arxiv.org/abs/2402.09353>.
pub(super) static DORA: Algorithm = Algorithm {
    rank: |parts| parts.shape("down")?.first().copied(),
    inputs: |parts| parts.shape("down")?.get(1).copied(),
    ..named(
        "dora",
        "DoRA",
        &[
            ("dora_scale", "magnitude"),
            ("lora_magnitude_vector.weight", "magnitude"),
            ("lora_magnitude_vector", "magnitude"),
            ("magnitude", "magnitude"),
        ],
        |parts| parts.has("magnitude"),
    )
};

/// Zhang et al., 2023, <https://arxiv.org/abs/2303.10512>.
pub(super) static ADALORA: Algorithm =
    named("adalora", "AdaLoRA", &[("lora_E", "singular_values")], |parts| {
        parts.has("singular_values")
    });

/// PEFT's LoRA of a table of token embeddings.
pub(super) static EMBEDDING: Algorithm = named(
    "lora_embedding",
    "LoRA of token embeddings",
    &[("lora_embedding_A", "table_down"), ("lora_embedding_B", "table_up")],
    |parts| parts.has("table_down") || parts.has("table_up"),
);

/// LyCORIS' sparse additions to the weight.
pub(super) static SPARSE: Algorithm = named(
    "sparse",
    "LoRA with a sparse bias",
    &[("bias_indices", "indices"), ("bias_values", "values"), ("bias_size", "size")],
    |parts| parts.has("indices") || parts.has("values"),
);

/// Kronecker products; Yeh et al., 2023, <https://arxiv.org/abs/2309.14859>.
pub(super) static LOKR: Algorithm = Algorithm {
    rank: |parts| parts.shape("kronecker_w2_b").or(parts.shape("kronecker_w1_b"))?.first().copied(),
    inputs: |parts| {
        let columns =
            |whole: &str, right: &str| parts.shape(whole).or(parts.shape(right))?.get(1).copied();
        columns("kronecker_w1", "kronecker_w1_b")?
            .checked_mul(columns("kronecker_w2", "kronecker_w2_b")?)
    },
    ..named(
        "lokr",
        "LoKr",
        &[
            ("lokr_w1", "kronecker_w1"),
            ("lokr_w1_a", "kronecker_w1_a"),
            ("lokr_w1_b", "kronecker_w1_b"),
            ("lokr_w2", "kronecker_w2"),
            ("lokr_w2_a", "kronecker_w2_a"),
            ("lokr_w2_b", "kronecker_w2_b"),
            ("lokr_t2", "kronecker_t2"),
        ],
        |parts| {
            (parts.has("kronecker_w1")
                || parts.has("kronecker_w1_a") && parts.has("kronecker_w1_b"))
                && (parts.has("kronecker_w2")
                    || parts.has("kronecker_w2_a") && parts.has("kronecker_w2_b"))
        },
    )
};

/// Block-wise rotations; Qiu et al., 2023, <https://arxiv.org/abs/2306.07280>.
pub(super) static OFT: Algorithm = named(
    "oft",
    "OFT",
    &[
        ("oft_blocks", "blocks"),
        ("oft_diag", "rotation"),
        ("oft_R.weight", "generator"),
        ("oft_R", "generator"),
        ("oft_R.scaled_oft", "scaled"),
        ("rescale", "rescale"),
    ],
    |parts| parts.has("blocks") || parts.has("rotation") || parts.has("generator"),
);

/// The same in several stages; Liu et al., 2023, <https://arxiv.org/abs/2311.06243>.
pub(super) static BOFT: Algorithm =
    named("boft", "BOFT", &[("boft_R", "stages"), ("boft_s", "stage_scale")], |parts| {
        parts.has("stages") || parts.shape("blocks").is_some_and(|shape| shape.len() == 4)
    });

/// Chavan et al., 2023, <https://arxiv.org/abs/2306.07967>.
pub(super) static GLORA: Algorithm = named(
    "glora",
    "GLoRA",
    &[
        ("a1.weight", "a1"),
        ("a2.weight", "a2"),
        ("b1.weight", "b1"),
        ("b2.weight", "b2"),
        ("bm.weight", "bm"),
    ],
    |parts| parts.has("a1") && parts.has("a2") && parts.has("b1") && parts.has("b2"),
);

/// One factor per input or output; Liu et al., 2022, <https://arxiv.org/abs/2205.05638>.
pub(super) static IA3: Algorithm = named(
    "ia3",
    "(IA)³",
    &[("on_input", "on_input"), ("weight", "weight"), ("ia3_l", "factors")],
    |parts| parts.has("factors") || parts.has("weight") && parts.has("on_input"),
);

/// The whole change, not factored.
pub(super) static FULL: Algorithm =
    named("full", "a full difference", &[("diff", "diff"), ("diff_b", "diff_b")], |parts| {
        parts.has("diff") || parts.has("diff_b")
    });

/// Changes of norms.
pub(super) static NORM: Algorithm = named(
    "norm",
    "a difference of norms",
    &[("w_norm", "w_norm"), ("b_norm", "b_norm")],
    |parts| parts.has("w_norm") || parts.has("b_norm"),
);

/// Another weight in place of the base's.
pub(super) static REPLACEMENT: Algorithm = named(
    "replacement",
    "a replaced weight",
    &[("set_weight", "set_weight"), ("reshape_weight", "reshape_weight")],
    |parts| parts.has("set_weight") || parts.has("reshape_weight"),
);
