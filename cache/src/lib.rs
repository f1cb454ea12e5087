//! A content store for artifacts: native code that was compiled ahead of time is stored beside the wasm it was compiled from.
//!
//! This crate knows labels and leases, and names blobs by the digests of the crate `oci`. It knows neither wasm nor engines.
//! `docs/cache.md` states the contract for every writer.

mod artifact;
mod containerd;
pub mod fault;
pub mod labels;
mod layout;
mod retry;
mod seal;
mod stamp;
mod store;
mod whole;

pub use artifact::{AnchorLabel, Artifact, ArtifactCache, ArtifactKey, Claim, Lookup, MissReason};
pub use containerd::{ContainerRecord, ContainerdStore, Extension, ImageChange, ImageEvent, ImageEvents};
pub use layout::LayoutStore;
pub use prewasi_oci::Digest;
pub use seal::seal;
pub use store::{BlobFile, BlobInfo, ContentStore, ImageRecord, Lease, Lock, NewBlob, StoreError};
