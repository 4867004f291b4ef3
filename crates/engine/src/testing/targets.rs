//! What is tried with bytes that nobody wrote: the targets of `fuzz/`, and of the test that mutates files.
//!
//! Each may answer with any error. It must not panic, and not take memory that the bytes do not account for.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    adapter::{Adapter, Base, Delta},
    architecture::Modules,
    checkpoint::{self, convert::Conversion, header::TensorFile},
    inspect::inspect,
    text::embedding::Embedding,
};

/// Tensors of more elements are not read: reading takes what they say, and files may be sparse.
const MAX_ELEMENTS: usize = 1 << 20;

/// A name, and what is tried.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("header", header),
    ("pickle", pickle),
    ("config", config),
    ("embedding", embedding),
    ("adapter", adapter),
];

/// Modules that an adapter may be meant for: one of each shape, as the golden adapters have them.
const MODULES: &[(&str, &[usize])] = &[
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", &[16, 16]),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", &[16, 24]),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", &[16, 16]),
    ("unet.down_blocks.0.attentions.0.proj_in", &[16, 12, 1, 1]),
    ("unet.down_blocks.0.resnets.0.conv1", &[16, 8, 3, 3]),
    ("unet.down_blocks.0.resnets.0.norm1", &[8]),
    ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", &[8, 8]),
];

/// A file with tensors: its header, what it is, its data, and the same in another precision.
pub fn header(bytes: &[u8]) {
    with_file(bytes, "safetensors", |path| {
        if let Ok(answer) = inspect(path) {
            let _ = answer.to_string();
        }
        let Ok(file) = TensorFile::open(path) else { return };
        for (name, info) in file.tensors() {
            if info.elements() <= MAX_ELEMENTS {
                let _ = file.read_f32(name);
            }
        }
        if let Ok(conversion) = Conversion::plan(path, None)
            && conversion.size() < 16 << 20
        {
            let _ = conversion.write(&mut std::io::sink());
        }
    });
}

/// The same for the bytes of a PyTorch file, and of a bare pickle of these instructions.
pub fn pickle(bytes: &[u8]) {
    header(bytes);
    header(&[b"\x80\x02", bytes].concat());
}

/// A configuration of a UNet, a VAE or a scheduler.
pub fn config(bytes: &[u8]) {
    with_file(bytes, "json", |path| {
        let _ = inspect(path);
        checkpoint::try_configuration(path);
    });
}

/// An embedding.
pub fn embedding(bytes: &[u8]) {
    with_file(bytes, "pt", |path| {
        let _ = Embedding::open(path);
    });
}

/// An adapter: its outline, how it fits, and its change of every module that it fits.
pub fn adapter(bytes: &[u8]) {
    with_file(bytes, "safetensors", |path| {
        let Ok(adapter) = Adapter::open(path) else { return };
        let modules: Modules =
            MODULES.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
        let fit = adapter.outline().fit(&modules);
        let _ = adapter.outline().refusal(&fit, "model", "SD 1.x");
        for module in fit.modules() {
            let shape = &modules[module];
            let bias = vec![0.5; shape[0]];
            let read = || Ok((0..shape.iter().product()).map(|at: usize| at as f32).collect());
            let base = Base::new(shape, Some(&bias), &read);
            let mut delta = Delta::default();
            if adapter.outline().add_delta(&fit, module, &base, 0.5, &mut delta).is_ok() {
                let _ = delta.weight(shape);
            }
        }
    });
}

/// Calls something with a file of these bytes, which is gone afterwards.
fn with_file(bytes: &[u8], extension: &str, then: impl FnOnce(&Path)) {
    struct Gone(PathBuf);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = fs_err::remove_file(&self.0);
        }
    }
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("impasto-target-{}-{number}.{extension}", std::process::id());
    let file = Gone(std::env::temp_dir().join(name));
    fs_err::write(&file.0, bytes).unwrap_or_else(|error| panic!("{error}"));
    then(&file.0);
}
