//! What OCI documents and the first bytes of a layer mean. The packer, the cache, the engines and the precompiler all ask here, so
//! that none of them knows a type, a key or a digest that another one does not.
//!
//! Nothing here reads a store or a network, and nothing is trusted: every function takes what an image claims.

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
