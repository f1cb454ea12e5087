//! The node's side of a pod: cgroups, metrics, mounts, processes, keys.

pub(crate) mod cgroup;
pub(crate) mod keyring;
pub(crate) mod lookups;
pub(crate) mod mounts;
pub(crate) mod oom;
pub(crate) mod pid;
pub(crate) mod readiness;
pub(crate) mod seal;
pub(crate) mod stats;
