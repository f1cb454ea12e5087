//! `run`: runs a wasm program without a container, in the same way as in one, for fast development.
//!
//! The engine, the sandboxed compiler and the WASI set-up are those of the shim. A container's additions are missing: the guest has only
//! the named folders and no root filesystem, and it runs in this process.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;
use prewasi_cache::Digest;
use prewasi_engines::{CANNOT_RUN, Engine, Guest, Program, RunError, TRAPPED, guest_thread};
use prewasi_oci::PreambleError;

use super::progress::Progress;
use super::tuning::{CpuArgs, is_another_machine};
use super::{Status, StoreArgs, block_on, hint};
use crate::archive::ArchiveError;
use crate::{PrepareError, report};

mod guest;
mod subject;

use self::guest::GuestArgs;
use self::subject::Subject;

/// Run a wasm program without a container: from an image, an OCI archive or layout, or a file
#[derive(Debug, Args)]
pub struct Run {
    /// An image of containerd, an OCI archive (.tar), a folder with an OCI layout (or oci:PATH), or FILE.wasm[#FUNCTION].
    /// All further arguments are the program's, and replace the command of the image
    #[arg(value_names = ["IMAGE|TAR|LAYOUT|FILE", "ARGS"], required = true, num_args = 1.., trailing_var_arg = true)]
    command: Vec<String>,
    /// Name of the image in an archive or layout that has several
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// Run native code that came with the layout. Use it only for layouts from a source that you trust as yourself
    #[arg(long)]
    trust_layout: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// The reason why a program was not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum CannotRun {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("cannot find {path}")]
    NoFile { path: String },
    #[error("cannot run {}: it is no OCI image layout, because it has no index.json", path.display())]
    NoLayout { path: PathBuf },
    #[error("cannot find an image in {subject}")]
    NoImage { subject: String },
    #[error("cannot choose an image of {subject}: it has {names}")]
    SeveralImages { subject: String, names: String },
    #[error("cannot run image {image}: it has no wasm layer ({platform})")]
    OrdinaryImage { image: String, platform: String },
    #[error("cannot run image {image}: its layer {layer} needs a container, in which it is mounted at {}", path.display())]
    Data { image: String, layer: Digest, path: PathBuf },
    #[error("cannot run {path}")]
    NoProgram {
        path: String,
        #[source]
        source: PreambleError,
    },
    #[error("cannot run {subject}: it is not wasm")]
    NotWasm { subject: String },
    #[error("cannot run {subject}")]
    Guest {
        subject: String,
        #[source]
        source: RunError,
    },
    #[error("cannot {action}")]
    Io {
        action: String,
        #[source]
        source: std::io::Error,
    },
}

/// A loaded program with its parameters.
pub(super) struct Prepared {
    /// Its name in messages.
    subject: String,
    program: Box<dyn Program>,
    guest: Guest,
}

impl Run {
    /// Runs the program to its end, with the first of the engines.
    pub fn execute(&self, engines: &[&dyn Engine]) -> Status {
        if let Err(error) = is_another_machine(engines, &self.cpu.machine()) {
            report(&error, error.hint().as_deref());
            return Status::Usage;
        }
        let Some(engine) = engines.first().copied() else {
            let source = RunError::Setup { reason: "this program was built without an engine".to_owned() };
            return failed(&CannotRun::Guest { subject: self.subject().to_owned(), source });
        };
        match self.prepare(engine).and_then(start) {
            Ok(code) => Status::Guest(code),
            Err(error) => failed(&error),
        }
    }

    /// Returns the image or file to run. It is never empty: the command line requires it.
    fn subject(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    fn args(&self) -> &[String] {
        self.command.get(1..).unwrap_or_default()
    }

    /// Loads the program. The runtime for that has ended on return, and an unpacked archive is removed.
    fn prepare(&self, engine: &dyn Engine) -> Result<Prepared, CannotRun> {
        let progress = Progress::new(1);
        progress.image(self.subject());
        let subject = Subject::parse(self.subject(), self.store.store.as_deref())?;
        let prepared = block_on(subject.prepare(self, engine));
        prepared.map_err(|source| CannotRun::Io { action: "set up a runtime".to_owned(), source })?
    }
}

/// Runs the program on a separate thread, as in a container.
fn start(prepared: Prepared) -> Result<u8, CannotRun> {
    let Prepared { subject, program, guest } = prepared;
    program.check(&guest).map_err(|source| CannotRun::Guest { subject: subject.clone(), source })?;
    let running = guest_thread("guest").spawn(move || program.run(&guest));
    let running = running.map_err(|source| CannotRun::Io { action: "start a thread".to_owned(), source })?;
    match running.join() {
        Ok(Ok(code)) => Ok(code),
        Ok(Err(source)) => Err(CannotRun::Guest { subject, source }),
        // The panic has printed its message already.
        Err(_) => Ok(TRAPPED),
    }
}

fn failed(error: &CannotRun) -> Status {
    match error {
        // A trap is reported in the same words as in a container.
        CannotRun::Guest { source, .. } if matches!(source, RunError::Trap { .. }) => report(source, None),
        CannotRun::Prepare(source) => report(error as &dyn Error, hint(source)),
        _ => report(error as &dyn Error, error.hint()),
    }
    Status::Guest(match error {
        CannotRun::Guest { source, .. } => source.exit_code(),
        _ => CANNOT_RUN,
    })
}

impl CannotRun {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::SeveralImages { .. } => Some("--image NAME chooses one"),
            Self::NoImage { .. } => {
                Some("an image is found by its name; `oci-tar-builder` and `ctr images export` note it")
            }
            Self::OrdinaryImage { .. } => {
                Some("a program in a file system needs a container; `prewasi run FILE.wasm` runs the file itself")
            }
            Self::Data { .. } => {
                Some("run it in a container, or give a folder with the file under that name: --dir HOST:GUEST")
            }
            Self::Archive(error) => error.hint(),
            _ => None,
        }
    }
}
