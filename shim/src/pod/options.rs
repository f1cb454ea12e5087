//! Merges the options of one container: the node's, those of its runtime, its annotations.
//!
//! containerd passes the options of a runtime, from its configuration or from a client, in the request to create a container. They are a
//! message of the type `runtimeoptions.v1.Options`: the path of a file, else a document. CRI makes the document from the table `options`
//! in the runtime's section. Options for [runc] are parsed as well.

mod runc;

use std::path::PathBuf;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedInputStream, Error as ProtobufError, Message as _};
use libcontainer::oci_spec::runtime::Spec;
use prewasi_precompiler::{Options, OptionsError, Place};
use serde::{Deserialize, Serialize};

pub(crate) use runc::Runc;

/// The type of this shim's own options.
const TYPE: &str = "runtimeoptions.v1.Options";

/// The runtime options of a request.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuntimeOptions {
    /// Name of the message's type; empty without options.
    pub(crate) type_url: String,
    /// The encoded message.
    pub(crate) value: Vec<u8>,
}

/// The reason why a container has no options.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerOptionsError {
    #[error("cannot use the options of the runtime: they are of type {found}, not {TYPE} or {}", runc::OPTIONS)]
    Type { found: String },
    #[error("cannot use the options of the runtime: they are malformed")]
    Malformed(#[source] ProtobufError),
    #[error("cannot use the options of the runtime: {name} has a value of another type than runc's option")]
    Value { name: String },
    #[error("cannot use the options of the runtime: they are not UTF-8")]
    NotUtf8(#[source] std::string::FromUtf8Error),
    #[error(transparent)]
    Options(#[from] OptionsError),
}

impl RuntimeOptions {
    /// Merges all layers.
    ///
    /// # Errors
    /// [`ContainerOptionsError`] names the layer and the mistake in it.
    pub(crate) fn of_container(&self, spec: &Spec) -> Result<Options, ContainerOptionsError> {
        let mut options = self.of_runtime()?;
        options.set_annotations(spec.annotations().iter().flatten())?;
        Ok(options)
    }

    /// Reads the options for runc.
    ///
    /// # Errors
    /// [`ContainerOptionsError`], if the message cannot be read.
    pub(crate) fn for_runc(&self) -> Result<Runc, ContainerOptionsError> {
        match name(&self.type_url) {
            name @ (runc::OPTIONS | runc::CREATE_OPTIONS) => {
                runc::read(name, &self.value).map_err(ContainerOptionsError::Malformed)
            }
            _ => {
                // A file has no options of runc. The code that reads the other options reports the mistakes of the document.
                let (_, text) = self.decode()?;
                let table: toml::Table = text.parse().unwrap_or_default();
                runc::read_table(&table).map_err(|name| ContainerOptionsError::Value { name })
            }
        }
    }

    /// Parses the standard input of `start` as options; without any, the result is empty.
    pub(crate) fn from_input(input: &[u8]) -> Self {
        let any = Any::parse_from_bytes(input).ok().filter(|any| is_known(&any.type_url));
        any.map(Self::from).unwrap_or_default()
    }

    /// Returns whether the options have the shim's own type.
    pub(crate) fn is_known(&self) -> bool {
        is_known(&self.type_url)
    }

    /// Returns the log level in the options of node and runtime. An error in them is ignored here: the creation of the container reports
    /// it.
    pub(crate) fn log_level(&self) -> Option<tracing::Level> {
        self.of_runtime().or_else(|_| Ok::<_, ContainerOptionsError>(Options::of_node()?)).ok()?.log_level
    }

    fn of_runtime(&self) -> Result<Options, ContainerOptionsError> {
        let mut options = Options::of_node()?;
        match self.decode()? {
            (path, _) if !path.as_os_str().is_empty() => options.set_file(path)?,
            (_, text) => options.set_toml(&text, &Place::Runtime)?,
        }
        Ok(options)
    }

    /// Decodes path and document from the message.
    fn decode(&self) -> Result<(PathBuf, String), ContainerOptionsError> {
        if self.type_url.is_empty() && self.value.is_empty() {
            return Ok((PathBuf::new(), String::new()));
        }
        match name(&self.type_url) {
            TYPE => {}
            runc::OPTIONS | runc::CREATE_OPTIONS => return Ok((PathBuf::new(), String::new())),
            _ => return Err(ContainerOptionsError::Type { found: self.type_url.clone() }),
        }
        let (path, body) = fields(&self.value).map_err(ContainerOptionsError::Malformed)?;
        Ok((path.into(), String::from_utf8(body).map_err(ContainerOptionsError::NotUtf8)?))
    }
}

fn is_known(type_url: &str) -> bool {
    [TYPE, runc::OPTIONS, runc::CREATE_OPTIONS].contains(&name(type_url))
}

/// Returns the name of a type, without the prefix of its URL.
fn name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// Decodes fields 2, `config_path`, and 3, `config_body`. Field 1 names the type of the document, which is always TOML.
fn fields(message: &[u8]) -> Result<(String, Vec<u8>), ProtobufError> {
    const PATH: u32 = 2 << 3 | 2;
    const BODY: u32 = 3 << 3 | 2;
    let mut input = CodedInputStream::from_bytes(message);
    let (mut path, mut body) = Default::default();
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            PATH => path = input.read_string()?,
            BODY => body = input.read_bytes()?,
            other => containerd_shim_protos::protobuf::rt::skip_field_for_tag(other, &mut input)?,
        }
    }
    Ok((path, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(type_url: &str, value: &[u8]) -> Result<(PathBuf, String), ContainerOptionsError> {
        RuntimeOptions { type_url: type_url.to_owned(), value: value.to_vec() }.decode()
    }

    /// Path and document are found among all fields of a message; without a message there are no options.
    #[test]
    fn messages_are_read() {
        assert_eq!(decode("", b"").unwrap(), (PathBuf::new(), String::new()));
        let message = b"\x0a\x01t\x12\x02/p\x1a\x05a = 1\x20\x07";
        assert_eq!(decode(TYPE, message).unwrap(), ("/p".into(), "a = 1".to_owned()));
        assert!(decode(&format!("type.googleapis.com/{TYPE}"), b"").is_ok());
    }

    /// Options for runc are no document, and the owner of the streams is read from them.
    #[test]
    fn options_for_runc_are_understood() {
        for (kind, value) in [(runc::OPTIONS, b"\x20\x05"), (runc::CREATE_OPTIONS, b"\x50\x05")] {
            assert_eq!(decode(kind, value).unwrap(), (PathBuf::new(), String::new()));
            let options = RuntimeOptions { type_url: kind.to_owned(), value: value.to_vec() };
            assert_eq!(options.for_runc().unwrap().owner, (Some(5), None));
        }
        assert_eq!(RuntimeOptions::default().for_runc().unwrap(), Runc::default());
    }

    /// Another type, a malformed message and invalid text are refused, each with its reason.
    #[test]
    fn others_are_refused() {
        let error = decode("containerd.other.v1.Options", b"").unwrap_err();
        assert!(
            error.to_string().contains("of type containerd.other.v1.Options, not runtimeoptions.v1.Options"),
            "{error}"
        );
        assert!(matches!(decode(TYPE, b"\x1a\x7f"), Err(ContainerOptionsError::Malformed(_))));
        assert!(matches!(decode(TYPE, b"\x1a\x01\xff"), Err(ContainerOptionsError::NotUtf8(_))));
    }
}
