//! The meaning of OCI documents and of the first bytes of a layer. The packer, the cache, the engines and the precompiler share this
//! crate, so they agree on media types, keys and digests.
//!
//! This crate reads neither a store nor a network. It trusts no input: every function takes the claims of an image.

pub mod annotation;
mod digest;
pub mod media_type;
mod mount_path;
mod platform;
mod preamble;

pub use digest::{Digest, DigestError, Hasher};
pub use mount_path::{MountPathError, check_mount_path};
pub use platform::Platform;
pub use preamble::{MAGIC, PreambleError, WasmKind};
