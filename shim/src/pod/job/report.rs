//! The result of a job, as a helper reports it to the daemon.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::node::cgroup::Cgroup;
use crate::node::pid::ProcessId;
use crate::telemetry::observe::About;

/// A helper's report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// A process of a container was made.
    Process { id: ProcessId, cgroup: Option<Cgroup>, about: About },
    /// The job is done.
    Done,
    /// The job has failed.
    Failed(Failure),
}
