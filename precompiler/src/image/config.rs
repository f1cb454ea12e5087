//! What a config says an image is for, and what its wasm imports.

use prewasi_oci::Platform;
use serde::Deserialize;

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
