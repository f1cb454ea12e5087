//! The wasmtime engine, from wasm to exit code.
//!
//! A guest runs on the stdio of its process, and a fork makes its process. Both need a separate process for each guest.
//! So this binary starts itself with `run-guest`, and is then a small copy of a shim.

// A test that fails panics, and a guest process talks through its stdout.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "shared/compiled.rs"]
mod compiled;
#[path = "wasmtime/compiling.rs"]
mod compiling;
#[path = "wasmtime/components.rs"]
mod components;
#[path = "wasmtime/features.rs"]
mod features;
#[path = "wasmtime/limits.rs"]
mod limits;
#[path = "wasmtime/loading.rs"]
mod loading;
#[cfg(feature = "cross")]
#[path = "wasmtime/machines.rs"]
mod machines;
#[path = "shared/mod.rs"]
mod shared;
#[path = "wasmtime/tuning.rs"]
mod tuning;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use prewasi_engines::Wasmtime;
use shared::{common, guest};

/// Makes the engine under test.
fn engine() -> Wasmtime {
    Wasmtime::new()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("run-guest") {
        return guest::main(args);
    }
    let mut trials: Vec<Trial> = shared::trials();
    trials.extend(compiled::trials());
    trials.extend(compiling::trials());
    trials.extend(components::trials());
    trials.extend(features::trials());
    trials.extend(limits::trials());
    trials.extend(loading::trials());
    #[cfg(feature = "cross")]
    trials.extend(machines::trials());
    trials.extend(tuning::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
