//! The commands of `prewasi`, one file each; the shim binaries have some of them too.
//!
//! Every command ends with a [`Status`]. Errors are printed once, here, with their whole chain.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use prewasi_cache::ImageRecord;
use prewasi_engines::Engine;

use crate::image::find;
use crate::{ImageError, Options, OptionsError, Precompiler, PrepareError, Settings, StoreAddress, report, worker};

mod completions;
mod doctor;
mod inspect;
mod ls;
mod man;
mod precompile;
mod progress;
mod prune;
mod run;
mod table;
mod tuning;
mod verify;
mod watch;

pub use precompile::Precompile;
pub use run::Run;

/// The result of a command, which becomes the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Success: 0.
    Done,
    /// The input is at fault, for example an image: 1.
    Input,
    /// Another error, for example a containerd that does not answer: 2.
    Unexpected,
    /// The command line is wrong: 64.
    Usage,
    /// A guest ran, or could not: its own exit code, 134 for a trap, 126 for a program that cannot run.
    Guest(u8),
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        match status {
            Status::Done => Self::SUCCESS,
            Status::Input => Self::from(1),
            Status::Unexpected => Self::from(2),
            Status::Usage => Self::from(64),
            Status::Guest(code) => Self::from(code),
        }
    }
}

/// Compiles the wasm images of a node ahead of time.
#[derive(Debug, Parser)]
#[command(name = "prewasi", version, propagate_version = true)]
struct Prewasi {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Precompile(Precompile),
    Run(Run),
    Ls(ls::Ls),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Prune(prune::Prune),
    Watch(watch::Watch),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Command {
    fn execute(&self, engines: &[&dyn Engine]) -> Status {
        match self {
            Self::Precompile(command) => command.execute(engines),
            Self::Run(command) => command.execute(engines),
            Self::Ls(command) => command.execute(engines),
            Self::Inspect(command) => command.execute(engines),
            Self::Verify(command) => command.execute(engines),
            Self::Prune(command) => command.execute(engines),
            Self::Watch(command) => command.execute(engines),
            Self::Doctor(command) => command.execute(engines),
            Self::Completions(command) => command.execute(),
            Self::Man(command) => command.execute(),
        }
    }
}

/// Which containerd a command works on.
#[derive(Debug, Args)]
struct AddressArgs {
    /// Socket of containerd
    #[arg(
        long,
        short,
        env = "CONTAINERD_ADDRESS",
        default_value = "/run/containerd/containerd.sock",
        value_name = "PATH"
    )]
    address: PathBuf,
}

/// Which store a command works on.
#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(flatten)]
    containerd: AddressArgs,
    /// Namespace of containerd
    #[arg(long, short, env = "CONTAINERD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// A store other than containerd: oci:PATH, a folder with an OCI image layout
    #[arg(long, value_name = "STORE", value_parser = layout)]
    store: Option<PathBuf>,
}

impl StoreArgs {
    fn settings(&self) -> Result<Settings, OptionsError> {
        settings(match &self.store {
            Some(path) => StoreAddress::Layout(path.clone()),
            None => {
                StoreAddress::Containerd { address: self.containerd.address.clone(), namespace: self.namespace.clone() }
            }
        })
    }
}

/// Returns the settings for a store, with the limits of the node's file.
fn settings(store: StoreAddress) -> Result<Settings, OptionsError> {
    let mut settings = Settings::for_store(store);
    Options::of_node()?.apply(&mut settings);
    Ok(settings)
}

fn layout(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("oci:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err("expected oci:PATH".to_owned()),
    }
}

/// Runs `prewasi`, or the compile worker if this process was started as one.
pub fn main(engines: &[&dyn Engine], args: &[OsString]) -> ExitCode {
    if args.get(1).is_some_and(|arg| arg == worker::SUBCOMMAND) {
        return worker::main(engines, args);
    }
    match parse(args) {
        Ok(Prewasi { command }) => {
            // A command prints its own result; a service has only its log.
            log(if matches!(command, Command::Watch(_)) { "info" } else { "warn" });
            command.execute(engines).into()
        }
        Err(error) => usage(&error).into(),
    }
}

/// Parses a command line. With `--store`, the options of containerd are mistakes, but not their variables in the environment, which clap
/// does not tell apart.
fn parse(args: &[OsString]) -> Result<Prewasi, clap::Error> {
    let mut program = Prewasi::command();
    let matches = program.try_get_matches_from_mut(args)?;
    let Some((_, verb)) = matches.subcommand() else { return Prewasi::from_arg_matches(&matches) };
    let is_typed =
        |name: &str| verb.try_contains_id(name).is_ok() && verb.value_source(name) == Some(ValueSource::CommandLine);
    if is_typed("store")
        && let Some(name) = ["address", "namespace"].into_iter().find(|name| is_typed(name))
    {
        let reason = format!("the argument '--store <STORE>' cannot be used with '--{name}'");
        return Err(program.error(ErrorKind::ArgumentConflict, reason));
    }
    Prewasi::from_arg_matches(&matches)
}

/// Returns whether [`main`] knows this verb. `prewasi` has these verbs; each shim has them for its own engine.
pub fn knows(verb: &str) -> bool {
    Prewasi::command().find_subcommand(verb).is_some()
}

/// Sends the library's log to standard error: from `level` on, or as `PREWASI_LOG` says.
fn log(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PREWASI_LOG")
        // Messages of other libraries appear only on request; a guest of `run` shares the standard error.
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("prewasi={level}")));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    // No colours: another crate of a build may have enabled them. A second call in one process, as in tests, has no effect.
    let _ = subscriber.with_ansi(false).try_init();
}

fn usage(error: &clap::Error) -> Status {
    // Standard output may be closed; then there is no way to report it.
    let _ = error.print();
    if error.use_stderr() { Status::Usage } else { Status::Done }
}

/// Returns advice for a common error.
fn hint(error: &PrepareError) -> Option<&'static str> {
    match error {
        PrepareError::Store(prewasi_cache::StoreError::Connect { .. }) => {
            Some("start containerd, or name its socket with --address or CONTAINERD_ADDRESS")
        }
        PrepareError::Image(crate::ImageError::NotFound { .. }) => {
            Some("`ctr images ls` shows what there is; --namespace (or CONTAINERD_NAMESPACE) chooses where to look")
        }
        PrepareError::Worker { .. } => Some("the image was not changed; no other image is affected"),
        _ => None,
    }
}

/// Runs a command to its end, and prints its error, if any.
fn conclude(command: impl Future<Output = Result<Status, PrepareError>>) -> Status {
    match block_on(command) {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            report(&error, hint(&error));
            if error.is_input() { Status::Input } else { Status::Unexpected }
        }
        Err(error) => {
            report(&error, None);
            Status::Unexpected
        }
    }
}

/// Finds the image that a command names.
async fn find_image(precompiler: &Precompiler, wanted: &str) -> Result<ImageRecord, PrepareError> {
    let records = precompiler.store().images().await?;
    Ok(find(&records, wanted).ok_or_else(|| ImageError::NotFound { image: wanted.to_owned() })?)
}

/// Runs a future on a new runtime in this thread.
fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}
