//! The WasmEdge engine, from wasm to exit code, in the way of the tests of wasmtime.

// A test that fails panics, and a guest process talks through its stdout.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "shared/compiled.rs"]
mod compiled;
#[path = "core/compiling.rs"]
mod compiling;
#[path = "wasmedge/features.rs"]
mod features;
#[path = "wasi/folders.rs"]
mod folders;
#[path = "wasmedge/limits.rs"]
mod limits;
#[path = "core/loading.rs"]
mod loading;
#[path = "shared/mod.rs"]
mod shared;
#[path = "wasmedge/tuning.rs"]
mod tuning;
#[path = "core/tuning.rs"]
mod tuning_of_modules;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use prewasi_engines::Wasmedge;
use shared::{common, guest};

/// Tests that do not hold for WasmEdge: it knows no function's name when a guest traps, and has no exceptions, which
/// `features` shows.
const OTHERWISE: [&str; 2] = ["compiled::trap_has_a_backtrace", "compiled::uncaught_exception_is_a_trap"];

/// Makes the engine under test.
fn engine() -> Wasmedge {
    Wasmedge::new()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("run-guest") {
        return guest::main(args);
    }
    let mut trials: Vec<Trial> = shared::trials();
    trials.extend(compiled::trials());
    trials.retain(|trial| !OTHERWISE.contains(&trial.name()));
    trials.extend(compiling::trials());
    trials.extend(features::trials());
    trials.extend(folders::trials());
    trials.extend(limits::trials());
    trials.extend(loading::trials());
    trials.extend(tuning::trials());
    trials.extend(tuning_of_modules::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
