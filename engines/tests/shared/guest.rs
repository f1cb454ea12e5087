//! The process that becomes a container, reduced to the steps that an engine sees: load, fork, run on a fresh thread.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use prewasi_engines::{Engine as _, Guest, NativeCode, Network, Preopen, Program, Tuning, Wasm};

/// Exit code for an artifact that cannot be loaded.
pub(crate) const LOAD_FAILED: i32 = 99;

/// Runs `ARTIFACT [--cwd DIR] [--dir|--read-only HOST GUEST] [--memory BYTES] [--no-network] [--env K V] [--fuel N] [--tuning TEXT] [--function NAME] [--forked] [--twice] [--report] -- ARGS`.
pub(crate) fn main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let artifact = PathBuf::from(args.next().unwrap());
    let (mut forked, mut twice, mut report) = (false, false, false);
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
            "--report" => report = true,
            _ => break,
        }
    }
    guest.args = args.collect();

    let start = Instant::now();
    let file = File::open(&artifact).unwrap();
    let size = file.metadata().unwrap().len();
    let engine = crate::engine().tuned(&tuning).unwrap();
    let loaded = if engine.compiles() {
        // SAFETY: the tests compile these artifacts themselves, or damage nothing but their headers.
        engine.load(unsafe { NativeCode::trust(file, size) })
    } else {
        engine.load_wasm(&Wasm::new(fs::read(&artifact).unwrap()).unwrap())
    };
    let program = match loaded {
        Ok(program) => program,
        Err(error) => {
            let reason = std::error::Error::source(&error).map(|reason| format!(": {reason}"));
            eprintln!("{error}{}", reason.unwrap_or_default());
            return ExitCode::from(u8::try_from(LOAD_FAILED).unwrap());
        }
    };
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
    let code = run();
    if report {
        let threads = fs::read_dir("/proc/self/task").unwrap().count();
        println!("start_to_end_us={}", start.elapsed().as_micros());
        println!("threads={threads}");
        print_mappings(&artifact);
    }
    ExitCode::from(code)
}

fn run(program: &dyn Program, guest: &Guest) -> u8 {
    match program.check(guest).and_then(|()| program.run(guest)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}

/// Sets all signals to their defaults and blocks them, as a container's init may do.
fn forget_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGSEGV, Signal::SIGILL, Signal::SIGFPE, Signal::SIGBUS] {
        // SAFETY: the default action runs no code of this program.
        unsafe { sigaction(signal, &default) }.unwrap();
    }
    SigSet::all().thread_block().unwrap();
}

/// Prints one line for each mapping of the artifact: permissions and the sizes that tell shared from copied pages.
fn print_mappings(artifact: &std::path::Path) {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut ours = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap(), words.next().unwrap());
        if !first.ends_with(':') {
            ours = line.ends_with(artifact.to_str().unwrap());
            if ours {
                print!("\nmapping permissions={second}");
            }
        } else if ours && ["Size:", "Rss:", "Pss:", "Anonymous:"].contains(&first) {
            print!(" {}={second}", first.trim_end_matches(':'));
        }
    }
    println!();
}
