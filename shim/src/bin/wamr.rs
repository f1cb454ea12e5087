//! The shim for `io.containerd.wamr.v1`.

fn main() -> std::process::ExitCode {
    prewasi_shim::main(|| Box::new(prewasi_engines::Wamr::new()))
}
