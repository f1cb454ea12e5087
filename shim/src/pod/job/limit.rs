//! Changes limits of a container whose cgroup systemd manages. The request to systemd takes time, so a helper makes it.

use std::path::PathBuf;

use libcontainer::oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Kind};
use crate::node::cgroup::{self, Cgroup};
use crate::pod::spec;

/// A job: change limits of a container whose cgroup systemd manages.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) bundle: PathBuf,
    pub(crate) cgroup: Cgroup,
    pub(crate) wanted: LinuxResources,
}

impl Limit {
    /// Changes the limits.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let spec = spec::load(&self.bundle).ok();
        let own = spec.as_ref().and_then(spec::resources);
        cgroup::change(&self.cgroup, &self.wanted, own)
            .map_err(|error| Failure::new(if error.is_input() { Kind::Invalid } else { Kind::Internal }, &error))
    }
}
