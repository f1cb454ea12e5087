//! The keys of all labels, and of extensions of records, that prewasi writes in containerd's stores. Who adds one begins here.
//!
//! Keys that begin with `runwasi.io/` are those of containerd's runwasi, which can so be replaced without compiling anew. Annotations of
//! images are in the crate `oci`.

/// On an artifact: the digest of the wasm that it was compiled from. Written by [`crate::ArtifactCache`] and read by it, by `ls`, `prune`
/// and `verify`; since 0.1. With `/ENGINE/VERSION` behind it, on the source's blob: the digest of the artifact, as
/// [`crate::AnchorLabel`] spells it.
pub const SOURCE: &str = "runwasi.io/precompiled";
/// On an artifact: the digest of a further source with the same code. Written and read by [`crate::ArtifactCache`]; since 0.1.
pub const FURTHER_SOURCE: &str = "runwasi.io/precompiled-from";
/// On a source's blob, with `.ENGINE.VERSION` behind it: keeps the artifact from containerd's collector, which alone reads it. Written by
/// [`crate::ArtifactCache`]; since 0.1.
pub const KEEP_ARTIFACT: &str = "containerd.io/gc.ref.content.precompiled";
/// On an artifact that was not compiled as its engine does by itself: the text form of the tuning. Written by the precompiler, read by
/// `ls` and `prune`; since 0.1.
pub const TUNING: &str = "prewasi.io/tuning";
/// On a container's record: keeps the manifest of its image from containerd's collector, which alone reads it. Written when a container is
/// first created; since 0.1.
pub const KEEP_IMAGE: &str = "containerd.io/gc.ref.content.prewasi";
/// Extension of a container's record: the manifest that the container was created from. Written when it is first created, read at each
/// start and exec; since 0.1.
pub const PIN: &str = "prewasi.io/image";
/// The type of [`PIN`].
pub const PIN_TYPE: &str = "prewasi.io/image.v1";
/// The beginning of labels of containerd's own that keep one blob as long as another one. Read by `prune` to see what lies where; since 0.1.
pub const REFERENCE: &str = "containerd.io/gc.ref.content";
/// On a lease: when containerd may drop it, as RFC 3339 has it. Written with each lease, read by containerd; since 0.1.
pub const EXPIRES: &str = "containerd.io/gc.expire";
/// On an artifact, for people and `ls`: the machine that it was compiled for. Written by the precompiler; since 0.1.
pub const TARGET: &str = "prewasi.io/target";
/// The same: how long the compile took.
pub const COMPILE_MILLISECONDS: &str = "prewasi.io/compile-milliseconds";
/// The same: the most memory that the compile had.
pub const COMPILE_PEAK_BYTES: &str = "prewasi.io/compile-peak-bytes";
/// The same: how large the artifact is.
pub const SIZE_BYTES: &str = "prewasi.io/size-bytes";
/// The same: when it was compiled, as RFC 3339 has it.
pub const CREATED: &str = "prewasi.io/created";
/// On a keeper, the anchor of native code of files without an image: until when a lease keeps it, as RFC 3339 has it. Written when a file is
/// compiled, read at its next use; since 0.1.
pub const KEPT_UNTIL: &str = "prewasi.io/kept-until";
