//! Platforms of images: an operating system and an architecture.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The architecture of wasm.
const WASM: &str = "wasm";
/// The operating systems of wasm: `wasi` without a version of WASI, and the versioned ones.
const WASM_SYSTEMS: [&str; 3] = ["wasi", "wasip1", "wasip2"];

/// The platform of an image. The config of an image or CNCF wasm artifact names it, and so does an index entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `wasm` or `amd64`, for example.
    #[serde(default)]
    pub architecture: String,
    /// `wasip1` or `linux`, for example.
    #[serde(default)]
    pub os: String,
}

impl Platform {
    /// Returns the wasm platform for an operating system such as `wasip1`.
    pub fn wasm(os: &str) -> Self {
        Self { architecture: WASM.to_owned(), os: os.to_owned() }
    }

    /// Returns the platform of native programs for this machine, in OCI's spelling.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned() }
    }

    /// Returns whether a config with this platform is one for wasm. Builders sometimes omit one of the two parts, so one suffices.
    pub fn says_wasm(&self) -> bool {
        self.architecture == WASM || WASM_SYSTEMS.contains(&self.os.as_str())
    }

    /// Returns whether an index entry for this platform is the one for wasm. Another entry may match in its architecture alone, so both
    /// parts must match.
    pub fn is_wasm(&self) -> bool {
        self.architecture == WASM && WASM_SYSTEMS.contains(&self.os.as_str())
    }
}

impl FromStr for Platform {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((os, architecture)) if !os.is_empty() && !architecture.is_empty() && !architecture.contains('/') => {
                Ok(Self { os: os.to_owned(), architecture: architecture.to_owned() })
            }
            _ => Err("expected OS/ARCHITECTURE, such as wasip1/wasm"),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    /// A platform has two parts, and is displayed as it was written.
    #[test]
    fn parses() {
        assert_eq!(platform("wasip1/wasm"), Platform::wasm("wasip1"));
        assert_eq!(Platform::wasm("wasip1").to_string(), "wasip1/wasm");
        for odd in ["", "wasm", "/wasm", "wasi/", "linux/arm/v7"] {
            assert!(odd.parse::<Platform>().is_err(), "{odd}");
        }
    }

    /// For a config one of the two parts suffices; an index entry needs both.
    #[test]
    fn wasm() {
        for (text, says, is) in [
            ("wasi/wasm", true, true),
            ("wasip2/wasm", true, true),
            ("linux/wasm", true, false),
            ("wasip1/amd64", true, false),
            ("linux/amd64", false, false),
            ("wasip1x/wasm32", false, false),
        ] {
            assert_eq!((platform(text).says_wasm(), platform(text).is_wasm()), (says, is), "{text}");
        }
        assert!(!Platform::host().says_wasm());
    }
}
