//! The jobs of helpers: the work that needs libcontainer, mounts or an engine.

mod build;
mod create;
mod data;
mod exec;
mod folders;
mod inherit;
mod limit;
mod mask;
mod payload;
mod reason;
mod remove;
mod report;
mod root;
mod stage;
mod start;
mod stop_signal;
mod view;

pub(crate) use create::{Create, NewContainer};
pub(crate) use exec::Exec;
pub(crate) use limit::Limit;
pub(crate) use remove::Remove;
pub(crate) use report::Report;
pub(crate) use stage::Stage;
pub(crate) use start::Start;

use serde::{Deserialize, Serialize};

use crate::engine::EngineConstructor;
use crate::telemetry::trace::{Export, SpanParent};

/// One job of a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Mount the root filesystem, prepare the program, build the container around it.
    Create(Box<Create>),
    /// Execute another process in a container.
    Exec(Box<Exec>),
    /// Let the init process of a container run its program.
    Start(Start),
    /// Change limits of a container whose cgroup systemd manages.
    Limit(Box<Limit>),
    /// Remove the remains of a container.
    Remove(Box<Remove>),
    /// Send spans.
    Export(Export),
}

impl Job {
    /// Does the job. Only helpers may call this: it changes process-wide state.
    pub(crate) fn run(&self, engine: EngineConstructor) -> Report {
        let result = match self {
            Self::Create(create) => create.run(engine),
            Self::Exec(exec) => exec.run(engine),
            Self::Start(start) => start.run().map(|()| Report::Done),
            Self::Limit(limit) => limit.run().map(|()| Report::Done),
            Self::Remove(remove) => remove.run().map(|()| Report::Done),
            Self::Export(export) => export.run().map(|()| Report::Done),
        };
        result.unwrap_or_else(Report::Failed)
    }

    /// Returns the trace context for the spans of the job, if the job is traced.
    pub(crate) fn origin(&self) -> Option<&SpanParent> {
        match self {
            Self::Create(create) => create.origin.as_ref(),
            Self::Exec(exec) => exec.origin.as_ref(),
            Self::Start(_) | Self::Limit(_) | Self::Remove(_) | Self::Export(_) => None,
        }
    }
}
