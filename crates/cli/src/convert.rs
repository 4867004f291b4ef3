//! `impasto convert`: model files as safetensors, in another precision, between folder and single file, and
//! with adapters written into them.

use engine::checkpoint::convert::Stored;
use studio::{Code, Error, Kind, Result, convert::NewModel, files::Existing};

use crate::{
    args::{AdapterArg, ConvertArgs, StoredArg},
    output, progress,
};

pub(crate) fn convert(args: &ConvertArgs) -> Result<()> {
    let ConvertArgs { input, output: path, precision, lora, library, force } = args;
    let single_file = path.extension().is_some_and(|own| own.eq_ignore_ascii_case("safetensors"));
    if path.exists() && !(*force && single_file) {
        let message = format!("`{}` is there already", path.display());
        let hint = match single_file {
            true => "choose another name, or replace it with `--force`",
            false => "choose another name: folders are not replaced",
        };
        return Err(Error::new(Code::InvalidParams { field: "OUT" }, message).hint(hint));
    }
    progress::catch_ctrl_c();
    let mut stack = Vec::new();
    if !lora.is_empty() {
        let library = library.open()?;
        for adapter in lora.iter().map(AdapterArg::to_params) {
            let found = library.find(Kind::Adapter, &adapter.file)?;
            found.warning.iter().for_each(|warning| output::note(warning));
            stack.push(adapter.to_use(found.path)?);
        }
    }
    let new = NewModel::plan_blend(input, &stack, path, precision.map(Stored::from))?;
    let existing = if *force { Existing::Replace } else { Existing::Keep };
    new.write(existing, &mut |_| !progress::cancelled())?;
    output::line(&path.display().to_string());
    output::note(&format!("{} tensors, {}", new.tensors(), output::megabytes(new.size())));
    Ok(())
}

impl From<StoredArg> for Stored {
    fn from(stored: StoredArg) -> Stored {
        match stored {
            StoredArg::F32 => Stored::F32,
            StoredArg::F16 => Stored::F16,
            StoredArg::Bf16 => Stored::Bf16,
        }
    }
}
