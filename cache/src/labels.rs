//! Keys of all labels, and of extensions of records, that prewasi writes in containerd's stores. A new key belongs here.
//!
//! Keys that begin with `runwasi.io/` are those of containerd's runwasi, so that prewasi can replace it without compiling anew.
//! Annotations of images are in the crate `oci`.

/// On an artifact: the digest of the wasm that it was compiled from. Written by [`crate::ArtifactCache`], read by it and by `ls`, `prune`
/// and `verify`; since 0.1. With the suffix `/ENGINE/VERSION`, on the source's blob: the digest of the artifact, as
/// [`crate::AnchorLabel`] spells it.
pub const SOURCE: &str = "runwasi.io/precompiled";
/// On an artifact: the digest of a further source with the same code. Written and read by [`crate::ArtifactCache`]; since 0.1.
pub const FURTHER_SOURCE: &str = "runwasi.io/precompiled-from";
/// On a source's blob, with the suffix `.ENGINE.VERSION`: keeps the artifact from containerd's garbage collector, its only reader.
/// Written by [`crate::ArtifactCache`]; since 0.1.
pub const KEEP_ARTIFACT: &str = "containerd.io/gc.ref.content.precompiled";
/// On an artifact that was compiled with tuning: the text form of the tuning. Written by the precompiler, read by `ls` and `prune`; since
/// 0.1.
pub const TUNING: &str = "prewasi.io/tuning";
/// On a container's record: keeps the manifest of its image from containerd's garbage collector, its only reader. Written when a
/// container is first created; since 0.1.
pub const KEEP_IMAGE: &str = "containerd.io/gc.ref.content.prewasi";
/// Extension of a container's record: the manifest that the container was created from. Written when it is first created, read at each
/// start and exec; since 0.1.
pub const PIN: &str = "prewasi.io/image";
/// The type of [`PIN`].
pub const PIN_TYPE: &str = "prewasi.io/image.v1";
/// Prefix of containerd's own labels with which one blob keeps another. Read by `prune` to find which blobs are still in use; since 0.1.
pub const REFERENCE: &str = "containerd.io/gc.ref.content";
/// On a lease: the time from which containerd may drop it, in RFC 3339. Written with each lease, read by containerd; since 0.1.
pub const EXPIRES: &str = "containerd.io/gc.expire";
/// On an artifact, for people and `ls`: the machine that it was compiled for. Written by the precompiler; since 0.1.
pub const TARGET: &str = "prewasi.io/target";
/// On an artifact, for people and `ls`: duration of the compile, in milliseconds. Written by the precompiler; since 0.1.
pub const COMPILE_MILLISECONDS: &str = "prewasi.io/compile-milliseconds";
/// On an artifact, for people and `ls`: peak memory of the compile, in bytes. Written by the precompiler; since 0.1.
pub const COMPILE_PEAK_BYTES: &str = "prewasi.io/compile-peak-bytes";
/// On an artifact, for people and `ls`: its size, in bytes. Written by the precompiler; since 0.1.
pub const SIZE_BYTES: &str = "prewasi.io/size-bytes";
/// On an artifact, for people and `ls`: the time of the compile, in RFC 3339. Written by the precompiler; since 0.1.
pub const CREATED: &str = "prewasi.io/created";
/// On a keeper, the anchor of native code of files without an image: the time until which a lease keeps it, in RFC 3339. Written when a
/// file is compiled and when the lease is renewed, read at each use; since 0.1.
pub const KEPT_UNTIL: &str = "prewasi.io/kept-until";
