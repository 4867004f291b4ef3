//! Compiles the kernels: for the card with nvcc, for the processor with the system's C++ compiler.

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=emulator");
}
