//! containerd's content store over gRPC.

/// A namespace of a containerd.
pub struct ContainerdStore {}
