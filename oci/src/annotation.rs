//! Keys of annotations on images and on their layers. Labels of containerd's stores are in the crate `cache`.

pub use oci_spec::image::{ANNOTATION_REF_NAME as REF_NAME, ANNOTATION_TITLE as TITLE};

/// The full reference of an image, on its entry in the index of a layout. Written by the packer and by containerd; read by containerd's
/// import.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// The path at which a data layer is mounted in the container. Written by the packer, read by the shim when a container is created. The
/// config of an artifact has the same key, with the paths of all layers.
pub const MOUNT: &str = "prewasi.io/mount";
/// Prefix of an option that an image or a container sets: `prewasi.io/NAME`. Written by people, read by the shim and by `prewasi
/// precompile`.
pub const OPTION_PREFIX: &str = "prewasi.io/";
/// The kind of an index entry that is no image. Written by buildx.
pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The value of [`REFERENCE_TYPE`] for an attestation.
pub const ATTESTATION: &str = "attestation-manifest";
/// Label in the config of a wasm image, with a hash of its layers. Nothing else in such a config depends on the wasm, but clients
/// identify an image by the digest of its config. Written by the packer under the name that containerd's runwasi chose; no program reads
/// it.
pub const LAYERS_LABEL: &str = "runwasi.io/layers";
