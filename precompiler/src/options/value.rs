//! Values of options: from TOML or the text of an annotation to the typed value. Each error names the expected form.
//!
//! The crates for sizes and durations (`bytesize`, `humantime`) take several spellings of one value, and units of a thousand beside those
//! of 1024. An option has one spelling, so that two nodes never read two values.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use toml::Value;

/// Folders that a wasm program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preopens {
    /// The container's root, with all its mounts.
    Root,
    /// The container's root with all its mounts, read-only.
    ReadOnly,
    /// The container's mounts, without its root.
    Mounts,
    /// No folders.
    None,
}

/// Parses one of a few words.
pub(super) fn choice<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, String> {
    let found = value.as_str().and_then(|text| choices.iter().find(|(word, _)| *word == text));
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("expected one of {}", words.join(", "))
    })
}

/// Parses `none`, or a value.
pub(super) fn or_none<T>(value: &Value, read: fn(&Value) -> Result<T, String>) -> Result<Option<T>, String> {
    match value.as_str() {
        Some("none") => Ok(None),
        _ => read(value).map(Some).map_err(|expected| format!("{expected}, or \"none\"")),
    }
}

/// Parses a size in bytes: a whole number, perhaps with a unit.
pub(super) fn size(value: &Value) -> Result<u64, String> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let wrong = || "expected bytes, or a whole number with KiB, MiB, GiB or TiB, such as \"64MiB\"".to_owned();
    let (number, shift) = match value {
        Value::Integer(bytes) => return u64::try_from(*bytes).ok().filter(|bytes| *bytes > 0).ok_or_else(wrong),
        Value::String(text) => {
            let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
            unit.unwrap_or((text, 0))
        }
        _ => return Err(wrong()),
    };
    whole(number).and_then(|number| number.checked_mul(1 << shift)).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// Parses a duration that is not zero.
pub(super) fn time(value: &Value) -> Result<Duration, String> {
    let read = value.as_str().and_then(duration).filter(|duration| !duration.is_zero());
    read.ok_or_else(|| "expected a whole number with ms, s, m, h, d or w, such as \"30s\"".to_owned())
}

/// Parses a whole number above 0.
pub(super) fn count(value: &Value) -> Result<usize, String> {
    let read = value.as_integer().and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0);
    read.ok_or_else(|| "expected a whole number above 0".to_owned())
}

/// Parses a whole number above 0, also as text.
pub(super) fn number(value: &Value) -> Result<u64, String> {
    let number = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::String(text) => whole(text),
        _ => None,
    };
    number.filter(|number| *number > 0).ok_or_else(|| "expected a whole number above 0".to_owned())
}

/// Parses a whole number above 0 that fits into 32 bits.
pub(super) fn small(value: &Value) -> Result<u32, String> {
    const MOST: u32 = 10_000;
    let read = number(value).ok().and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= MOST);
    read.ok_or_else(|| format!("expected a whole number from 1 to {MOST}"))
}

/// Parses yes or no.
pub(super) fn yes(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(yes) => Some(*yes),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| "expected true or false".to_owned())
}

/// Parses a list of words, or a text with commas; `none` is an empty list.
pub(super) fn list(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || "expected a list of names, such as [\"-gc\"]".to_owned();
    let words: Vec<&str> = match value {
        Value::String(text) if text == "none" => Vec::new(),
        Value::String(text) => text.split(',').map(str::trim).collect(),
        Value::Array(list) => list.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    let is_word =
        |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if words.iter().all(is_word) { Ok(words.into_iter().map(str::to_owned).collect()) } else { Err(wrong()) }
}

/// Parses an address with a port; a port alone means all addresses.
pub(super) fn address(value: &Value) -> Result<SocketAddr, String> {
    let port = |port: u16| (port > 0).then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let read = match value {
        Value::Integer(number) => u16::try_from(*number).ok().and_then(port),
        Value::String(text) => text.parse().ok().and_then(port).or_else(|| text.parse().ok()),
        _ => None,
    };
    read.filter(|address| address.port() > 0)
        .ok_or_else(|| "expected an address with a port, such as \"0.0.0.0:8080\", or a port".to_owned())
}

/// Parses a list of names out of `known`.
pub(super) fn names(
    value: &Value,
    known: impl Iterator<Item = &'static str> + Clone,
) -> Result<Vec<&'static str>, String> {
    let list = value.as_array().ok_or_else(|| "expected a list of names".to_owned())?;
    let name = |value: &Value| {
        let text = value.as_str().ok_or_else(|| "expected a list of names".to_owned())?;
        known.clone().find(|name| *name == text).ok_or_else(|| {
            let nearest =
                nearest(text, known.clone()).map(|nearest| format!("; the nearest one that has is {nearest:?}"));
            format!("{text:?} has no annotation{}", nearest.unwrap_or_default())
        })
    };
    list.iter().map(name).collect()
}

/// Parses a duration: a whole number and a unit.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 6] =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];
    let (number, unit) = UNITS.iter().find_map(|(unit, length)| Some((text.strip_suffix(unit)?, *length)))?;
    whole(number)?.checked_mul(unit).map(Duration::from_millis)
}

/// Parses digits and nothing else.
fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Returns the name that `name` was probably meant to be, if one of them is near.
pub(super) fn nearest(name: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // As near as `netwrok` is to `network`; `BinaryName` is no nearer than 0.6 to any option.
    const NEAR: f64 = 0.8;
    // Equal beginnings count most: users shorten a word more often than they begin it wrongly.
    let likeness = |known: &str| strsim::jaro_winkler(known, &name.to_lowercase());
    let known = names.map(|known| (likeness(known), known)).max_by(|one, other| one.0.total_cmp(&other.0));
    known.filter(|(likeness, _)| *likeness >= NEAR).map(|(_, known)| known)
}
