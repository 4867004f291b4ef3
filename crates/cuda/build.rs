//! Compiles the kernels: for the card with nvcc, for the processor with the system's C++ compiler.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=emulator");
    if env::var_os("CARGO_FEATURE_EMULATED").is_some() {
        emulated()?;
    }
    Ok(())
}

/// The kernels for the processor, in an archive of which every part is linked: a kernel is known by its
/// name only, which a part tells the emulator when the program starts.
fn emulated() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .define("EMULATED", None)
        // Loops are unrolled on the card only.
        .flag_if_supported("-Wno-unknown-pragmas")
        // The kernels read memory as vectors of numbers.
        .flag_if_supported("-fno-strict-aliasing")
        // Which would take the switch from fiber to fiber for a broken stack.
        .flag_if_supported("-U_FORTIFY_SOURCE")
        .include(root.join("emulator"))
        .file(root.join("emulator/emulator.cpp"))
        .link_lib_modifier("+whole-archive");
    for source in sources(&root.join("kernels"))?.iter().chain(&sources(&root.join("emulator"))?) {
        // A C++ compiler does not know what a file of this kind is.
        let wrapper = out.join(source.with_extension("cpp").file_name().unwrap_or_default());
        fs::write(&wrapper, format!("#include \"{}\"\n", source.display()))?;
        build.file(wrapper);
    }
    build.compile("impasto_emulated");
    Ok(())
}

/// The kernels' sources in a folder, in a fixed order.
fn sources(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
