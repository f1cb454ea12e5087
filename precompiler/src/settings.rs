//! Where things are and what the limits are.

use std::path::PathBuf;
use std::time::Duration;

/// What a precompiler needs to know before it does anything.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Path of containerd's gRPC socket.
    pub address: PathBuf,
    /// containerd namespace, e.g. `k8s.io`.
    pub namespace: String,
    /// Folder for what is forgotten at a reboot: stamps, the journal. `/run/prewasi` unless `PREWASI_RUNTIME_DIR` names another.
    pub runtime_dir: PathBuf,
    /// How long a compile may take, wall clock.
    pub compile_timeout: Duration,
    /// How much memory a compile may use, bytes.
    pub compile_memory: u64,
}

impl Settings {
    /// Takes the defaults for a containerd socket and namespace.
    pub fn new(address: impl Into<PathBuf>, namespace: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            namespace: namespace.into(),
            runtime_dir: runtime_dir(),
            compile_timeout: Duration::from_secs(300),
            compile_memory: 2 << 30,
        }
    }
}

/// Returns the folder for what is forgotten at a reboot.
pub fn runtime_dir() -> PathBuf {
    std::env::var_os("PREWASI_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map_or_else(|| PathBuf::from("/run/prewasi"), PathBuf::from)
}
