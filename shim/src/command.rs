//! The commands of a shim binary.

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use prewasi_precompiler::{chain, cli, worker};

use crate::api::args::Flags;
use crate::api::{delete, info, start};
use crate::engine::EngineConstructor;
use crate::pod::{daemon, hook, spec};
use crate::telemetry::log;

/// Exit code for a command line that is wrong.
const USAGE: u8 = 64;
/// Exit code of a hook that cannot be run: a shell returns the same for a missing command.
const NO_HOOK: u8 = 127;

/// Runs a shim binary: executes its command line and turns the result into an exit code.
pub fn main(engine: EngineConstructor) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|command| command.to_str()) {
        Some(worker::SUBCOMMAND) => return worker::main(&[&*engine()], &args),
        Some(spec::adapt::HOOK) => {
            return match hook::run(args.get(2).and_then(|call| call.to_str())) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, NO_HOOK),
            };
        }
        // containerd's calls begin with flags: they must not pay for building the table of verbs.
        Some(verb) if !verb.starts_with('-') && cli::knows(verb) => return cli::main(&[&*engine()], &args),
        _ => {}
    }
    let flags = match Flags::parse(args.into_iter().skip(1)) {
        Ok(flags) => flags,
        Err(error) => return fail(&error, USAGE),
    };
    let result: Result<(), Box<dyn Error>> = match flags.action.as_str() {
        _ if flags.version => info::print_version(&*engine()).map_err(Into::into),
        _ if flags.info => info::print_info(&*engine()).map_err(Into::into),
        "start" => start::run(&flags).map_err(Into::into),
        "delete" => {
            log::to_stderr(flags.level());
            delete::run(&flags).map_err(Into::into)
        }
        "daemon" => daemon::run(&flags, engine).map_err(Into::into),
        "version" => info::print_version(&*engine()).map_err(Into::into),
        "" => return usage("no command was given"),
        unknown => return usage(&format!("no command is called {unknown:?}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error, 1),
    }
}

fn fail(error: &dyn Error, code: u8) -> ExitCode {
    // containerd repeats the output of `start` and `delete` in its own message, which has one line.
    eprintln!("error: {}", chain(error));
    ExitCode::from(code)
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("error: {problem}");
    eprintln!(
        "hint: containerd calls this program with `start` and `delete`; by hand, use `version`, `precompile` and the other verbs of `prewasi`"
    );
    ExitCode::from(USAGE)
}
