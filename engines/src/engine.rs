//! The plug-in point: what every engine must be able to do, and when each of it is called.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::{Fingerprint, Tuning, TuningError, Wasm, WasmKind};

/// An engine, cheap to make: `compile` runs in a sandboxed child process, `load` and `run` in the process that becomes
/// the container. Making an engine starts no thread and installs no signal handler before `load`.
pub trait Engine: Send + Sync {
    /// Returns what the engine is, and how it was asked to work.
    fn identity(&self) -> &Identity;

    /// Returns the name used in labels, binaries and options, e.g. `wasmtime`.
    fn name(&self) -> &'static str {
        self.identity().name
    }

    /// Returns the version of the engine itself, e.g. `48.0.8`.
    fn version(&self) -> &'static str {
        self.identity().version
    }

    /// Returns everything that shapes the native code, in a written-down order.
    fn fingerprint(&self) -> &Fingerprint {
        &self.identity().fingerprint
    }

    /// Returns how the engine was asked to compile and load.
    fn tuning(&self) -> &Tuning {
        &self.identity().tuning
    }

    /// Says whether the engine can compile ahead of time; one that cannot runs the wasm itself.
    fn compiles(&self) -> bool {
        true
    }

    /// Says whether `compile` writes to files, for which it makes a folder where temporary files are; else it uses memory alone.
    fn writes_files(&self) -> bool {
        false
    }

    /// Makes an engine that compiles and loads as `tuning` says. Its fingerprint, and so its label, is that of such code.
    ///
    /// # Errors
    /// [`TuningError`] names what cannot be chosen, and what can.
    fn tuned(&self, tuning: &Tuning) -> Result<Box<dyn Engine>, TuningError>;

    /// Returns the first of these interfaces that the engine does not give to a component, and none if it gives them all.
    /// They are named as a component imports them: `wasi:http/outgoing-handler@0.2.0`. Compatible versions and type-only interfaces
    /// count as provided.
    /// Called before an image is compiled that names its imports. An engine of core modules refuses components as such.
    fn first_unprovided<'a>(&self, interfaces: &'a [String]) -> Option<&'a str> {
        let _ = interfaces;
        None
    }

    /// Compiles, and refuses what could not run anyway (an import that the engine does not provide).
    ///
    /// # Errors
    /// [`CompileError`] names what in the wasm is at fault.
    fn compile(&self, wasm: &Wasm) -> Result<Vec<u8>, CompileError>;

    /// Maps native code and makes it ready to run. Called before the process enters its container.
    fn load(&self, code: NativeCode) -> Result<Box<dyn Program>, LoadError>;

    /// Makes wasm ready to run without native code: for engines that interpret. Those that compile answer
    /// [`LoadError::NotCompiled`], because an image's wasm is never compiled outside the sandbox.
    fn load_wasm(&self, wasm: &Wasm) -> Result<Box<dyn Program>, LoadError> {
        let _ = wasm;
        Err(LoadError::NotCompiled { engine: self.name() })
    }
}

/// What an engine is, and how it was asked to work: all that labels and messages say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name used in labels, binaries and options, e.g. `wasmtime`.
    pub name: &'static str,
    /// The version of the engine itself, e.g. `48.0.8`.
    pub version: &'static str,
    /// Everything that shapes the native code, in a written-down order.
    pub fingerprint: Fingerprint,
    /// How the engine was asked to compile and load.
    pub tuning: Tuning,
}

/// A loaded program, shared with the process that is forked to become the container.
pub trait Program: Send + Sync {
    /// Checks, before the container is started, that the guest's entry function exists and can be called.
    ///
    /// # Errors
    /// [`RunError::NoSuchFunction`] and its like.
    fn check(&self, guest: &Guest) -> Result<(), RunError>;

    /// Says whether the program serves until it is told to stop, by [`Guest::stop`].
    fn serves(&self) -> bool {
        false
    }

    /// Runs to the end on the calling thread, on the process's own stdio, and returns the guest's exit code. Called inside the container,
    /// on a thread made for it; whatever runtime the engine needs, it makes here. A program that serves may fork processes,
    /// which end with this one: the process's other threads must do nothing but wait.
    fn run(&self, guest: &Guest) -> Result<u8, RunError>;
}

/// A file with native code that may be loaded, i.e. executed.
#[derive(Debug)]
pub struct NativeCode {
    file: File,
    size: u64,
}

impl NativeCode {
    /// Vouches for a file with native code.
    ///
    /// # Safety
    /// The bytes must be what an engine of this very fingerprint compiled on this node (or what a trusted signer
    /// vouches for), and nobody may change them while the value or a program loaded from it lives: the engine maps
    /// and executes them.
    pub unsafe fn trust(file: File, size: u64) -> Self {
        Self { file, size }
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// What a guest program is started with. Its stdio is the process's own.
#[derive(Debug, Clone, Default)]
pub struct Guest {
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment, in the order given.
    pub env: Vec<(String, String)>,
    /// Working directory as the guest names it; relative paths start here.
    pub cwd: PathBuf,
    /// Folders that the guest may use.
    pub preopens: Vec<Preopen>,
    /// Export to call instead of the usual entry point (`_start`, `wasi:cli/run`).
    pub function: Option<String>,
    /// What the guest has of the process's network.
    pub network: Network,
    /// Most bytes of linear memories, tables and collected objects, all together; without it the process's own limit counts.
    pub memory_limit: Option<u64>,
    /// How much the guest may execute, in the engine's own units; for code that was compiled to count it.
    pub fuel: Option<u64>,
    /// How a program that serves HTTP does so.
    pub http: Http,
    /// A descriptor that can be read when a program that serves is to stop.
    pub stop: Option<Arc<OwnedFd>>,
}

/// How a program that serves HTTP does so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many requests an instance answers, one after the other, before a new one takes its place.
    pub instance_requests: u32,
    /// How many requests are answered at the same time. As many again wait; more are refused.
    pub concurrency: u32,
    /// How long the guest may take until it begins to answer, and how long it may go on after its answer.
    pub timeout: Duration,
    /// Longest body of a request, bytes.
    pub body_limit: u64,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([0, 0, 0, 0], 8080)),
            instance_requests: 1,
            concurrency: 128,
            timeout: Duration::from_secs(60),
            body_limit: 64 << 20,
        }
    }
}

/// A folder that the guest may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preopen {
    /// Path in the process's own view.
    pub host: PathBuf,
    /// Path in the guest's view.
    pub guest: String,
    /// Nothing in it can be changed.
    pub read_only: bool,
}

/// What a guest has of the process's network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// All of it: sockets and name lookup.
    #[default]
    Inherit,
    /// Nothing: each socket call is refused, and no name is known.
    None,
}

/// Says why wasm cannot be compiled. The compile worker, a process of its own, reports it.
#[derive(Debug, serde::Deserialize, serde::Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum CompileError {
    /// The bytes are not valid wasm: truncated, malformed, or using what is not enabled.
    #[error("cannot compile invalid wasm: {reason}")]
    Invalid {
        /// What the validator says, with the offset.
        reason: String,
    },
    /// The wasm wants an import that this engine does not provide.
    #[error("cannot provide import {name:?} of {module:?}")]
    UnknownImport {
        /// Module or interface, e.g. `env`.
        module: String,
        /// Function, global, memory or table.
        name: String,
    },
    /// The wasm is valid, but this engine does not run it.
    #[error("cannot compile: {reason}")]
    Unsupported {
        /// Which feature, and what to do.
        reason: String,
    },
}

/// Says why native code cannot be made ready to run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine's own header check refuses it: another version, target, feature, option.
    #[error("cannot load native code: {reason}")]
    Incompatible {
        /// What differs.
        reason: String,
    },
    /// This engine runs native code only.
    #[error("cannot run wasm with {engine} before it is compiled")]
    NotCompiled {
        /// Name of the engine.
        engine: &'static str,
    },
    /// The wasm cannot be run as it is.
    #[error("cannot run it as it is")]
    Wasm {
        /// What is at fault.
        #[source]
        source: CompileError,
    },
    /// A system call failed.
    #[error("cannot map native code")]
    Io(#[from] std::io::Error),
}

/// Says why a guest did not run to its own end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The export to be called does not exist or is no function without parameters.
    #[error("cannot call export {function:?}: {reason}")]
    NoSuchFunction {
        /// Its name.
        function: String,
        /// What is there instead.
        reason: String,
    },
    /// A preopened folder or the runtime cannot be set up.
    #[error("cannot set up the guest: {reason}")]
    Setup {
        /// What failed, with its path.
        reason: String,
    },
    /// The guest trapped.
    #[error("the guest trapped: {message}")]
    Trap {
        /// The trap and the wasm backtrace.
        message: String,
    },
}

/// Stack of the thread that calls [`Program::run`], bytes: what the main thread of a native program has.
const THREAD_STACK: usize = 8 << 20;

/// Returns the builder of the thread that calls [`Program::run`], by the name that lists of threads show.
pub fn guest_thread(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned()).stack_size(THREAD_STACK)
}

/// Exit code of a container that cannot run what it was told to.
pub const CANNOT_RUN: u8 = 126;
/// Exit code of a guest that trapped, whose engine panicked, or whose time is up: that of a program that aborts.
pub const TRAPPED: u8 = 134;

impl RunError {
    /// Returns the exit code that a container ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Trap { .. } => TRAPPED,
            Self::NoSuchFunction { .. } | Self::Setup { .. } => CANNOT_RUN,
        }
    }
}

/// Returns `<version>-<first 12 hex digits of the fingerprint>`, which distinguishes all that must not be mixed.
pub fn version_label(engine: &dyn Engine) -> String {
    format!("{}-{}", engine.version(), &engine.fingerprint().hex()[..12])
}

/// Says which entry point wasm of this kind has when no function is named.
pub fn entry_point(kind: WasmKind) -> &'static str {
    match kind {
        WasmKind::Module => "_start",
        WasmKind::Component => "wasi:cli/run",
    }
}
