//! A containerd shim that runs WebAssembly containers from native code compiled ahead of time.
//!
//! One binary has three roles, chosen by its command. `start`: containerd calls it to get the address of a daemon. The daemon: one per
//! pod, a process with one thread. `delete`: cleans up after a daemon that died. See `docs/architecture.md` for the processes and
//! `docs/task-api.md` for the calls.

mod api;
mod command;
mod engine;
mod failure;
mod node;
mod percent;
mod pod;
mod telemetry;

pub use command::main;
pub use engine::EngineConstructor;
