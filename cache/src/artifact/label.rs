//! Keys of the labels that name and keep artifacts. They contain engine and version.

use crate::labels::{FURTHER_SOURCE, KEEP_ARTIFACT, SOURCE};
use crate::{BlobInfo, Digest};

/// Number of hex digits of a digest or a fingerprint in a label's key.
const SHORT: usize = 12;

/// The parts of the keys of an anchor's labels: engine, version, and the source if the anchor has more than one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnchorLabel {
    /// Name of the engine.
    pub engine: String,
    /// `<engine version>-<first 12 hex digits of the fingerprint>`.
    pub version: String,
    /// First 12 hex digits of the source's digest, if the anchor is not the source.
    pub source: Option<String>,
}

/// The identity in an artifact's own labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Digest of the wasm that it was compiled from.
    pub source: Digest,
    /// Full fingerprint, 64 hex digits.
    pub fingerprint: String,
}

impl AnchorLabel {
    /// Returns the key of the label on the artifact and on image records.
    pub fn plain(&self) -> String {
        format!("{SOURCE}/{}/{}", self.engine, self.version)
    }

    /// Returns the key of the anchor's label that names the artifact.
    pub fn leading(&self) -> String {
        match &self.source {
            Some(source) => format!("{}/{source}", self.plain()),
            None => self.plain(),
        }
    }

    /// Returns the key of the anchor's label that keeps the artifact from containerd's garbage collector.
    pub fn keeping(&self) -> String {
        let label = format!("{KEEP_ARTIFACT}.{}.{}", self.engine, self.version);
        match &self.source {
            Some(source) => format!("{label}.{source}"),
            None => label,
        }
    }

    /// Returns whether a key begins like a leading label, well-formed or not.
    pub fn is_leading(key: &str) -> bool {
        key.strip_prefix(SOURCE).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Returns whether a key begins like a keeping label.
    pub fn is_keeping(key: &str) -> bool {
        key.strip_prefix(KEEP_ARTIFACT).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Parses the key of a leading label; `None` if prewasi would not write this key.
    pub fn parse_leading(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(SOURCE)?.strip_prefix('/')?.split('/');
        let (engine, version, source) = (parts.next()?, parts.next()?, parts.next());
        (parts.next().is_none()).then(|| Self::checked(engine, version, source)).flatten()
    }

    /// Parses the key of a keeping label; `None` if prewasi would not write this key.
    pub fn parse_keeping(key: &str) -> Option<Self> {
        let (engine, rest) = key.strip_prefix(KEEP_ARTIFACT)?.strip_prefix('.')?.split_once('.')?;
        Self::checked(engine, rest, None).or_else(|| {
            let (version, source) = rest.rsplit_once('.')?;
            Self::checked(engine, version, Some(source))
        })
    }

    fn checked(engine: &str, version: &str, source: Option<&str>) -> Option<Self> {
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_+".contains(c));
        let (number, fingerprint) = version.rsplit_once('-')?;
        let is_version = !number.is_empty() && number.split('.').all(plain) && is_hex(fingerprint, SHORT);
        let is_source = source.is_none_or(|source| is_hex(source, SHORT));
        (!engine.is_empty() && plain(engine) && is_version && is_source).then(|| Self {
            engine: engine.to_owned(),
            version: version.to_owned(),
            source: source.map(str::to_owned),
        })
    }

    /// Returns the claim of an artifact if it confirms this label of `anchor`; else `None`. The fingerprint must be one of this version.
    /// The source must be the anchor or, if several sources share the anchor, the one in this label.
    pub fn claim(&self, anchor: &Digest, artifact: &BlobInfo) -> Option<Claim> {
        let fingerprint = artifact.labels.get(&self.plain())?;
        let (_, short) = self.version.rsplit_once('-')?;
        if !is_hex(fingerprint, 64) || !fingerprint.starts_with(short) {
            return None;
        }
        let names_source = |(key, value): (&String, &String)| {
            let source: Digest = value.parse().ok()?;
            (key == SOURCE || *key == further_source(&source)).then_some(source)
        };
        let source = artifact.labels.iter().filter_map(names_source).find(|source| match &self.source {
            Some(short) => source.short() == short,
            None => source == anchor,
        })?;
        Some(Claim { source, fingerprint: fingerprint.clone() })
    }
}

/// Returns the key of the label with which an artifact names a further source that compiled to the same bytes.
pub(super) fn further_source(source: &Digest) -> String {
    format!("{FURTHER_SOURCE}/{}", source.hex())
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(source: Option<&str>) -> AnchorLabel {
        let (engine, version) = ("wasmtime".to_owned(), "48.0.8-0123456789ab".to_owned());
        AnchorLabel { engine, version, source: source.map(str::to_owned) }
    }

    /// A written key parses to the same parts, with and without a source.
    #[test]
    fn comes_back() {
        for label in [label(None), label(Some("ba9876543210"))] {
            assert_eq!(AnchorLabel::parse_leading(&label.leading()), Some(label.clone()));
            assert_eq!(AnchorLabel::parse_keeping(&label.keeping()), Some(label.clone()));
        }
    }

    /// Similar keys of other programs are not parsed.
    #[test]
    fn others_are_not_ours() {
        for rest in
            ["", "wasmtime", "wasmtime/", "wasmtime/48.0.8", "wasmtime/-0123456789ab", "wasmtime/1-0123456789AB"]
        {
            assert_eq!(AnchorLabel::parse_leading(&format!("{SOURCE}/{rest}")), None, "{rest}");
        }
        for rest in ["a/1-0123456789ab/xyz", "a/1-0123456789ab/0123456789ab/c", "../1-0123456789ab", "/1-0123456789ab"]
        {
            assert_eq!(AnchorLabel::parse_leading(&format!("{SOURCE}/{rest}")), None, "{rest}");
        }
        assert_eq!(AnchorLabel::parse_leading("runwasi.io/precompiled-from/wasmtime/1-0123456789ab"), None);
        for rest in ["", ".wasmtime", ".wasmtime.48.0.8", ".0", "s.wasmtime.1-0123456789ab"] {
            assert_eq!(AnchorLabel::parse_keeping(&format!("{KEEP_ARTIFACT}{rest}")), None, "{rest}");
        }
    }

    /// An artifact confirms a label only if its source and its fingerprint match the label.
    #[test]
    fn claims_are_checked() {
        let (anchor, other) = (Digest::of(b"anchor"), Digest::of(b"other"));
        let fingerprint = format!("0123456789ab{}", "0".repeat(52));
        let blob = |source: &Digest, fingerprint: &str| BlobInfo {
            digest: Digest::of(b"code"),
            size: 4,
            labels: [(SOURCE, source.as_str()), (&label(None).plain(), fingerprint)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            created: None,
        };
        let claim = |source: &Digest| Some(Claim { source: source.clone(), fingerprint: fingerprint.clone() });
        assert_eq!(label(None).claim(&anchor, &blob(&anchor, &fingerprint)), claim(&anchor));
        assert_eq!(label(None).claim(&anchor, &blob(&other, &fingerprint)), None);
        assert_eq!(label(None).claim(&anchor, &blob(&anchor, &"f".repeat(64))), None);
        assert_eq!(label(None).claim(&anchor, &blob(&anchor, "0123456789ab")), None);
        assert_eq!(label(Some(other.short())).claim(&anchor, &blob(&other, &fingerprint)), claim(&other));
        assert_eq!(label(Some(other.short())).claim(&anchor, &blob(&anchor, &fingerprint)), None);
        let mut both = blob(&other, &fingerprint);
        both.labels.insert(further_source(&anchor), anchor.to_string());
        assert_eq!(label(None).claim(&anchor, &both), claim(&anchor));
    }
}
