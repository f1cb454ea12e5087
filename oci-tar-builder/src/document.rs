//! The JSON documents of an archive. Fields stand in a fixed order and maps are sorted, so that equal input gives equal
//! bytes and thereby equal digests.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Digest;

/// Media types that are written, or told apart when they are read.
pub mod media_type {
    /// A manifest of an image or artifact.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// The configuration of an image.
    pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// The configuration of a CNCF wasm artifact.
    pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
    /// A wasm module or component.
    pub const WASM: &str = "application/wasm";
    /// A component, as older tools name it.
    pub const COMPONENT: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
    /// An uncompressed tar of files.
    pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A file of any kind.
    pub const DATA: &str = "application/octet-stream";

    /// Whether a layer of this type is wasm.
    pub(crate) fn is_wasm(media_type: &str) -> bool {
        media_type == WASM || media_type.ends_with("+wasm")
    }

    /// Whether containerd unpacks layers of this type, and so expects a diff id for each.
    pub(crate) fn is_unpacked(media_type: &str) -> bool {
        media_type.starts_with("application/vnd.oci.image.layer.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.")
    }

    /// Whether a layer of this type is a tar, compressed or not.
    pub(crate) fn is_tar(media_type: &str) -> bool {
        let base = ["+gzip", "+zstd", ".gzip"].iter().find_map(|suffix| media_type.strip_suffix(suffix));
        let before = base.unwrap_or(media_type).strip_suffix("tar");
        before.is_some_and(|before| before.ends_with(['.', '-', '+', '/']))
    }

    /// Whether it has the form `type/subtype`.
    pub(crate) fn is_valid(media_type: &str) -> bool {
        let is_name = |name: &str| {
            name.len() <= 127
                && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        media_type.split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
    }
}

/// Keys of annotations and labels.
pub(crate) mod key {
    /// The tag, for readers of OCI layouts.
    pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// The whole reference, for containerd.
    pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
    /// The file name of a layer.
    pub(crate) const TITLE: &str = "org.opencontainers.image.title";
    /// Where a layer is mounted in the container.
    pub(crate) const MOUNT: &str = "prewasi.io/mount";
    /// Makes the config of each wasm image another one: nothing else in it depends on the wasm.
    pub(crate) const LAYERS: &str = "runwasi.io/layers";
}

pub(crate) type Map = BTreeMap<String, String>;

/// The file `oci-layout`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Layout {
    pub(crate) image_layout_version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    pub(crate) media_type: &'static str,
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: &'static str,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) annotations: Map,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) annotations: Map,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
}

#[derive(Serialize)]
pub(crate) struct ImageConfig {
    pub(crate) created: String,
    #[serde(flatten)]
    pub(crate) platform: Platform,
    pub(crate) config: Process,
    pub(crate) rootfs: RootFs,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Process {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) labels: Map,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WasmConfig<'a> {
    pub(crate) created: String,
    #[serde(flatten)]
    pub(crate) platform: Platform,
    pub(crate) layer_digests: Vec<Digest>,
    /// Where data is mounted, in the order of the layers. Clients know an artifact by the digest of its config, and nothing else in it
    /// depends on that.
    #[serde(rename = "prewasi.io/mount", skip_serializing_if = "Vec::is_empty")]
    pub(crate) mounts: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) component: Option<Component<'a>>,
}

#[derive(Serialize)]
pub(crate) struct Component<'a> {
    pub(crate) exports: &'a BTreeSet<String>,
    pub(crate) imports: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
}

/// An entry of Docker's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerManifest {
    pub(crate) config: String,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) layers: Vec<String>,
}

/// Writes a document. It has strings, numbers, lists and sorted maps alone, none of which serde_json can fail on.
pub(crate) fn json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("strings, numbers, lists and maps of strings are JSON")
}

#[cfg(test)]
mod tests {
    use super::media_type;

    /// Wasm types are those that end in `+wasm` and the plain one.
    #[test]
    fn recognises_wasm_types() {
        for wasm in ["application/wasm", media_type::COMPONENT, "application/vnd.wasm.content.layer.v1+wasm"] {
            assert!(media_type::is_wasm(wasm), "{wasm}");
        }
        for other in [media_type::TAR, "application/json", "application/wasm2"] {
            assert!(!media_type::is_wasm(other), "{other}");
        }
    }

    /// A media type has two names that are joined by one slash.
    #[test]
    fn recognises_media_types() {
        for valid in [media_type::WASM, media_type::TAR, "a/b", "text/x.y-z+json"] {
            assert!(media_type::is_valid(valid), "{valid}");
        }
        for invalid in
            ["", "a", "a/", "/b", "a/b/c", "a/b c", "a/b;c=d", "a/.b", "a/\"", &format!("a/{}", "b".repeat(128))]
        {
            assert!(!media_type::is_valid(invalid), "{invalid}");
        }
    }
}
