//! containerd's calling convention: flags in the style of Go's `flag` package, then one action.

use std::ffi::OsString;
use std::path::PathBuf;

/// The command line of containerd's call.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Flags {
    /// containerd namespace.
    pub(crate) namespace: String,
    /// Path of containerd's gRPC socket.
    pub(crate) address: PathBuf,
    /// Id of the container.
    pub(crate) id: String,
    /// Path of the bundle, if it is not the working directory.
    pub(crate) bundle: Option<PathBuf>,
    /// Path of the socket that a daemon serves; set by `start`, never by containerd.
    pub(crate) socket: PathBuf,
    /// Name of the pod; set by `start`, never by containerd.
    pub(crate) pod: String,
    /// Least level of the log from the options of node and runtime; set by `start`, never by containerd.
    pub(crate) log_level: Option<tracing::Level>,
    /// The log level that containerd wants of shims; set by `start`, never by containerd.
    pub(crate) containerd_level: Option<tracing::Level>,
    /// Log at debug level.
    pub(crate) debug: bool,
    /// Print name and version.
    pub(crate) version: bool,
    /// Print a description for programs.
    pub(crate) info: bool,
    /// `start`, `delete`, or the shim's own `daemon`.
    pub(crate) action: String,
}

/// The error in the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("cannot use argument {0:?}: it is not UTF-8")]
    NotUtf8(OsString),
    #[error("cannot use flag -{0}: no such flag is known")]
    Unknown(String),
    #[error("cannot use flag -{0}: its value is missing")]
    NoValue(String),
    #[error("cannot use flag -{name}: {value:?} is neither true nor false")]
    NotBool { name: String, value: String },
    #[error("cannot use argument {0:?}: only one action can be done at a time")]
    Surplus(String),
}

impl Flags {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// [`ArgsError`] names the argument at fault.
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, ArgsError> {
        let mut flags = Self::default();
        let mut args = args.into_iter().map(|arg| arg.into_string().map_err(ArgsError::NotUtf8));
        while let Some(arg) = args.next().transpose()? {
            let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
                flags.action = arg;
                break;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (flag.to_owned(), None),
            };
            if let Some(switch) = flags.switch(&name) {
                *switch = parse_bool(&name, value)?;
                continue;
            }
            let value = match value {
                Some(value) => value,
                None => args.next().transpose()?.ok_or_else(|| ArgsError::NoValue(name.clone()))?,
            };
            flags.set(&name, value)?;
        }
        match args.next().transpose()? {
            Some(surplus) => Err(ArgsError::Surplus(surplus)),
            None => Ok(flags),
        }
    }

    fn switch(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "debug" => Some(&mut self.debug),
            "v" | "version" => Some(&mut self.version),
            "info" => Some(&mut self.info),
            _ => None,
        }
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), ArgsError> {
        match name {
            "namespace" => self.namespace = value,
            "address" => self.address = value.into(),
            "id" => self.id = value,
            "bundle" => self.bundle = Some(value.into()),
            "socket" => self.socket = value.into(),
            "pod" => self.pod = value,
            // Only `start` writes this flag.
            "log-level" => self.log_level = value.parse().ok(),
            "containerd-level" => self.containerd_level = value.parse().ok(),
            // Events go over ttrpc. Older shims published them with this program; it is not needed.
            "publish-binary" => {}
            _ => return Err(ArgsError::Unknown(name.to_owned())),
        }
        Ok(())
    }
}

impl Flags {
    /// Returns the log level that containerd wants of shims.
    pub(crate) fn level(&self) -> tracing::Level {
        self.level_besides(self.containerd_level.unwrap_or(tracing::Level::INFO))
    }

    /// Returns the log level that containerd wants of shims. `named` is the level from elsewhere, for example the bootstrap parameters.
    pub(crate) fn level_besides(&self, named: tracing::Level) -> tracing::Level {
        if self.debug { named.max(tracing::Level::DEBUG) } else { named }
    }
}

fn parse_bool(name: &str, value: Option<String>) -> Result<bool, ArgsError> {
    match value.as_deref() {
        None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(ArgsError::NotBool { name: name.to_owned(), value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, ArgsError> {
        Flags::parse(line.split_whitespace().map(OsString::from))
    }

    /// containerd's command line is parsed.
    #[test]
    fn parses_containerds_call() {
        let flags =
            parse("-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/c -id a1 -bundle /b -debug start");
        let expected = Flags {
            namespace: "k8s.io".into(),
            address: "/run/c.sock".into(),
            id: "a1".into(),
            bundle: Some("/b".into()),
            debug: true,
            action: "start".into(),
            ..Flags::default()
        };
        assert_eq!(flags, Ok(expected));
    }

    /// `--flag=value` means the same as `-flag value`.
    #[test]
    fn parses_every_way_of_writing_a_flag() {
        let flags = parse("--id=a --debug=false -namespace=b=c delete").unwrap();
        assert_eq!((flags.id.as_str(), flags.debug, flags.namespace.as_str()), ("a", false, "b=c"));
        assert!(parse("-v").unwrap().version);
        assert!(parse("-info").unwrap().info);
    }

    /// A malformed command line is refused; the error names the argument at fault.
    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(parse("-nmespace x start"), Err(ArgsError::Unknown("nmespace".into())));
        assert_eq!(parse("start -id"), Err(ArgsError::Surplus("-id".into())));
        assert_eq!(parse("-id"), Err(ArgsError::NoValue("id".into())));
        assert_eq!(parse("-debug=maybe"), Err(ArgsError::NotBool { name: "debug".into(), value: "maybe".into() }));
    }
}
