//! The functions and classes that a model's pickle may name, and what each stands for here.
//!
//! A pickle names Python functions and has them called: that is how it runs code. Here a name is looked up
//! in this table or refused, and what is found is a description, not a function: [`machine`](super::machine)
//! makes plain data of it.

use crate::checkpoint::header::DType;

/// What a known name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// A dictionary.
    Dict,
    /// A dictionary of weights that keeps them in its attributes.
    ParameterDict,
    /// A tensor: storage, offset, sizes, strides, and more that is of no use here.
    Tensor,
    /// The same, with the type of its elements at the end.
    TypedTensor,
    /// A tensor as it is, with what training needs around it.
    Parameter,
    /// The numbers of tensors, all of one type.
    Storage(DType),
    /// Bytes of tensors of any type.
    UntypedStorage,
    /// The name of a type.
    Type(Option<DType>),
    /// The sizes of a tensor.
    Sizes,
    /// Something else that is harmless as long as nothing is done with it.
    Inert,
}

/// Module, name, meaning.
const TABLE: &[(&[&str], &[&str], Known)] = &[
    (&["collections"], &["OrderedDict"], Known::Dict),
    (&["torch.nn.modules.container", "torch.nn"], &["ParameterDict"], Known::ParameterDict),
    (&["torch._utils"], &["_rebuild_tensor_v2", "_rebuild_tensor"], Known::Tensor),
    (&["torch._utils"], &["_rebuild_tensor_v3"], Known::TypedTensor),
    (&["torch._utils"], &["_rebuild_parameter", "_rebuild_parameter_with_state"], Known::Parameter),
    (&["torch._utils"], &["_rebuild_device_tensor_from_numpy"], Known::Inert),
    (&["torch"], &["DoubleStorage"], Known::Storage(DType::F64)),
    (&["torch"], &["FloatStorage"], Known::Storage(DType::F32)),
    (&["torch"], &["HalfStorage"], Known::Storage(DType::F16)),
    (&["torch"], &["BFloat16Storage"], Known::Storage(DType::Bf16)),
    (&["torch"], &["LongStorage"], Known::Storage(DType::I64)),
    (&["torch"], &["IntStorage"], Known::Storage(DType::I32)),
    (&["torch"], &["ShortStorage"], Known::Storage(DType::I16)),
    (&["torch"], &["CharStorage"], Known::Storage(DType::I8)),
    (&["torch"], &["ByteStorage"], Known::Storage(DType::U8)),
    (&["torch"], &["BoolStorage"], Known::Storage(DType::Bool)),
    (&["torch.storage"], &["UntypedStorage"], Known::UntypedStorage),
    (&["torch"], &["float64", "double"], Known::Type(Some(DType::F64))),
    (&["torch"], &["float32", "float"], Known::Type(Some(DType::F32))),
    (&["torch"], &["float16", "half"], Known::Type(Some(DType::F16))),
    (&["torch"], &["bfloat16"], Known::Type(Some(DType::Bf16))),
    (&["torch"], &["float8_e4m3fn"], Known::Type(Some(DType::F8E4M3))),
    (&["torch"], &["float8_e5m2"], Known::Type(Some(DType::F8E5M2))),
    (&["torch"], &["int64", "long"], Known::Type(Some(DType::I64))),
    (&["torch"], &["int32", "int"], Known::Type(Some(DType::I32))),
    (&["torch"], &["int16", "short"], Known::Type(Some(DType::I16))),
    (&["torch"], &["int8"], Known::Type(Some(DType::I8))),
    (&["torch"], &["uint8"], Known::Type(Some(DType::U8))),
    (&["torch"], &["bool"], Known::Type(Some(DType::Bool))),
    (&["torch"], &["complex64", "complex128"], Known::Type(None)),
    (&["torch"], &["Size"], Known::Sizes),
    (&["torch"], &["device"], Known::Inert),
    (
        &["numpy.core.multiarray", "numpy._core.multiarray"],
        &["scalar", "_reconstruct"],
        Known::Inert,
    ),
    (&["numpy"], &["dtype", "ndarray"], Known::Inert),
    (&["_codecs"], &["encode"], Known::Inert),
    (&["__builtin__", "builtins"], &["set", "frozenset"], Known::Inert),
    (
        &["pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"],
        &["ModelCheckpoint"],
        Known::Inert,
    ),
];

/// What a name stands for, or `None` if models have no use for it.
pub(super) fn look_up(module: &str, name: &str) -> Option<Known> {
    let row = TABLE.iter().find(|row| row.0.contains(&module) && row.1.contains(&name));
    row.map(|row| row.2)
}
