//! A content store for artifacts: what was compiled ahead of time lies beside what it was compiled from.
//!
//! This crate knows digests, labels and leases; of wasm and engines it knows nothing.
//! `docs/cache.md` states the contract that every writer keeps.

mod artifact;
mod containerd;
mod digest;
pub mod fault;
mod layout;
mod retry;
mod seal;
mod stamp;
mod store;
mod whole;

pub use artifact::{AnchorLabel, Artifact, ArtifactCache, ArtifactKey, Claim, Lookup, MissReason, SOURCE_LABEL};
pub use containerd::{ContainerRecord, ContainerdStore, Extension, ImageChange, ImageEvent, ImageEvents};
pub use digest::{Digest, DigestError, Hasher};
pub use layout::LayoutStore;
pub use seal::seal;
pub use store::{BlobFile, BlobInfo, ContentStore, ImageRecord, Lease, Lock, NewBlob, StoreError};
