//! `oci-tar-builder`, the program for people who package wasm.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
