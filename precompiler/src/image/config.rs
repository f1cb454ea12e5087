//! What a config says an image is for, and what its wasm imports.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::WASM_SYSTEMS;

/// What an image is for: what is read of a config (CNCF wasm artifacts share these two fields with ordinary images), or
/// what somebody asks for as `os/architecture`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `wasip1` or `linux`, for example.
    #[serde(default)]
    pub os: String,
    /// `wasm` or `amd64`, for example.
    #[serde(default)]
    pub architecture: String,
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

impl Platform {
    pub(super) fn is_wasm(&self) -> bool {
        self.architecture == "wasm" || WASM_SYSTEMS.contains(&self.os.as_str())
    }
}

/// What is read of a config to see what an image holds.
#[derive(Deserialize)]
pub(super) struct Config {
    #[serde(flatten)]
    pub(super) platform: Platform,
    /// What a component imports and exports. Anything may stand here in a config that is no artifact's.
    #[serde(default)]
    component: serde_json::Value,
    /// What an image says of its process. Anything may stand here in a config that is no image's.
    #[serde(default)]
    config: serde_json::Value,
}

impl Config {
    /// Returns what the `component` of an artifact's config names as imports. What is no name is passed over.
    pub(super) fn imports(&self) -> Vec<String> {
        let names = self.component["imports"].as_array().into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Returns the signal that stops a container of the image, by name or number, if its config says one.
    pub(super) fn stop_signal(&self) -> Option<String> {
        self.config["StopSignal"].as_str().filter(|signal| !signal.is_empty()).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Config {
        serde_json::from_str(json).expect("a config")
    }

    /// The imports of a component are read in their order.
    #[test]
    fn imports_are_read() {
        let json = r#"{"os": "wasip2", "architecture": "wasm", "created": "", "layerDigests": [],
            "component": {"exports": ["a:b/c"], "imports": ["wasi:io/poll@0.2.0", "log"], "target": null}}"#;
        let config = parsed(json);
        assert_eq!(config.imports(), ["wasi:io/poll@0.2.0", "log"]);
        assert!(config.platform.is_wasm());
    }

    /// The signal that stops a container is read, and whatever else stands in its place is none.
    #[test]
    fn stop_signals_are_read() {
        let signal = |json: &str| parsed(json).stop_signal();
        assert_eq!(signal(r#"{"config": {"StopSignal": "SIGINT"}}"#), Some("SIGINT".to_owned()));
        for json in ["{}", r#"{"config": null}"#, r#"{"config": []}"#, r#"{"config": {"StopSignal": ""}}"#] {
            assert_eq!(signal(json), None, "{json}");
        }
        assert_eq!(signal(r#"{"config": {"StopSignal": 15}}"#), None);
    }

    /// Whatever else stands there makes no config unreadable.
    #[test]
    fn odd_imports_are_passed_over() {
        for component in ["null", "1", "\"x\"", "[]", "{}", r#"{"imports": null}"#, r#"{"imports": {"a": ["b"]}}"#] {
            assert_eq!(
                parsed(&format!(r#"{{"component": {component}}}"#)).imports(),
                Vec::<String>::new(),
                "{component}"
            );
        }
        assert_eq!(parsed(r#"{"component": {"imports": [1, "a:b/c", null, ["d"]]}}"#).imports(), ["a:b/c"]);
        assert_eq!(parsed("{}").imports(), Vec::<String>::new());
    }
}
