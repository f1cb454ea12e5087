//! What the shim tells of itself: log lines, traces, and the reasons of failures in processes that cannot answer.

pub(crate) mod log;
pub(crate) mod observe;
pub(crate) mod reasons;
pub(crate) mod trace;
