//! What an image's config says about the process in its container. Only whoever plays the container runtime reads it.

use serde::{Deserialize, Deserializer};

use super::{Image, Resolver};
use crate::ImageError;
use prewasi_cache::ContentStore;

/// How a container of an image starts, by its config. CNCF wasm artifacts say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Process {
    /// Program and first arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or all of them if there is no entrypoint.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Environment, `NAME=VALUE`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: Option<String>,
}

/// Builders write `null` for what is not there.
fn or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
struct Config {
    config: Option<Process>,
}

impl Image {
    /// Reads how a container of this image starts.
    ///
    /// # Errors
    /// [`ImageError`] if the config is gone or malformed.
    pub async fn process(&self, store: &dyn ContentStore) -> Result<Process, ImageError> {
        let resolver = Resolver::new(store, &self.name, None);
        let config: Config = resolver.document("config", &self.config).await?;
        Ok(config.config.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Process {
        serde_json::from_str::<Config>(json).expect("a config").config.unwrap_or_default()
    }

    /// A config without a process, or with nulls in it, as builders and artifacts have it, says nothing.
    #[test]
    fn nothing_said() {
        for json in ["{}", r#"{"config": null}"#, r#"{"config": {"Entrypoint": null, "Cmd": null, "Env": null}}"#] {
            assert_eq!(parsed(json), Process::default(), "{json}");
        }
    }

    /// The four fields are read, others are passed over.
    #[test]
    fn fields() {
        let json =
            r#"{"config": {"Entrypoint": ["a"], "Cmd": ["b"], "Env": ["C=d"], "WorkingDir": "/e", "User": "f"}}"#;
        let process = parsed(json);
        assert_eq!((process.entrypoint, process.cmd), (vec!["a".to_owned()], vec!["b".to_owned()]));
        assert_eq!((process.env, process.working_dir), (vec!["C=d".to_owned()], Some("/e".to_owned())));
    }
}
