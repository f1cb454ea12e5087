//! The process that becomes a container, reduced to what an engine sees of it: load, fork, run on a fresh thread.

use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use prewasi_engines::{Engine as _, Guest, Network, Outcome, Preopen, Program, Tuning, Wamr, Wasm};

/// Exit code for a module that cannot be loaded.
pub(crate) const LOAD_FAILED: i32 = 99;

/// Runs `MODULE [--cwd DIR] [--dir|--read-only HOST GUEST] [--memory BYTES] [--no-network] [--env K V] [--fuel N] [--tuning TEXT] [--function NAME] [--forked] [--twice] -- ARGS`.
pub(crate) fn main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let module = PathBuf::from(args.next().unwrap());
    let (mut forked, mut twice) = (false, false);
    let mut tuning = Tuning::default();
    let mut guest = Guest { cwd: PathBuf::from("/"), ..Guest::default() };
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap();
        match arg.as_str() {
            "--cwd" => guest.cwd = value().into(),
            "--dir" | "--read-only" => {
                let (host, name, read_only) = (value().into(), value(), arg == "--read-only");
                guest.preopens.push(Preopen { host, guest: name, read_only });
            }
            "--memory" => guest.memory_limit = Some(value().parse().unwrap()),
            "--no-network" => guest.network = Network::None,
            "--env" => guest.env.push((value(), value())),
            "--fuel" => guest.fuel = Some(value().parse().unwrap()),
            "--tuning" => tuning = value().parse().unwrap(),
            "--function" => guest.function = Some(value()),
            "--forked" => forked = true,
            "--twice" => twice = true,
            _ => break,
        }
    }
    guest.args = args.collect();

    let wasm = Wasm::new(std::fs::read(module).unwrap()).unwrap();
    let program = match Wamr::new().tuned(&tuning).unwrap().load_wasm(&wasm) {
        Ok(program) => program,
        Err(error) => {
            eprintln!("{error}: {}", std::error::Error::source(&error).unwrap());
            return ExitCode::from(u8::try_from(LOAD_FAILED).unwrap());
        }
    };
    drop(wasm);
    if forked {
        // SAFETY: this process has one thread.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, code) => return ExitCode::from(u8::try_from(code).unwrap()),
                status => panic!("guest ended with {status:?}"),
            },
            ForkResult::Child => forget_signals(),
        }
    }
    let run = || std::thread::scope(|scope| scope.spawn(|| run(&*program, &guest)).join().unwrap());
    if twice {
        run();
    }
    ExitCode::from(run())
}

fn run(program: &dyn Program, guest: &Guest) -> u8 {
    match program.check(guest).and_then(|()| program.run(guest)) {
        Ok(Outcome::Exit(code)) => code,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}

/// Does what a container's init may do: all signals back to their defaults, and blocked.
fn forget_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGSEGV, Signal::SIGILL, Signal::SIGFPE, Signal::SIGBUS] {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(signal, &default) }.unwrap();
    }
    SigSet::all().thread_block().unwrap();
}
