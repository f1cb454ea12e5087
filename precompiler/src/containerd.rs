//! Questions to a containerd that come before any other work.

use std::path::Path;
use std::time::Duration;

use prewasi_cache::ContainerdStore;

/// Time limit for containerd's answer: containerd itself waits for this process.
const LIMIT: Duration = Duration::from_secs(1);

/// Asks the containerd at `address` for its version, e.g. `2.1.9`; `None` without a timely answer.
pub fn containerd_version(address: &Path) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let ask = async {
        // The version is the same in every namespace.
        let store = ContainerdStore::connect(address, "default").await.ok()?;
        store.version().await.ok()
    };
    let version = runtime.block_on(async { tokio::time::timeout(LIMIT, ask).await.ok().flatten() })?;
    Some(version.trim_start_matches('v').to_owned())
}
