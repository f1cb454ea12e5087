//! The process settings in an image's config. Only `prewasi run`, which plays the container runtime, reads them.

use serde::{Deserialize, Deserializer};

use super::{Image, Resolver};
use crate::ImageError;
use prewasi_cache::ContentStore;

/// The process settings of an image's config. A CNCF wasm artifact has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageProcess {
    /// Program and first arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Further arguments; without an entrypoint, the program and all arguments.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Environment, `NAME=VALUE`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: Option<String>,
}

/// Builders write `null` for a missing list.
fn or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
struct Config {
    config: Option<ImageProcess>,
}

impl Image {
    /// Reads the process settings of this image.
    ///
    /// # Errors
    /// [`ImageError`] if the config is missing or malformed.
    pub async fn process(&self, store: &dyn ContentStore) -> Result<ImageProcess, ImageError> {
        let resolver = Resolver::new(store, &self.name, None);
        let config: Config = resolver.document("config", &self.config).await?;
        Ok(config.config.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> ImageProcess {
        serde_json::from_str::<Config>(json).expect("a config").config.unwrap_or_default()
    }

    /// A config without process settings, or with nulls in them, as builders and artifacts write it, has no settings.
    #[test]
    fn nothing_said() {
        for json in ["{}", r#"{"config": null}"#, r#"{"config": {"Entrypoint": null, "Cmd": null, "Env": null}}"#] {
            assert_eq!(parsed(json), ImageProcess::default(), "{json}");
        }
    }

    /// The four fields are read, others are skipped.
    #[test]
    fn fields() {
        let json =
            r#"{"config": {"Entrypoint": ["a"], "Cmd": ["b"], "Env": ["C=d"], "WorkingDir": "/e", "User": "f"}}"#;
        let process = parsed(json);
        assert_eq!((process.entrypoint, process.cmd), (vec!["a".to_owned()], vec!["b".to_owned()]));
        assert_eq!((process.env, process.working_dir), (vec!["C=d".to_owned()], Some("/e".to_owned())));
    }
}
