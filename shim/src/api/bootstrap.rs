//! The parameters that containerd passes to a new shim, and the form of the shim's answer. Three conventions are in use.
//!
//! - containerd 1.7: flags and environment; the answer is the bare address, which means task API version 2.
//! - containerd 2.0 to 2.2: the same call, with the same `MAX_SHIM_VERSION=2`, although they speak version 3. Only containerd's own
//!   version distinguishes them. The answer is JSON.
//! - containerd 2.3 and later: a `BootstrapParams` message on standard input; the answer is a `BootstrapResult`.
//!
//! containerd 2.0 to 2.2 write runtime options to standard input, not bootstrap parameters.

use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use containerd_shim_protos::protobuf::{Error as ProtobufError, Message};
use serde_json::{Value, json};
use tracing::Level;

use crate::api::args::Flags;
use crate::pod::options::RuntimeOptions;

/// The newest version of the task API that this shim speaks.
const NEWEST: u32 = 3;
/// The version of the task API of a containerd that does not name one.
const OLDEST: u32 = 2;

/// Upper limit for input on standard input, in bytes; containerd uses the same limit.
pub(crate) const INPUT_MAX: u64 = 10 << 20;

/// The form in which `start` returns the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The address alone.
    Address,
    /// A JSON object with this version of the task API.
    Json(u32),
    /// A `BootstrapResult` in protobuf's binary form.
    Protobuf,
}

/// All that containerd passed to this `start`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    /// The form of the answer.
    pub(crate) reply: Reply,
    /// Socket on which containerd receives events.
    pub(crate) ttrpc_address: String,
    /// Folder for the daemon's socket, if containerd names one.
    pub(crate) socket_dir: Option<PathBuf>,
    /// The log level that containerd wants of shims.
    pub(crate) level: Level,
    /// The options of the runtime.
    pub(crate) options: RuntimeOptions,
}

/// The reason why containerd's standard input cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error("cannot use bootstrap parameters: they are for {found}, not for {expected}")]
    ForAnother { found: String, expected: String },
    #[error("cannot write the bootstrap result")]
    Encode(#[source] ProtobufError),
}

impl Bootstrap {
    /// Reads standard input. Without bootstrap parameters there, the environment counts.
    ///
    /// # Errors
    /// [`BootstrapError::ForAnother`] if the parameters are meant for another shim.
    pub(crate) fn read(
        input: &[u8],
        flags: &Flags,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BootstrapError> {
        match params(input, flags)? {
            Some(params) => Ok(Self {
                level: flags.level_besides(level_of(params.log_level.value())),
                options: options_of(&params),
                reply: Reply::Protobuf,
                ttrpc_address: params.containerd_ttrpc_address,
                socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
            }),
            None => Ok(Self {
                reply: reply_for(environment("MAX_SHIM_VERSION").as_deref()),
                ttrpc_address: environment("TTRPC_ADDRESS").unwrap_or_default(),
                socket_dir: None,
                level: flags.level(),
                options: RuntimeOptions::from_input(input),
            }),
        }
    }
}

impl Reply {
    /// Chooses the newest version that this containerd speaks, unless containerd has named one.
    pub(crate) fn for_containerd(self, version: impl FnOnce() -> Option<String>) -> Self {
        let major = |version: String| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        match self {
            Self::Address if version().and_then(major).is_some_and(|major| major >= 2) => Self::Json(NEWEST),
            reply => reply,
        }
    }

    /// Writes the address in this form.
    ///
    /// # Errors
    /// [`BootstrapError::Encode`] if protobuf refuses.
    pub(crate) fn encode(self, address: &str) -> Result<Vec<u8>, BootstrapError> {
        match self {
            Self::Address => Ok(address.as_bytes().to_vec()),
            Self::Json(version) => {
                let result: Value = json!({ "version": version, "address": address, "protocol": "ttrpc" });
                Ok(result.to_string().into_bytes())
            }
            Self::Protobuf => BootstrapResult {
                version: NEWEST.cast_signed(),
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            }
            .write_to_bytes()
            .map_err(BootstrapError::Encode),
        }
    }
}

/// Returns the nearest log level. containerd's levels are numbers with gaps between the named ones.
fn level_of(wanted: i32) -> Level {
    let levels = [
        (LogLevel::LOG_LEVEL_TRACE, Level::TRACE),
        (LogLevel::LOG_LEVEL_DEBUG, Level::DEBUG),
        (LogLevel::LOG_LEVEL_INFO, Level::INFO),
        (LogLevel::LOG_LEVEL_WARN, Level::WARN),
        (LogLevel::LOG_LEVEL_ERROR, Level::ERROR),
    ];
    let nearest = levels.into_iter().min_by_key(|(level, _)| wanted.abs_diff(*level as i32));
    nearest.map_or(Level::INFO, |(_, level)| level)
}

/// Finds the runtime options among the bootstrap parameters.
fn options_of(params: &BootstrapParams) -> RuntimeOptions {
    let said = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
    said.cloned().map(RuntimeOptions::from).find(RuntimeOptions::is_known).unwrap_or_default()
}

fn reply_for(max_version: Option<&str>) -> Reply {
    match max_version.and_then(|version| version.parse::<u32>().ok()).unwrap_or(OLDEST).min(NEWEST) {
        OLDEST => Reply::Address,
        version => Reply::Json(version),
    }
}

fn params(input: &[u8], flags: &Flags) -> Result<Option<BootstrapParams>, BootstrapError> {
    if input.is_empty() {
        return Ok(None);
    }
    let Ok(params) = BootstrapParams::parse_from_bytes(input) else { return Ok(None) };
    if params.instance_id == flags.id && params.namespace == flags.namespace {
        return Ok(Some(params));
    }
    // Runtime options, an `Any`, have the same two fields on the wire and nothing else.
    let identity = BootstrapParams {
        instance_id: params.instance_id.clone(),
        namespace: params.namespace.clone(),
        ..BootstrapParams::default()
    };
    if params == identity {
        return Ok(None);
    }
    Err(BootstrapError::ForAnother {
        found: format!("{}/{}", params.namespace, params.instance_id),
        expected: format!("{}/{}", flags.namespace, flags.id),
    })
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::protobuf::well_known_types::any::Any;
    use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};

    use super::*;

    const OPTIONS: &str = "runtimeoptions.v1.Options";

    fn extension((name, value): (&str, &[u8])) -> Extension {
        let value = Any { type_url: name.into(), value: value.to_vec(), ..Any::default() };
        Extension { value: MessageField::some(value), ..Extension::default() }
    }

    /// containerd's level is mapped to the nearest log level; its debug flag can only make the log more verbose.
    #[test]
    fn levels_are_containerds() {
        let level = |level, debug| {
            let flags = Flags { debug, ..flags() };
            let params = BootstrapParams {
                instance_id: "a".into(),
                namespace: "n".into(),
                log_level: EnumOrUnknown::from_i32(level),
                ..BootstrapParams::default()
            };
            Bootstrap::read(&params.write_to_bytes().unwrap(), &flags, environment("2")).unwrap().level
        };
        for (wanted, expected) in [
            (-100, Level::TRACE),
            (-8, Level::TRACE),
            (-5, Level::DEBUG),
            (-4, Level::DEBUG),
            (0, Level::INFO),
            (1, Level::INFO),
            (4, Level::WARN),
            (8, Level::ERROR),
            (12, Level::ERROR),
        ] {
            assert_eq!(level(wanted, false), expected, "{wanted}");
        }
        assert_eq!((level(8, true), level(-8, true)), (Level::DEBUG, Level::TRACE));
    }

    fn flags() -> Flags {
        Flags { id: "a".into(), namespace: "n".into(), ..Flags::default() }
    }

    fn environment(version: &'static str) -> impl Fn(&str) -> Option<String> {
        move |name| match name {
            "MAX_SHIM_VERSION" if !version.is_empty() => Some(version.to_owned()),
            "TTRPC_ADDRESS" => Some("/c.ttrpc".to_owned()),
            _ => None,
        }
    }

    /// containerd 1.7 gets the bare address, 2.0 and later JSON with version 3.
    #[test]
    fn the_version_decides_the_reply() {
        let reply = |version| Bootstrap::read(b"", &flags(), environment(version)).unwrap().reply;
        assert_eq!(reply(""), Reply::Address);
        assert_eq!(reply("2"), Reply::Address);
        assert_eq!(reply("3"), Reply::Json(3));
        assert_eq!(reply("4"), Reply::Json(3));
        assert_eq!(Reply::Address.encode("unix:///s").unwrap(), b"unix:///s");
        let json: Value = serde_json::from_slice(&Reply::Json(3).encode("unix:///s").unwrap()).unwrap();
        assert_eq!(json, json!({ "version": 3, "address": "unix:///s", "protocol": "ttrpc" }));
    }

    /// A containerd that names no version is recognised by its own version; without one the oldest API version is used.
    #[test]
    fn containerd_is_known_by_its_version() {
        let reply = |version: Option<&str>| Reply::Address.for_containerd(|| version.map(str::to_owned));
        assert_eq!(reply(Some("2.1.9+unknown")), Reply::Json(3));
        assert_eq!(reply(Some("1.7.24~ds1")), Reply::Address);
        assert_eq!(reply(Some("unknown")), Reply::Address);
        assert_eq!(reply(None), Reply::Address);
        assert_eq!(Reply::Protobuf.for_containerd(|| panic!("it has said so")), Reply::Protobuf);
    }

    /// Runtime options on standard input are not taken for bootstrap parameters.
    #[test]
    fn options_are_not_parameters() {
        let options = Any { type_url: OPTIONS.into(), value: b"\x0a\x01x".to_vec(), ..Any::default() };
        let bootstrap = Bootstrap::read(&options.write_to_bytes().unwrap(), &flags(), environment("3")).unwrap();
        assert_eq!(bootstrap.reply, Reply::Json(3));
        assert_eq!(bootstrap.ttrpc_address, "/c.ttrpc");
        assert_eq!(bootstrap.options.type_url, OPTIONS);
    }

    /// Bootstrap parameters win over the environment and are answered in kind.
    #[test]
    fn parameters_are_used() {
        let mut params = BootstrapParams {
            instance_id: "a".into(),
            namespace: "n".into(),
            containerd_ttrpc_address: "/new.ttrpc".into(),
            log_level: EnumOrUnknown::new(LogLevel::LOG_LEVEL_DEBUG),
            socket_dir: Some("/run/s".into()),
            extensions: [("containerd.io/other", &b"\x01"[..]), (OPTIONS, b"\x1a\x01x")].map(extension).to_vec(),
            ..BootstrapParams::default()
        };
        let bootstrap = Bootstrap::read(&params.write_to_bytes().unwrap(), &flags(), environment("2")).unwrap();
        let expected = Bootstrap {
            reply: Reply::Protobuf,
            ttrpc_address: "/new.ttrpc".into(),
            socket_dir: Some("/run/s".into()),
            level: Level::DEBUG,
            options: RuntimeOptions { type_url: OPTIONS.into(), value: b"\x1a\x01x".to_vec() },
        };
        assert_eq!(bootstrap, expected);
        let result = BootstrapResult::parse_from_bytes(&Reply::Protobuf.encode("unix:///s").unwrap()).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));

        params.instance_id = "b".into();
        let other = Bootstrap::read(&params.write_to_bytes().unwrap(), &flags(), environment("2"));
        assert!(matches!(other, Err(BootstrapError::ForAnother { .. })));
    }
}
