//! Reads the standard environment variables of OpenTelemetry. An invalid value is ignored with one warning: a mistake in tracing must not
//! stop a container.

use std::ffi::CStr;
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Serialize};

use crate::percent::decode;

/// Where a collector listens that runs on the node, by protocol.
const HTTP: &str = "http://localhost:4318";
const GRPC: &str = "http://localhost:4317";
/// Default time limit for a collector.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The protocol for sending spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

/// The rule for sampling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sampler {
    /// Whether the parent's decision has precedence.
    pub(crate) parent: bool,
    /// The sampled fraction of all other traces, 0 to 1.
    pub(crate) ratio: f64,
}

/// The configuration of traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) protocol: Protocol,
    #[serde(with = "uri")]
    pub(crate) endpoint: Uri,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) timeout: Duration,
    /// Attributes that describe the source of the spans.
    pub(crate) resource: Vec<(String, String)>,
    pub(crate) sampler: Sampler,
}

/// Reads variables, and collects the warnings about them.
struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

/// Serialises an address as text.
mod uri {
    use hyper::Uri;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(uri: &Uri, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(uri)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uri, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Config {
    /// Returns whether the variables enable traces. Reads no secret.
    pub(crate) fn is_wanted(get: &dyn Fn(&str) -> Option<String>) -> bool {
        Reader { get, warnings: Vec::new() }.is_wanted()
    }

    /// Reads the variables; `program` is the default name of this service. Returns `None` if traces are disabled, and one warning for
    /// each invalid variable.
    pub(crate) fn read(get: &dyn Fn(&str) -> Option<String>, program: &str) -> (Option<Self>, Vec<String>) {
        let mut reader = Reader { get, warnings: Vec::new() };
        let config = reader.config(program);
        (config, reader.warnings)
    }
}

impl Reader<'_> {
    fn config(&mut self, program: &str) -> Option<Config> {
        if !self.is_wanted() {
            return None;
        }
        let protocol = self.protocol();
        let config = Config {
            protocol,
            endpoint: self.endpoint(protocol)?,
            headers: self.pairs("HEADERS"),
            timeout: self.timeout(),
            resource: self.resource(program),
            sampler: self.sampler(),
        };
        if let Some((name, value)) = self.exporter("COMPRESSION").filter(|(_, value)| value != "none") {
            self.warn(&name, &value, "spans are sent as they are");
        }
        Some(config)
    }

    /// Reads a variable; an empty one counts as missing.
    fn variable(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Reads a variable of the exporter: the one for traces has precedence over the general one.
    fn exporter(&self, end: &str) -> Option<(String, String)> {
        let names = ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"].map(|start| format!("{start}{end}"));
        names.into_iter().find_map(|name| self.variable(&name).map(|value| (name, value)))
    }

    fn warn(&mut self, name: &str, value: &str, instead: &str) {
        self.warnings.push(format!("cannot use {name}={value:?}: {instead}"));
    }

    fn is_wanted(&mut self) -> bool {
        if self.variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return false;
        }
        match self.variable("OTEL_TRACES_EXPORTER").as_deref() {
            Some("otlp") => true,
            Some("none") => false,
            None => self.exporter("ENDPOINT").is_some(),
            Some(other) => {
                self.warn("OTEL_TRACES_EXPORTER", other, "there are no traces; `otlp` and `none` are known");
                false
            }
        }
    }

    fn protocol(&mut self) -> Protocol {
        match self.exporter("PROTOCOL") {
            Some((_, value)) if value == "grpc" => Protocol::Grpc,
            Some((name, value)) if value != "http/protobuf" => {
                self.warn(&name, &value, "http/protobuf is used; `grpc` is known too");
                Protocol::Http
            }
            _ => Protocol::Http,
        }
    }

    fn endpoint(&mut self, protocol: Protocol) -> Option<Uri> {
        let (name, value) = self.exporter("ENDPOINT").unwrap_or_else(|| {
            let value = if protocol == Protocol::Grpc { GRPC } else { HTTP };
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), value.to_owned())
        });
        let text = match protocol {
            // Only the general variable is a base address.
            Protocol::Http if name == "OTEL_EXPORTER_OTLP_ENDPOINT" => {
                format!("{}/v1/traces", value.trim_end_matches('/'))
            }
            Protocol::Http => value.clone(),
            Protocol::Grpc => {
                if value.contains("://") {
                    value.clone()
                } else {
                    format!("http://{value}")
                }
            }
        };
        let uri = text.parse::<Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        match uri {
            Some(uri) if uri.scheme_str() == Some("http") => Some(uri),
            Some(uri) if uri.scheme_str() == Some("https") => {
                self.warn(&name, &value, "there are no traces; they are sent without TLS only");
                None
            }
            _ => {
                self.warn(&name, &value, "there are no traces; something like http://127.0.0.1:4318 was expected");
                None
            }
        }
    }

    fn timeout(&mut self) -> Duration {
        let Some((name, value)) = self.exporter("TIMEOUT") else { return TIMEOUT };
        match value.parse::<u64>() {
            Ok(milliseconds) if milliseconds > 0 => Duration::from_millis(milliseconds),
            _ => {
                self.warn(&name, &value, "10000 is used; milliseconds were expected");
                TIMEOUT
            }
        }
    }

    fn pairs(&mut self, end: &str) -> Vec<(String, String)> {
        let Some((name, value)) = self.exporter(end) else { return Vec::new() };
        // The values may be secrets, so the warning does not repeat them.
        parse_pairs(&value).unwrap_or_else(|| {
            self.warn(&name, "…", "it is passed over; name=value,name=value was expected");
            Vec::new()
        })
    }

    fn resource(&mut self, program: &str) -> Vec<(String, String)> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let mut pairs = match self.variable(NAME) {
            None => Vec::new(),
            Some(value) => parse_pairs(&value).unwrap_or_else(|| {
                self.warn(NAME, &value, "it is passed over; name=value,name=value was expected");
                Vec::new()
            }),
        };
        // containerd sets its own service name in the environment of its children.
        if let Some(name) = self.variable("OTEL_SERVICE_NAME").filter(|name| name != "containerd") {
            pairs.retain(|(key, _)| key != "service.name");
            pairs.push(("service.name".to_owned(), name));
        }
        if !pairs.iter().any(|(key, _)| key == "service.name") {
            pairs.push(("service.name".to_owned(), program.to_owned()));
        }
        pairs
    }

    fn sampler(&mut self) -> Sampler {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let name = self.variable(NAME).unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (parent, rest) = match name.strip_prefix("parentbased_") {
            Some(rest) => (true, rest),
            None => (false, name.as_str()),
        };
        let ratio = match rest {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.ratio(),
            _ => {
                self.warn(NAME, &name, "parentbased_always_on is used");
                return Sampler { parent: true, ratio: 1.0 };
            }
        };
        Sampler { parent, ratio }
    }

    fn ratio(&mut self) -> f64 {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.variable(NAME) else { return 1.0 };
        value.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or_else(|| {
            self.warn(NAME, &value, "1 is used; a number from 0 to 1 was expected");
            1.0
        })
    }
}

/// Erases the values of headers from the environment of this process, as the kernel shows it, and of all its forks. A program in a
/// container can read that environment. Must be called while the process has one thread.
pub(crate) fn wipe_headers() {
    let is_secret = |name: &[u8]| name.starts_with(b"OTEL_") && name.ends_with(b"_HEADERS");
    // SAFETY: the environment is a list of strings that ends with a null pointer. No other thread can read or change it, and the standard
    // library has copied the variables it has read. Nothing is copied here: a copy would stay in memory.
    unsafe {
        let mut next = nix::libc::environ;
        while !next.is_null() && !(*next).is_null() {
            let variable = CStr::from_ptr(*next).to_bytes();
            if let Some(at) = variable.iter().position(|byte| *byte == b'=').filter(|at| is_secret(&variable[..*at])) {
                let length = variable.len() - at - 1;
                (*next).add(at + 1).write_bytes(0, length);
            }
            next = next.add(1);
        }
    }
}

/// Parses `name=value,name=value`, with `%xx` escapes in the values.
fn parse_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=')?;
            let name = name.trim();
            (!name.is_empty()).then_some(())?;
            Some((name.to_owned(), decode(value.trim(), false)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Option<Config>, Vec<String>) {
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::read(&get, "shim")
    }

    /// Without variables traces are disabled, and so they are with each explicit way.
    #[test]
    fn off() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
        assert_eq!(read(&[]), (None, vec![]));
        assert_eq!(read(&[("OTEL_SERVICE_NAME", "x")]), (None, vec![]));
        assert_eq!(read(&[endpoint, ("OTEL_SDK_DISABLED", "true")]), (None, vec![]));
        assert_eq!(read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), (None, vec![]));
    }

    /// A base address gets the path of the protocol; an address for traces alone is used unchanged.
    #[test]
    fn endpoints() {
        let endpoint = |variables: &[(&str, &str)]| read(variables).0.unwrap().endpoint.to_string();
        let general = "OTEL_EXPORTER_OTLP_ENDPOINT";
        assert_eq!(endpoint(&[(general, "http://c:1/base/")]), "http://c:1/base/v1/traces");
        assert_eq!(endpoint(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:1/x"), (general, "y")]), "http://c:1/x");
        assert_eq!(endpoint(&[("OTEL_TRACES_EXPORTER", "otlp")]), "http://localhost:4318/v1/traces");
        let grpc = endpoint(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), (general, "c:4317")]);
        assert_eq!(grpc, "http://c:4317/");
    }

    /// All variables have their effect.
    #[test]
    fn everything() {
        let (config, warnings) = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "key=a%20b, x-y=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "5000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "500"),
            ("OTEL_RESOURCE_ATTRIBUTES", "zone=b,service.name=other"),
            ("OTEL_SERVICE_NAME", "mine"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        let config = config.unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(warnings, Vec::<String>::new());
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert_eq!(config.headers, [pair("key", "a b"), pair("x-y", "1")]);
        assert_eq!(config.timeout, Duration::from_millis(500));
        assert_eq!(config.resource, [pair("zone", "b"), pair("service.name", "mine")]);
        let other = read(&[("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_SERVICE_NAME", "containerd")]).0.unwrap();
        assert_eq!(other.resource, [pair("service.name", "shim")]);
        assert_eq!(config.sampler, Sampler { parent: true, ratio: 0.25 });
    }

    /// Each invalid value leads to one warning that names it, and to the default.
    #[test]
    fn warnings() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
        let default = read(&[endpoint]);
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "nothing"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=%zz"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ] {
            let (config, warnings) = read(&[endpoint, (name, value)]);
            assert_eq!((config, warnings.len()), (default.0.clone(), 1), "{name}");
            assert!(warnings[0].contains(name), "{warnings:?}");
        }
        for endpoint in ["https://c", "c:1", "http://", "unix:///x"] {
            let (config, warnings) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
            assert_eq!((config, warnings.len()), (None, 1), "{endpoint}");
        }
        assert_eq!(read(&[("OTEL_TRACES_EXPORTER", "zipkin")]).1.len(), 1);
    }
}
