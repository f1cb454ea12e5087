//! Where things are and what the limits are.

use std::path::PathBuf;
use std::time::Duration;

use prewasi_oci::Platform;
use serde::{Deserialize, Serialize};

use crate::provenance::make_private;

/// Where artifacts are kept, and images are read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreAddress {
    /// A containerd, by its gRPC socket.
    Containerd {
        /// Path of the socket.
        address: PathBuf,
        /// containerd namespace, e.g. `k8s.io`.
        namespace: String,
    },
    /// A folder with an OCI image layout.
    Layout(PathBuf),
}

/// What a precompiler needs to know before it does anything.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where images are and artifacts go.
    pub store: StoreAddress,
    /// The only platform of images that counts; without one wasm comes first, then this machine's.
    pub platform: Option<Platform>,
    /// Folder for what is forgotten at a reboot: stamps, compile slots, the journal. See [`runtime_dir`].
    pub runtime_dir: PathBuf,
    /// Native code that lies in a layout is run although this user did not compile it.
    pub trust_layout: bool,
    /// The binary that becomes the compile worker: this one, unless a test says otherwise.
    pub worker: PathBuf,
    /// How long a compile may take, wall clock.
    pub compile_timeout: Duration,
    /// How much processor time a compile may take, all threads together.
    pub compile_cpu_time: Duration,
    /// How much memory a compile may use, bytes.
    pub compile_memory: u64,
    /// How many layers are compiled at the same time on this node.
    pub compile_slots: usize,
    /// How long to wait for somebody else who compiles the same layer, before compiling without the lock.
    pub lock_deadline: Duration,
}

impl Settings {
    /// Takes the defaults for a containerd socket and namespace.
    pub fn new(address: impl Into<PathBuf>, namespace: impl Into<String>) -> Self {
        Self::for_store(StoreAddress::Containerd { address: address.into(), namespace: namespace.into() })
    }

    /// Takes the defaults for a store.
    pub fn for_store(store: StoreAddress) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            store,
            platform: None,
            runtime_dir: runtime_dir(),
            trust_layout: false,
            // Names the running binary even if an upgrade has replaced its file.
            worker: PathBuf::from("/proc/self/exe"),
            compile_timeout: Duration::from_secs(300),
            compile_cpu_time: Duration::from_secs(900),
            compile_memory: 2 << 30,
            compile_slots: cores,
            lock_deadline: Duration::from_secs(120),
        }
    }
}

/// Returns the folder for what is forgotten at a reboot: what `PREWASI_RUNTIME_DIR` names, else `/run/prewasi`, which is
/// root's. Other users have `$XDG_RUNTIME_DIR/prewasi`, else `/tmp/prewasi-<uid>`; it is made for them alone, and if
/// somebody else was there first it is not used. (Then there is no such folder, which costs speed and nothing else.)
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
