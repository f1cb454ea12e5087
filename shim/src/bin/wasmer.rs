//! The shim for `io.containerd.wasmer.v1`.

fn main() -> std::process::ExitCode {
    prewasi_shim::main(|| Box::new(prewasi_engines::Wasmer::new()))
}
