//! The harness of the integration tests and benchmarks: private containerds, what a client does with them, and what must be
//! left when it is done.
//!
//! Nothing here touches the system's own containerd: every daemon lives in a folder of its own, which is gone afterwards
//! even if the test process is killed. `docs/testing.md` tells how a test is written.

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
