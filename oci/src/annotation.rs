//! Keys of annotations: what an image says of itself and of its layers. Labels of containerd's stores are in the crate `cache`.

pub use oci_spec::image::{ANNOTATION_REF_NAME as REF_NAME, ANNOTATION_TITLE as TITLE};

/// The whole reference of an image, on its entry in the index of a layout. Written by the packer and by containerd, which reads it when
/// it imports.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// Where a layer that is data is mounted in the container. Written by the packer, read by the shim when a container is created. The config
/// of an artifact has the same key, with the paths of all layers.
pub const MOUNT: &str = "prewasi.io/mount";
/// The beginning of an option that an image or a container sets: `prewasi.io/NAME`. Written by people, read by the shim and by
/// `prewasi precompile`.
pub const OPTION_PREFIX: &str = "prewasi.io/";
/// The kind of an entry of an index that is no image. Written by buildx.
pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The value of [`REFERENCE_TYPE`] for an attestation.
pub const ATTESTATION: &str = "attestation-manifest";
/// Label in the config of a wasm image, with a hash of its layers: nothing else in such a config depends on the wasm, and clients know
/// an image by the digest of its config. Written by the packer under the name that containerd's runwasi gave it; nobody reads it.
pub const LAYERS_LABEL: &str = "runwasi.io/layers";
