//! Tensors as safetensors files, for comparing with other programs.

use std::path::Path;

use engine::Tensor;
use safetensors::{Dtype, tensor::TensorView};
use studio::{
    Code, Error, Result,
    files::{self, Existing},
};

/// Writes named tensors as f32: the whole file or nothing.
///
/// Tensors of one name are put behind each other along their first dimension, so that a batch becomes
/// one tensor.
pub(crate) fn save(path: &Path, tensors: &[(&str, Vec<Tensor>)]) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(Code::Unknown, format!("cannot write `{}`: {error}", path.display()))
    };
    let mut data = Vec::new();
    for (name, parts) in tensors {
        let mut shape = parts[0].dims().to_vec();
        shape[0] = parts.iter().map(|part| part.dims()[0]).sum();
        let mut bytes = Vec::new();
        for part in parts {
            let values = part.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
            let values = values.map_err(|error| failed(&error))?;
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        data.push((*name, shape, bytes));
    }
    let views = data
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let bytes = views
        .and_then(|views| safetensors::serialize(views, None))
        .map_err(|error| failed(&error))?;
    files::write(path, Existing::Replace, |writer| writer.write_all(&bytes))?;
    Ok(())
}
