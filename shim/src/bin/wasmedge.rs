//! The shim for `io.containerd.wasmedge.v1`.

fn main() -> std::process::ExitCode {
    prewasi_shim::main(|| Box::new(prewasi_engines::Wasmedge::new()))
}
