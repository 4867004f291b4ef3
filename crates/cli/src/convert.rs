//! `impasto convert`: model files as safetensors, in another precision, and between folder and single file.

use engine::checkpoint::convert::Stored;
use studio::{Code, Error, Result, convert::NewModel, files::Existing};

use crate::{
    args::{ConvertArgs, StoredArg},
    output, progress,
};

pub(crate) fn convert(args: &ConvertArgs) -> Result<()> {
    let ConvertArgs { input, output: path, precision, force } = args;
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
    let new = NewModel::plan(input, path, precision.map(Stored::from))?;
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
