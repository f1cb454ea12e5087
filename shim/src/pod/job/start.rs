//! Starts a container that has been created.

use std::path::PathBuf;

use libcontainer::container::Container;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Kind};

/// A job: let the init process of a container run its program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// libcontainer's folder of the container.
    pub(crate) state: PathBuf,
}

impl Start {
    /// Tells the init process to run its program, then runs the `poststart` hooks.
    pub(super) fn run(&self) -> Result<(), Failure> {
        Container::load(self.state.clone())
            .and_then(|mut container| container.start())
            .map_err(|error| Failure::new(Kind::Internal, &error))
    }
}
