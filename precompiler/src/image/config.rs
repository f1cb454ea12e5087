//! The relevant parts of a config: the platform, and the imports of its wasm.

use prewasi_oci::Platform;
use serde::Deserialize;

/// The parts of a config that the content of an image depends on.
#[derive(Deserialize)]
pub(super) struct Config {
    #[serde(flatten)]
    pub(super) platform: Platform,
    /// Imports and exports of a component. In a config that is not an artifact's this may be any value.
    #[serde(default)]
    component: serde_json::Value,
    /// The process settings of an image. In a config that is not an image's this may be any value.
    #[serde(default)]
    config: serde_json::Value,
}

impl Config {
    /// Returns the imports in the `component` of an artifact's config. A value that is no name is skipped.
    pub(super) fn imports(&self) -> Vec<String> {
        let names = self.component["imports"].as_array().into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Returns the signal that stops a container of the image, by name or number, if the config names one.
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

    /// The signal that stops a container is read; a value of another type counts as none.
    #[test]
    fn stop_signals_are_read() {
        let signal = |json: &str| parsed(json).stop_signal();
        assert_eq!(signal(r#"{"config": {"StopSignal": "SIGINT"}}"#), Some("SIGINT".to_owned()));
        for json in ["{}", r#"{"config": null}"#, r#"{"config": []}"#, r#"{"config": {"StopSignal": ""}}"#] {
            assert_eq!(signal(json), None, "{json}");
        }
        assert_eq!(signal(r#"{"config": {"StopSignal": 15}}"#), None);
    }

    /// Values of other types do not make a config unreadable.
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
