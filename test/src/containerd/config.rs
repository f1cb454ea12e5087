//! containerd's configuration: all paths below one folder, and no plugin with effects outside it.

use std::path::Path;

use super::Series;

/// Returns the configuration file.
pub(super) fn text(series: Series, folder: &Path) -> String {
    let folder = folder.display();
    let (version, cri) = if series.is_old() {
        (2, r#""io.containerd.grpc.v1.cri""#)
    } else {
        (3, r#""io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime""#)
    };
    format!(
        r#"version = {version}
root = "{folder}/root"
state = "{folder}/state"
temp = "{folder}/tmp"
disabled_plugins = [
    {cri},
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = "{folder}/c.sock"

[ttrpc]
address = "{folder}/c.sock.ttrpc"

[debug]
level = "debug"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
"#
    )
}
