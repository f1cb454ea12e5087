//! A pod: the daemon, its helpers, and the containers that they make.

pub(crate) mod calls;
pub(crate) mod container;
pub(crate) mod daemon;
pub(crate) mod docker;
pub(crate) mod entrypoint;
pub(crate) mod folders;
pub(crate) mod helper;
pub(crate) mod hook;
pub(crate) mod job;
pub(crate) mod launch;
pub(crate) mod options;
pub(crate) mod orphans;
pub(crate) mod pending;
pub(crate) mod program;
pub(crate) mod reaper;
pub(crate) mod record;
pub(crate) mod spec;
pub(crate) mod stdio;
