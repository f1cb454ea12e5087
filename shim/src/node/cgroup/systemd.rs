//! Scopes: cgroups that systemd makes and manages, with the systemd driver.
//!
//! Few calls are needed, each by a process without threads or a runtime. So this module speaks D-Bus itself, over a blocking socket with
//! a deadline; `zbus` encodes the messages. It tries systemd's own socket first, which needs no D-Bus daemon, then the system bus. On its
//! own socket, systemd reads the message after the handshake only when more data arrives (seen with 257). So a call without an answer yet
//! is followed by pings.

mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zbus::{OwnedVariant, Variant};

use wire::{Bus, Call};

/// Path of systemd's private socket for root.
const PRIVATE: &str = "/run/systemd/private";
/// Path of the system bus, unless the environment names another.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// Time limit for systemd's answer, and for the completion of a request.
const LIMIT: Duration = Duration::from_secs(10);
/// Pause between two polls.
const PAUSE: Duration = Duration::from_millis(2);
/// First versions of systemd with `CPUWeight=idle`, and with `OOMPolicy` of a scope.
const IDLE_SINCE: u32 = 252;
const OOM_POLICY_SINCE: u32 = 253;

/// The reason why a request to systemd fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    #[error(
        "cannot use a cgroup path for systemd: systemd does not run on this node; set `SystemdCgroup = false` for the runtime"
    )]
    NotThere,
    #[error("cannot reach systemd at {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot talk to systemd")]
    Talk(#[source] io::Error),
    #[error("systemd does not answer {method} for {subject}")]
    Timeout { method: &'static str, subject: String },
    #[error("systemd refuses {method} for {subject}: {message} ({name})")]
    Refused { method: &'static str, subject: String, name: String, message: String },
    #[error("systemd has not put the container into {unit} within {LIMIT:?}")]
    NotIn { unit: String },
    #[error("cannot encode a message for systemd")]
    Encode(#[from] zbus::Error),
}

/// A property of a unit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Property {
    pub(super) name: &'static str,
    pub(super) value: Value,
}

/// The types of properties of units.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Flag(bool),
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
    Processes(Vec<u32>),
    /// Devices with their access modes.
    Devices(Vec<(String, String)>),
}

impl Property {
    pub(super) fn new(name: &'static str, value: Value) -> Self {
        Self { name, value }
    }

    fn pair(&self) -> (&'static str, Variant<'_>) {
        let value = match &self.value {
            Value::Flag(flag) => Variant::from(*flag),
            Value::Number(number) => Variant::from(*number),
            Value::Text(text) => Variant::from(text.as_str()),
            Value::Bytes(bytes) => Variant::from(bytes.clone()),
            Value::Processes(processes) => Variant::from(processes.clone()),
            Value::Devices(devices) => Variant::from(devices.clone()),
        };
        (self.name, value)
    }
}

/// A connection to systemd.
pub(crate) struct Systemd {
    bus: Bus,
}

impl Systemd {
    /// Connects to systemd.
    ///
    /// # Errors
    /// [`SystemdError`] if systemd does not run, or cannot be reached.
    pub(crate) fn connect() -> Result<Self, SystemdError> {
        // The same check as in `sd_booted(3)`.
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(SystemdError::NotThere);
        }
        let bus = match Bus::connect(Path::new(PRIVATE), false) {
            Ok(bus) => bus,
            Err(error) => {
                tracing::debug!(%error, "asking the system bus for systemd");
                let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_default();
                let path = address.strip_prefix("unix:path=").unwrap_or(SYSTEM_BUS).to_owned();
                let path = PathBuf::from(path.split([',', ';']).next().unwrap_or(SYSTEM_BUS));
                Bus::connect(&path, true)?
            }
        };
        Ok(Self { bus })
    }

    /// Makes a scope around a process, and waits until the process is in it.
    ///
    /// # Errors
    /// [`SystemdError`], also if a unit of that name exists.
    pub(super) fn start_scope(
        &mut self,
        unit: &str,
        process: u32,
        properties: &[Property],
    ) -> Result<(), SystemdError> {
        match self.start(unit, properties) {
            Err(SystemdError::Refused { name, .. }) if name.ends_with(".UnitExists") => {
                // A failed unit of that name may be left over.
                self.reset(unit);
                self.start(unit, properties)?;
            }
            other => other?,
        }
        let begun = Instant::now();
        while !is_in(process, unit) {
            if begun.elapsed() > LIMIT {
                self.stop(unit)?;
                return Err(SystemdError::NotIn { unit: unit.to_owned() });
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn start(&mut self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        let pairs: Vec<_> = self.known(properties)?.into_iter().map(Property::pair).collect();
        let auxiliary: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let body = wire::encode(&(unit, "fail", pairs, auxiliary))?;
        self.bus.call(&Call::manager("StartTransientUnit", unit, body)).map(|_| ())
    }

    /// Changes properties of a unit until the next boot.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(super) fn set(&mut self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        let pairs: Vec<_> = self.known(properties)?.into_iter().map(Property::pair).collect();
        let body = wire::encode(&(unit, true, pairs))?;
        self.bus.call(&Call::manager("SetUnitProperties", unit, body)).map(|_| ())
    }

    /// Stops a unit, and resets its failed state. A missing unit is no error.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(super) fn stop(&mut self, unit: &str) -> Result<(), SystemdError> {
        let body = wire::encode(&(unit, "replace"))?;
        let stopped = match self.bus.call(&Call::manager("StopUnit", unit, body)) {
            Err(SystemdError::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => return Ok(()),
            other => other.map(|_| ()),
        };
        self.reset(unit);
        stopped
    }

    fn reset(&mut self, unit: &str) {
        let reset = wire::encode(&(unit,)).map_err(SystemdError::from);
        let reset = reset.and_then(|body| self.bus.call(&Call::manager("ResetFailedUnit", unit, body)));
        if let Err(error) = reset {
            // A unit that has not failed no longer exists.
            tracing::debug!(%error, unit, "systemd has no failed unit to forget");
        }
    }

    /// Leaves out properties that this version of systemd does not know; their files are written in any case.
    fn known<'a>(&mut self, properties: &'a [Property]) -> Result<Vec<&'a Property>, SystemdError> {
        let since = |property: &Property| match (property.name, &property.value) {
            ("OOMPolicy", _) => OOM_POLICY_SINCE,
            ("CPUWeight", Value::Number(0)) => IDLE_SINCE,
            _ => 0,
        };
        let version = if properties.iter().any(|property| since(property) > 0) { self.version()? } else { 0 };
        Ok(properties.iter().filter(|property| since(property) <= version).collect())
    }

    fn version(&mut self) -> Result<u32, SystemdError> {
        let body = wire::encode(&("org.freedesktop.systemd1.Manager", "Version"))?;
        let reply = self.bus.call(&Call::property("Get", "Version", body))?;
        let (version,): (OwnedVariant,) = wire::decode(&reply)?;
        let text: &str = version.downcast_ref()?;
        // "257.7-1", "v257" or "257".
        let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse().unwrap_or_default())
    }
}

/// Returns whether a process is in the cgroup of a unit.
fn is_in(process: u32, unit: &str) -> bool {
    let cgroups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    cgroups.lines().any(|line| line.rsplit('/').next() == Some(unit))
}
