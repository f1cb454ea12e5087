//! The shim for `io.containerd.wasmtime.v1`.

fn main() -> std::process::ExitCode {
    prewasi_shim::main(|| Box::new(prewasi_engines::Wasmtime::new()))
}
