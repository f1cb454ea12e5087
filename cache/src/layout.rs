//! An OCI image layout folder as a content store.

/// A folder with an OCI image layout.
pub struct LayoutStore {}
