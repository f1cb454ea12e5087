//! Media types: those that the packer writes, and the classification of any media type. The names are those of the OCI image
//! specification and of CNCF wasm artifacts.

/// A manifest of an image or artifact.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The config of an image.
pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The config of a CNCF wasm artifact.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// A wasm module or component.
pub const WASM: &str = "application/wasm";
/// A component, as older tools write it.
pub const COMPONENT: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
/// An uncompressed tar of files.
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A file of any kind.
pub const DATA: &str = "application/octet-stream";

/// Docker's media types of a manifest and of an index.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Suffixes of the media types of compressed archives.
const COMPRESSED: [&str; 3] = ["+gzip", "+zstd", ".gzip"];

/// Returns whether a document of this type is an index.
pub fn is_index(media_type: &str) -> bool {
    [INDEX, DOCKER_INDEX].contains(&media_type)
}

/// Returns whether a document of this type is a manifest.
pub fn is_manifest(media_type: &str) -> bool {
    [MANIFEST, DOCKER_MANIFEST].contains(&media_type)
}

/// Returns whether a layer of this type is wasm: the plain type, or any type with the suffix `+wasm`.
pub fn is_wasm(media_type: &str) -> bool {
    media_type == WASM || media_type.ends_with("+wasm")
}

/// Returns whether containerd unpacks layers of this type into a root filesystem, and expects a diff id for each. The rule is that of
/// `images.IsLayerType` in containerd 1.7 to 2.4.
pub fn is_unpacked(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

/// Returns whether a layer of this type is an archive of files, compressed or not.
pub fn is_archive(media_type: &str) -> bool {
    let before = uncompressed(media_type).strip_suffix("tar");
    before.is_some_and(|before| before.ends_with(['.', '-', '+', '/']))
}

/// Returns whether the media type names a compression.
pub fn is_compressed(media_type: &str) -> bool {
    uncompressed(media_type) != media_type
}

fn uncompressed(media_type: &str) -> &str {
    COMPRESSED.iter().find_map(|suffix| media_type.strip_suffix(suffix)).unwrap_or(media_type)
}

/// Returns whether the text has the form `type/subtype` (RFC 6838, section 4.2).
pub fn is_valid(media_type: &str) -> bool {
    let is_name = |name: &str| {
        name.len() <= 127
            && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    media_type.split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{MediaType, ToDockerV2S2 as _};

    use super::*;

    /// The constants equal those of the specification's own crate.
    #[test]
    fn names_are_those_of_the_specification() {
        let spelled = [
            (MANIFEST, MediaType::ImageManifest),
            (INDEX, MediaType::ImageIndex),
            (IMAGE_CONFIG, MediaType::ImageConfig),
            (TAR, MediaType::ImageLayer),
        ];
        for (name, other) in &spelled {
            assert_eq!(*name, other.as_ref());
        }
        assert_eq!(MediaType::ImageManifest.to_docker_v2s2(), Ok(DOCKER_MANIFEST));
        assert_eq!(MediaType::ImageIndex.to_docker_v2s2(), Ok(DOCKER_INDEX));
        for layer in [
            MediaType::ImageLayer,
            MediaType::ImageLayerGzip,
            MediaType::ImageLayerZstd,
            MediaType::ImageLayerNonDistributable,
            MediaType::ImageLayerNonDistributableGzip,
            MediaType::ImageLayerNonDistributableZstd,
        ] {
            assert!(is_unpacked(layer.as_ref()) && is_archive(layer.as_ref()), "{layer}");
        }
    }

    /// Wasm types are the plain type and all that end in `+wasm`.
    #[test]
    fn wasm_types() {
        for wasm in
            [WASM, COMPONENT, "application/vnd.wasm.content.layer.v1+wasm", "application/vnd.w3c.wasm.module.v1+wasm"]
        {
            assert!(is_wasm(wasm) && !is_unpacked(wasm) && !is_archive(wasm), "{wasm}");
        }
        for other in [TAR, DATA, WASM_CONFIG, "application/json", "application/wasm2"] {
            assert!(!is_wasm(other), "{other}");
        }
    }

    /// Archives are distinguished from types with similar names, compressed archives from others.
    #[test]
    fn archives() {
        for (archive, compressed) in [
            (TAR, false),
            ("application/vnd.oci.image.layer.v1.tar+gzip", true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", true),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
            ("application/x-tar", false),
            ("application/vnd.example+tar", false),
        ] {
            assert_eq!((is_archive(archive), is_compressed(archive)), (true, compressed), "{archive}");
        }
        for other in ["application/vnd.example.target", "image/avatar", DATA, "tar"] {
            assert!(!is_archive(other), "{other}");
        }
    }

    /// A media type consists of two names, joined by one slash.
    #[test]
    fn valid_types() {
        for valid in [WASM, TAR, "a/b", "text/x.y-z+json"] {
            assert!(is_valid(valid), "{valid}");
        }
        for invalid in
            ["", "a", "a/", "/b", "a/b/c", "a/b c", "a/b;c=d", "a/.b", "a/\"", &format!("a/{}", "b".repeat(128))]
        {
            assert!(!is_valid(invalid), "{invalid}");
        }
    }
}
