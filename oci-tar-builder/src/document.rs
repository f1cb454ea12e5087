//! The JSON documents of an archive. Fields stand in a fixed order and maps are sorted, so that equal input gives equal
//! bytes and thereby equal digests. The types of `oci-spec` keep annotations in a map without an order, and so cannot be written here.

use std::collections::{BTreeMap, BTreeSet};

use prewasi_oci::{Digest, Platform};
use serde::Serialize;

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

#[derive(Serialize)]
pub(crate) struct ImageConfig {
    pub(crate) created: String,
    #[serde(flatten)]
    pub(crate) platform: Platform,
    pub(crate) config: ImageProcess,
    pub(crate) rootfs: RootFs,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ImageProcess {
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
