//! A containerd shim that runs WebAssembly containers from native code compiled ahead of time.
//!
//! One binary is three things, by its command: `start`, which containerd calls to get the address of a daemon; the
//! daemon, one per pod, a process of one thread; `delete`, which cleans up after a daemon that died. See
//! `docs/architecture.md` for the processes and `docs/task-api.md` for the calls.

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
