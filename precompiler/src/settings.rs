//! Settings: paths and limits.

use std::path::PathBuf;
use std::time::Duration;

use prewasi_oci::Platform;
use serde::{Deserialize, Serialize};

use crate::provenance::make_private;

/// The address of a content store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreAddress {
    /// A containerd and one of its namespaces.
    Containerd {
        /// Path of its gRPC socket.
        address: PathBuf,
        /// containerd namespace, e.g. `k8s.io`.
        namespace: String,
    },
    /// A folder with an OCI image layout.
    Layout(PathBuf),
}

/// The settings of a precompiler.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The store of images and artifacts.
    pub store: StoreAddress,
    /// The only accepted platform of images. Without one, wasm has precedence over this machine's platform.
    pub platform: Option<Platform>,
    /// Folder for state that is lost at a reboot: stamps, compile slots, the journal. See [`runtime_dir`].
    pub runtime_dir: PathBuf,
    /// Native code in a layout may run although this user did not compile it.
    pub trust_layout: bool,
    /// Path of the binary that becomes the compile worker: this program, except in tests.
    pub worker: PathBuf,
    /// The limits of a compile.
    pub(crate) compile: CompileLimits,
}

/// The limits of a compile.
#[derive(Debug, Clone)]
pub(crate) struct CompileLimits {
    /// Time limit, wall clock.
    pub(crate) timeout: Duration,
    /// Limit of processor time, summed over all threads.
    pub(crate) cpu_time: Duration,
    /// Memory limit, in bytes.
    pub(crate) memory: u64,
    /// Maximum number of concurrent compiles on this node.
    pub(crate) slots: usize,
    /// Time to wait for another process that compiles the same layer, before compiling without the lock.
    pub(crate) lock_deadline: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            cpu_time: Duration::from_secs(900),
            memory: 2 << 30,
            slots: std::thread::available_parallelism().map_or(1, usize::from),
            lock_deadline: Duration::from_secs(120),
        }
    }
}

impl Settings {
    /// Returns the default settings for a containerd socket and namespace.
    pub fn new(address: impl Into<PathBuf>, namespace: impl Into<String>) -> Self {
        Self::for_store(StoreAddress::Containerd { address: address.into(), namespace: namespace.into() })
    }

    /// Returns the default settings for a store.
    pub fn for_store(store: StoreAddress) -> Self {
        Self {
            store,
            platform: None,
            runtime_dir: runtime_dir(),
            trust_layout: false,
            // This path is the running binary even if an upgrade has replaced its file.
            worker: PathBuf::from("/proc/self/exe"),
            compile: CompileLimits::default(),
        }
    }
}

/// Returns the folder for state that is lost at a reboot: the value of `PREWASI_RUNTIME_DIR`, else `/run/prewasi`, which is root's. Other
/// users have `$XDG_RUNTIME_DIR/prewasi`, else `/tmp/prewasi-<uid>`, created for them alone. If another user has created that folder
/// first, it is not used: everything works without it, only slower.
pub fn runtime_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("PREWASI_RUNTIME_DIR") {
        return folder;
    }
    let of_root = PathBuf::from("/run/prewasi");
    let user = rustix::process::geteuid();
    if user.is_root() {
        return of_root;
    }
    let candidates = [
        variable("XDG_RUNTIME_DIR").filter(|folder| folder.is_absolute()).map(|folder| folder.join("prewasi")),
        Some(PathBuf::from(format!("/tmp/prewasi-{}", user.as_raw()))),
    ];
    candidates.into_iter().flatten().find(|folder| make_private(folder).is_ok()).unwrap_or(of_root)
}
