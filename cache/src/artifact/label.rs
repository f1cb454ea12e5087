//! The keys of the labels by which artifacts are found and kept, with engine and version in them.

use crate::labels::{FURTHER_SOURCE, KEEP_ARTIFACT, SOURCE};
use crate::{BlobInfo, Digest};

/// How many digits of a digest or a fingerprint stand in a label's key.
const SHORT: usize = 12;

/// What the keys of the labels on an anchor say: which engine and version, and of several sources, which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnchorLabel {
    /// Name of the engine.
    pub engine: String,
    /// `<engine version>-<first 12 hex digits of the fingerprint>`.
    pub version: String,
    /// First 12 hex digits of the source, where the anchor is not the source.
    pub source: Option<String>,
}

/// What an artifact says of itself by its own labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What it was compiled from.
    pub source: Digest,
    /// Full fingerprint, 64 hex digits.
    pub fingerprint: String,
}

impl AnchorLabel {
    /// Returns the key of the artifact's own label, and of image records.
    pub fn plain(&self) -> String {
        format!("{SOURCE}/{}/{}", self.engine, self.version)
    }

    /// Returns the key of the label that leads to the artifact.
    pub fn leading(&self) -> String {
        match &self.source {
            Some(source) => format!("{}/{source}", self.plain()),
            None => self.plain(),
        }
    }

    /// Returns the key of the label that keeps containerd's collector from the artifact.
    pub fn keeping(&self) -> String {
        let label = format!("{KEEP_ARTIFACT}.{}.{}", self.engine, self.version);
        match &self.source {
            Some(source) => format!("{label}.{source}"),
            None => label,
        }
    }

    /// Says whether a key has the beginning of a leading label, be it well formed or not.
    pub fn is_leading(key: &str) -> bool {
        key.strip_prefix(SOURCE).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Says whether a key has the beginning of a keeping label.
    pub fn is_keeping(key: &str) -> bool {
        key.strip_prefix(KEEP_ARTIFACT).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Reads the key of a leading label; `None` if we would not have written it so.
    pub fn parse_leading(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(SOURCE)?.strip_prefix('/')?.split('/');
        let (engine, version, source) = (parts.next()?, parts.next()?, parts.next());
        (parts.next().is_none()).then(|| Self::checked(engine, version, source)).flatten()
    }

    /// Reads the key of a keeping label; `None` if we would not have written it so.
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

    /// Returns what an artifact's own labels say, if they bear this label of `anchor` out: a fingerprint of this
    /// version, and a source that is the anchor or, where several share an anchor, the one that this label means.
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

/// The label by which an artifact names a further source that compiled to the very same bytes.
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

    /// What is written is read back, with and without a source in the key.
    #[test]
    fn comes_back() {
        for label in [label(None), label(Some("ba9876543210"))] {
            assert_eq!(AnchorLabel::parse_leading(&label.leading()), Some(label.clone()));
            assert_eq!(AnchorLabel::parse_keeping(&label.keeping()), Some(label.clone()));
        }
    }

    /// Keys that other programs may have written in the same place are not ours.
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

    /// An artifact bears a label out only if its source and its fingerprint are those that the label means.
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
