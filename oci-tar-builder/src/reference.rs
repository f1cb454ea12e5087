//! Image references such as `localhost:5000/a/b:v1`, read the way containerd and Docker read them.
//!
//! A parsed reference is always complete: it has a registry and a valid repository path. So containerd lists the image under the very name
//! that the archive contains.

use std::fmt;
use std::str::FromStr;

/// The registry of a reference that names none.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Another name of the same registry.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where the default registry keeps names without a folder.
const OFFICIAL: &str = "library/";
/// The longest name that registries take.
const LONGEST_NAME: usize = 255;
/// The longest tag that registries take.
const LONGEST_TAG: usize = 128;

/// Names an image: registry, repository path, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Says why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot use reference {:?}: {problem}", shorten(.reference))]
pub struct ReferenceError {
    /// The text.
    pub reference: String,
    /// The problem with the text.
    pub problem: Problem,
}

/// The reason why a text is no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There is no name.
    #[error("the name is missing")]
    NoName,
    /// The part before the first slash is no host with an optional port.
    #[error("the registry is no valid host or host:port")]
    Domain,
    /// The repository path has a capital letter.
    #[error("the name must be lower case")]
    UpperCase,
    /// The repository path has other letters than allowed, or separators where none may be.
    #[error("the name may have lower-case letters and digits, and single separators (. _ __ - /) between them")]
    Path,
    /// Registry and path together are too long.
    #[error("the name is longer than {LONGEST_NAME} characters")]
    TooLong,
    /// The name has the form of a digest, which engines read as an image id.
    #[error("a name of 64 hex digits reads as an image id")]
    LooksLikeId,
    /// The part after the colon is no tag.
    #[error("a tag has up to {LONGEST_TAG} letters, digits and . _ - and begins with no . or -")]
    Tag,
    /// The part after the `@` is no digest.
    #[error("expected a digest after @: sha256: and 64 lower-case hex digits")]
    Digest,
}

impl Reference {
    /// Returns the registry, `docker.io` for example.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the repository path within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the last component of the path.
    pub fn base_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Returns the tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, algorithm included.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Returns the part after the name, in the form of `org.opencontainers.image.ref.name`.
    pub(crate) fn object(&self) -> String {
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}"));
        format!("{}{}", self.tag.as_deref().unwrap_or_default(), digest.unwrap_or_default())
    }

    /// Gives a tag to a reference, in the place of the one that it has.
    ///
    /// # Errors
    /// [`Problem::Tag`]
    pub fn with_tag(mut self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError { reference: format!("{self}:{tag}"), problem: Problem::Tag });
        }
        self.tag = Some(tag.to_owned());
        Ok(self)
    }

    /// Gives the tag `latest` to a reference that has neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError { reference: text.to_owned(), problem })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference, Problem> {
    if text.len() == 64 && text.bytes().all(is_lower_hex) {
        return Err(Problem::LooksLikeId);
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let (domain, rest) = split_domain(name);
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err(Problem::NoName);
    }
    if !is_domain(domain) {
        return Err(Problem::Domain);
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Problem::UpperCase);
    }
    if !path.split('/').all(is_path_component) {
        return Err(Problem::Path);
    }
    let official = domain == DEFAULT_DOMAIN && !path.contains('/');
    let path = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
    if domain.len() + 1 + path.len() > LONGEST_NAME {
        return Err(Problem::TooLong);
    }
    if !tag.is_none_or(is_tag) {
        return Err(Problem::Tag);
    }
    if !digest.is_none_or(is_digest) {
        return Err(Problem::Digest);
    }
    Ok(Reference { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
}

/// Tells the registry from the first folder of a path. A folder has no dot, colon or capital letter; `localhost` is
/// always a registry.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let valid = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            if !valid {
                return false;
            }
            (None, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("")) })
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    host.is_none_or(|host| host.split('.').all(is_host_label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Letters and digits, joined by one dot, one or two underscores, or any number of hyphens.
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_in_words = bytes.first().copied().is_some_and(is_word) && bytes.last().copied().is_some_and(is_word);
    ends_in_words
        && bytes
            .split(|&b| is_word(b))
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(is_lower_hex)
}

fn is_lower_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

/// Keeps an error readable when somebody hands in a book.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 100;
    if text.chars().nth(SHOWN).is_none() {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests;
