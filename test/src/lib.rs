//! The harness of the integration tests and benchmarks: private containerds, a client's operations on them, and the check for leaks
//! afterwards.
//!
//! The harness never uses the system's own containerd. Every daemon lives in its own folder, which is removed afterwards, even if the
//! test process is killed. `docs/testing.md` explains how to write a test.

pub mod artifacts;
pub mod calls;
pub mod collector;
pub mod container;
pub mod containerd;
pub mod cri;
pub mod dns;
pub mod docker;
pub mod events;
pub mod eventually;
pub mod faults;
pub mod figures;
pub mod guests;
pub mod home;
pub mod http;
pub mod image;
pub mod journal;
pub mod leaks;
pub mod local;
pub mod manifest;
pub mod memory;
pub mod namespace;
#[cfg(test)]
mod packed;
pub mod process;
pub mod service;
mod spec;
mod stdio;
pub mod trial;
pub mod workers;

pub use container::{Container, Exited};
pub use containerd::{Containerd, Series};
pub use eventually::eventually;
pub use namespace::Namespace;
pub use spec::default_mounts;
