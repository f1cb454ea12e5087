//! The interface to containerd: arguments, the start of a daemon, the task API, events, errors.

pub(crate) mod args;
pub(crate) mod bootstrap;
pub(crate) mod delete;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod group;
pub(crate) mod info;
pub(crate) mod service;
pub(crate) mod sockets;
pub(crate) mod start;
pub(crate) mod time;
