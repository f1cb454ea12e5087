//! How a job ends, as the daemon hears of it.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::node::cgroup::Cgroup;
use crate::node::pid::ProcessId;
use crate::telemetry::observe::About;

/// What a helper has to say.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// A process of a container is there.
    Process { id: ProcessId, cgroup: Option<Cgroup>, about: About },
    /// The job is done.
    Done,
    /// The job has failed.
    Failed(Failure),
}
