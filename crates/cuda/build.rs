//! Compiles the kernels: for the card with nvcc, for the processor with the system's C++ compiler.

use std::{
    cmp::Reverse,
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, exit},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=emulator");
    if env::var_os("CARGO_FEATURE_EMULATED").is_some() {
        emulated()?;
    }
    if env::var_os("CARGO_FEATURE_NVIDIA").is_some()
        && let Err(trouble) = nvidia()
    {
        eprintln!("{trouble}");
        exit(1);
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

/// Machine code for each generation of cards. Those between them run that of the one before with the same
/// major number (8.9 that of 8.6, from which it hardly differs); others compile the portable code at first
/// use. So do all cards in a development build, which would take two minutes more.
const ARCHITECTURES: &str = "80 86 90 120";

/// The oldest cards, and the portable code that goes with the machine code.
const OLDEST: &str = "80";

/// The name of the variable that replaces [`ARCHITECTURES`], for quicker builds.
const ARCHITECTURES_VARIABLE: &str = "IMPASTO_CUDA_ARCHITECTURES";

/// Compiles each `kernels/*.cu` for all cards into one file that the driver chooses from, and writes a
/// table of them, `nvidia.rs`.
fn nvidia() -> Result<(), String> {
    for name in ["NVCC", "CUDA_HOME", ARCHITECTURES_VARIABLE] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    let mut sources = sources(Path::new("kernels"))
        .map_err(|error| format!("listing `kernels` failed: {error}"))?;
    // The longest first, so that the last one is short.
    sources.sort_by_key(|source| Reverse(fs::metadata(source).map_or(0, |file| file.len())));
    let modules: Vec<PathBuf> = sources
        .iter()
        .map(|source| out.join(source.file_name().unwrap_or_default()).with_extension("fatbin"))
        .collect();
    if !sources.is_empty() {
        let nvcc = find_nvcc(&out)?;
        println!("cargo::rerun-if-changed={}", nvcc.display());
        compile_all(&nvcc, &sources, &modules)?;
    }
    let rows: String = modules
        .iter()
        .map(|module| {
            let name = module.file_stem().unwrap_or_default().to_string_lossy();
            format!(
                "    ({name:?}, &Aligned(*include_bytes!({:?}))),\n",
                module.display().to_string()
            )
        })
        .collect();
    let table = format!("static MODULES: &[(&str, &Aligned<[u8]>)] = &[\n{rows}];\n");
    write(&out.join("nvidia.rs"), &table)
}

/// NVIDIA's compiler: where the environment says, where `make cuda` puts it, or in the path.
fn find_nvcc(out: &Path) -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("NVCC") {
        return Ok(path.into());
    }
    let mut looked = Vec::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(home) = env::var_os("CUDA_HOME") {
        folders.push(PathBuf::from(home));
    }
    // The build's folder may be anywhere; the toolkit is in it, or in one beside it.
    folders.extend(out.ancestors().skip(1).take(6).map(|folder| folder.join("toolkit")));
    folders.extend(out.ancestors().skip(1).take(6).map(|folder| folder.join("cuda/toolkit")));
    if let Some(manifest) = env::var_os("CARGO_MANIFEST_DIR") {
        folders.push(PathBuf::from(manifest).join("../../target/cuda/toolkit"));
    }
    let in_path = env::var_os("PATH").unwrap_or_default();
    let programs = folders.into_iter().map(|folder| folder.join("bin/nvcc"));
    for program in programs.chain(env::split_paths(&in_path).map(|folder| folder.join("nvcc"))) {
        if program.is_file() {
            return Ok(program);
        }
        looked.push(format!("  {}", program.display()));
    }
    Err(format!(
        "NVIDIA's compiler, nvcc, was not found. `make cuda` fetches it and builds with it; \
         `scripts/cuda-toolkit.sh` only fetches it. One that is installed is used when NVCC is its path or \
         CUDA_HOME its folder. Looked for:\n{}",
        looked.join("\n")
    ))
}

/// Compiles as many at once as cargo allows.
fn compile_all(nvcc: &Path, sources: &[PathBuf], modules: &[PathBuf]) -> Result<(), String> {
    let workers = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(2);
    let next = AtomicUsize::new(0);
    let troubles = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..sources.len().min(workers) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((source, module)) = sources.get(index).zip(modules.get(index)) else {
                        break;
                    };
                    // With fewer files than workers, one file is compiled for several cards at once.
                    let threads = workers.div_ceil(sources.len());
                    if let Err(trouble) = compile(nvcc, source, module, threads)
                        && let Ok(mut troubles) = troubles.lock()
                    {
                        troubles.push(trouble);
                    }
                }
            });
        }
    });
    let troubles = troubles.into_inner().unwrap_or_default();
    if troubles.is_empty() { Ok(()) } else { Err(troubles.join("\n")) }
}

/// For which cards there is machine code if nobody says.
fn machine_code() -> &'static str {
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if is_release { ARCHITECTURES } else { "" }
}

/// Compiles one file for all cards.
fn compile(nvcc: &Path, source: &Path, module: &Path, threads: usize) -> Result<(), String> {
    let architectures =
        env::var(ARCHITECTURES_VARIABLE).unwrap_or_else(|_| machine_code().to_owned());
    let mut command = Command::new(nvcc);
    // No fast arithmetic: pictures are to be the same on every card, as far as they can.
    command.args(["-fatbin", "-std=c++17", "-O3", "--threads"]).arg(threads.to_string());
    for architecture in architectures.split([' ', ',']).filter(|name| !name.is_empty()) {
        command.arg(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
    }
    command.arg(format!("-gencode=arch=compute_{OLDEST},code=compute_{OLDEST}"));
    command.arg("-o").arg(module).arg(source);
    let output = command
        .output()
        .map_err(|error| format!("starting `{}` failed: {error}", nvcc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "compiling `{}` with `{}` failed:\n{}{}",
        source.display(),
        nvcc.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("writing `{}` failed: {error}", path.display()))
}
