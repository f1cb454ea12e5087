//! A containerd shim that runs WebAssembly containers from native code compiled ahead of time.
//!
//! One binary is three things, by its command: `start`, which containerd calls to get the address of a daemon; the
//! daemon, one per pod, a process of one thread; `delete`, which cleans up after a daemon that died. See
//! `docs/architecture.md` for the processes and `docs/task-api.md` for the calls.

mod args;
mod bootstrap;
mod cgroup;
mod command;
mod container;
mod daemon;
mod delete;
mod docker;
mod entrypoint;
mod error;
mod events;
mod executor;
mod folders;
mod group;
mod helper;
mod hook;
mod info;
mod job;
mod keyring;
mod log;
mod lookups;
mod mounts;
mod observe;
mod oom;
mod options;
mod orphans;
mod pending;
mod process;
mod program;
mod readiness;
mod reaper;
mod reasons;
mod record;
mod seal;
mod service;
mod shim;
mod sockets;
mod spec;
mod start;
mod stats;
mod stdio;
mod time;
mod trace;

pub use command::{EngineConstructor, main};
