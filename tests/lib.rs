//! What the checks across crates share. The program itself is tested in `crates/cli/tests`.

use std::path::Path;

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this folder is in it")
}
