//! The plug-in point for engines: the methods of each engine, and when each is called.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::tuning::STACK;
use crate::{Fingerprint, Tuning, TuningError, Wasm, WasmKind};

/// An engine. It is cheap to make: making one starts no thread, and installs no signal handler before `load`. `compile` runs in a
/// sandboxed child process; `load` and `run` run in the process that becomes the container.
pub trait Engine: Send + Sync {
    /// Returns the engine's name, version, fingerprint and tuning.
    fn identity(&self) -> &Identity;

    /// Returns the name used in labels, binaries and options, e.g. `wasmtime`.
    fn name(&self) -> &'static str {
        self.identity().name
    }

    /// Returns the version of the engine itself, e.g. `48.0.8`.
    fn version(&self) -> &'static str {
        self.identity().version
    }

    /// Returns all settings that shape the native code, in a fixed order.
    fn fingerprint(&self) -> &Fingerprint {
        &self.identity().fingerprint
    }

    /// Returns the tuning with which this engine compiles and loads.
    fn tuning(&self) -> &Tuning {
        &self.identity().tuning
    }

    /// Returns whether the engine compiles ahead of time; if not, it interprets the wasm itself.
    fn compiles(&self) -> bool {
        true
    }

    /// Returns whether `compile` uses several threads, so that a compile with the tuning `serial` needs less memory.
    fn compiles_in_parallel(&self) -> bool {
        false
    }

    /// Returns whether `compile` writes files, in a folder for temporary files; if not, it uses memory alone.
    fn writes_files(&self) -> bool {
        false
    }

    /// Makes an engine that compiles and loads with `tuning`. Its fingerprint, and so its label, is that of such code.
    ///
    /// # Errors
    /// [`TuningError`] names the choice that the engine does not have, and the possible ones.
    fn tuned(&self, tuning: &Tuning) -> Result<Box<dyn Engine>, TuningError>;

    /// Returns the first of these interfaces that the engine does not provide to a component; `None` if it provides all. Interfaces are
    /// named as a component imports them: `wasi:http/outgoing-handler@0.2.0`. Compatible versions and type-only interfaces count as
    /// provided. Called before the compile of an image that lists its imports. An engine for core modules refuses components as such.
    fn first_unprovided<'a>(&self, interfaces: &'a [String]) -> Option<&'a str> {
        let _ = interfaces;
        None
    }

    /// Compiles wasm to native code. Refuses wasm that could not run, for example because it imports something that the engine does not
    /// provide.
    ///
    /// # Errors
    /// [`CompileError`] names the fault in the wasm.
    fn compile(&self, wasm: &Wasm) -> Result<Vec<u8>, CompileError>;

    /// Maps native code and makes it ready to run. Called before the process enters its container.
    ///
    /// # Errors
    /// [`LoadError::Incompatible`] if the engine's own check of the artifact fails, or if the engine interprets; [`LoadError::Io`].
    fn load(&self, code: NativeCode) -> Result<Box<dyn Program>, LoadError>;

    /// Makes wasm ready to run without native code: for engines that interpret. Engines that compile return [`LoadError::NotCompiled`],
    /// because an image's wasm is never compiled outside the sandbox.
    ///
    /// # Errors
    /// [`LoadError::NotCompiled`]; [`LoadError::Wasm`] if the wasm cannot run; [`LoadError::Io`].
    fn load_wasm(&self, wasm: &Wasm) -> Result<Box<dyn Program>, LoadError> {
        let _ = wasm;
        Err(LoadError::NotCompiled { engine: self.name() })
    }
}

/// The identity of an engine: all its parts that labels and messages show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name used in labels, binaries and options, e.g. `wasmtime`.
    pub name: &'static str,
    /// The version of the engine itself, e.g. `48.0.8`.
    pub version: &'static str,
    /// All settings that shape the native code, in a fixed order.
    pub fingerprint: Fingerprint,
    /// The tuning with which the engine compiles and loads.
    pub tuning: Tuning,
}

/// A loaded program, shared with the forked process that becomes the container.
pub trait Program: Send + Sync {
    /// Checks that the guest's entry function exists and can be called. Called before the container is started.
    ///
    /// # Errors
    /// [`RunError::NoSuchFunction`], [`RunError::Setup`].
    fn check(&self, guest: &Guest) -> Result<(), RunError>;

    /// Returns whether the program serves requests until [`Guest::stop`].
    fn serves(&self) -> bool {
        false
    }

    /// Runs the guest to its end on the calling thread, with the process's own stdio, and returns the guest's exit code. Called inside
    /// the container, on a thread made for it. An engine that needs a runtime makes it here. A program that serves may fork processes,
    /// which end with this one: the other threads of the calling process must only wait.
    ///
    /// # Errors
    /// [`RunError`], also for a guest that trapped.
    fn run(&self, guest: &Guest) -> Result<u8, RunError>;
}

/// A file with native code that may be loaded and executed.
#[derive(Debug)]
pub struct NativeCode {
    file: File,
    size: u64,
}

impl NativeCode {
    /// Vouches for a file with native code of `size` bytes.
    ///
    /// # Safety
    /// The bytes must be the output of an engine with this very fingerprint, compiled on this node or vouched for by a trusted signer.
    /// Nobody may change them while the value, or a program loaded from it, lives: the engine maps and executes them.
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

    /// Checks that the file is complete.
    ///
    /// # Errors
    /// [`LoadError::Incompatible`] names both sizes; [`LoadError::Io`].
    #[cfg(any(feature = "wasmedge", feature = "wasmer", feature = "wasmtime"))]
    pub(crate) fn check_size(&self) -> Result<(), LoadError> {
        let size = self.file.metadata()?.len();
        if size == self.size {
            return Ok(());
        }
        let reason = format!("its file has {size} bytes instead of {}", self.size);
        Err(LoadError::Incompatible { reason })
    }
}

/// The parameters of a guest program. Its stdio is the process's own.
#[derive(Debug, Clone, Default)]
pub struct Guest {
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment, in this order.
    pub env: Vec<(String, String)>,
    /// Working directory in the guest's view: relative paths start here.
    pub cwd: PathBuf,
    /// Folders that the guest may use.
    pub preopens: Vec<Preopen>,
    /// Export to call instead of the usual entry point (`_start`, `wasi:cli/run`).
    pub function: Option<String>,
    /// The guest's access to the process's network.
    pub network: Network,
    /// Maximum size of linear memories, tables and collected objects together, in bytes. Without it only the process's own limit counts.
    pub memory_limit: Option<u64>,
    /// The guest's fuel, in the engine's own units; for code that was compiled to count it.
    pub fuel: Option<u64>,
    /// Settings of a program that serves HTTP.
    pub http: Http,
    /// A descriptor that becomes readable when a program that serves must stop.
    pub stop: Option<Arc<OwnedFd>>,
}

/// Settings of a program that serves HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The address to listen on.
    pub address: SocketAddr,
    /// Number of requests that an instance answers, one after the other, before a new one replaces it.
    pub instance_requests: u32,
    /// Maximum number of requests that are answered at the same time. The same number of requests may wait; further ones are refused.
    pub concurrency: u32,
    /// Time limit for the guest until it begins to answer, and again for its work after the answer.
    pub timeout: Duration,
    /// Longest body of a request, in bytes.
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
    /// Nothing in the folder can be changed.
    pub read_only: bool,
}

/// A guest's access to the process's network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// Full access: sockets and name look-up.
    #[default]
    Inherit,
    /// No access: each socket call is refused, and no name is found.
    None,
}

/// Most characters of a text of the wasm's that a message has.
const LONGEST_TEXT: usize = 1024;

/// The reason why wasm cannot be compiled. The compile worker, a separate process, reports it.
#[derive(Debug, serde::Deserialize, serde::Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum CompileError {
    /// The bytes are not valid wasm: truncated, malformed, or using a proposal that is not enabled.
    #[error("cannot compile invalid wasm: {reason}")]
    Invalid {
        /// The validator's message, with the offset.
        reason: String,
    },
    /// The wasm imports an item that this engine does not provide.
    #[error("cannot provide import {name:?} of {module:?}")]
    UnknownImport {
        /// Module or interface, e.g. `env`.
        module: String,
        /// Name of the function, global, memory or table.
        name: String,
    },
    /// The wasm is valid, but this engine does not run it.
    #[error("cannot compile: {reason}")]
    Unsupported {
        /// The unsupported feature, and advice.
        reason: String,
    },
}

impl CompileError {
    /// Cuts texts that wasm can make as long as it likes, so that messages stay readable.
    #[must_use]
    pub fn cut(self) -> Self {
        match self {
            Self::Invalid { reason } => Self::Invalid { reason: cut(reason) },
            Self::UnknownImport { module, name } => Self::UnknownImport { module: cut(module), name: cut(name) },
            Self::Unsupported { reason } => Self::Unsupported { reason: cut(reason) },
        }
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The reason why native code cannot be made ready to run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine's own check of the artifact fails: another version, target, feature or option.
    #[error("cannot load native code: {reason}")]
    Incompatible {
        /// The difference.
        reason: String,
    },
    /// This engine runs native code only.
    #[error("cannot run wasm with {engine} before it is compiled")]
    NotCompiled {
        /// Name of the engine.
        engine: &'static str,
    },
    /// The wasm cannot be interpreted.
    #[error("cannot interpret the wasm")]
    Wasm {
        /// The fault in the wasm.
        #[source]
        source: CompileError,
    },
    /// A system call failed.
    #[error("cannot map native code")]
    Io(#[from] std::io::Error),
}

/// The reason why a guest did not run to its own end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The requested export does not exist, or is no function without parameters.
    #[error("cannot call export {function:?}: {reason}")]
    NoSuchFunction {
        /// Its name.
        function: String,
        /// The actual export.
        reason: String,
    },
    /// A preopened folder or the runtime cannot be set up.
    #[error("cannot set up the guest: {reason}")]
    Setup {
        /// The failed step, with its path.
        reason: String,
    },
    /// The guest trapped.
    #[error("the guest trapped: {message}")]
    Trap {
        /// The trap, with the wasm backtrace.
        message: String,
    },
}

/// Returns the builder of the thread that calls [`Program::run`]; lists of threads show `name`. An engine whose guests need a larger
/// stack, or a guard behind it, makes that stack itself while it runs a guest.
pub fn guest_thread(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK as usize)
}

/// Exit code of a container that cannot run its program.
pub const CANNOT_RUN: u8 = 126;
/// Exit code after a trap, a panic of the engine, or the time limit: that of a program that aborts.
pub const TRAPPED: u8 = 134;

impl RunError {
    /// Returns the container's exit code for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Trap { .. } => TRAPPED,
            Self::NoSuchFunction { .. } | Self::Setup { .. } => CANNOT_RUN,
        }
    }
}

/// Returns `<version>-<first 12 hex digits of the fingerprint>`, the part of a label that separates incompatible artifacts.
pub fn version_label(engine: &dyn Engine) -> String {
    format!("{}-{}", engine.version(), &engine.fingerprint().hex()[..12])
}

/// Returns the entry point of wasm of this kind, if the caller names no function.
pub fn entry_point(kind: WasmKind) -> &'static str {
    match kind {
        WasmKind::Module => "_start",
        WasmKind::Component => "wasi:cli/run",
    }
}
