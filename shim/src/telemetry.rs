//! Telemetry of the shim: log lines, traces, and the failure reasons of processes that cannot report them.

pub(crate) mod log;
pub(crate) mod observe;
pub(crate) mod reasons;
pub(crate) mod trace;
