//! D-Bus messages over a blocking socket (D-Bus specification 0.43, "Message Protocol" and "Authentication Protocol").

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{LE, to_bytes};
use zbus::{DynamicType, ObjectPath, OwnedVariant, Type, Variant};

use super::{LIMIT, SystemdError};

/// Types of messages.
const CALL: u8 = 1;
const REPLY: u8 = 2;
const ERROR: u8 = 3;
/// Flag of a call that needs no answer.
const NO_REPLY: u8 = 1;
/// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;
/// Length of a header before its fields, in bytes: byte order, type, flags, version, length of the body, serial, length of the fields.
const FIXED: usize = 16;
/// Largest message that is read, in bytes; systemd's answers are short.
const MESSAGE_MAX: usize = 1 << 20;
/// Time without a first answer after which a ping follows; later pings come at longer intervals.
const PATIENCE: Duration = Duration::from_millis(20);

const SYSTEMD: (&str, &str) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1");
const BUS: (&str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");

/// Values with their types.
#[derive(Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
    signature: String,
}

/// Encodes the arguments of a method, which are a tuple.
///
/// # Errors
/// The encoder's error.
pub(super) fn encode<T: Serialize + DynamicType>(arguments: &T) -> Result<Body, zbus::Error> {
    let signature = arguments.signature().to_string();
    let list = signature.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(&signature);
    Ok(Body { bytes: to_bytes(Context::new(LE, 0), arguments)?.bytes().to_vec(), signature: list.to_owned() })
}

/// A call of a method of systemd.
pub(super) struct Call<'a> {
    object: (&'static str, &'static str),
    interface: &'static str,
    method: &'static str,
    /// The subject of the call, for error messages.
    subject: &'a str,
    body: Body,
}

impl<'a> Call<'a> {
    pub(super) fn manager(method: &'static str, subject: &'a str, body: Body) -> Self {
        Self { object: SYSTEMD, interface: "org.freedesktop.systemd1.Manager", method, subject, body }
    }

    pub(super) fn property(method: &'static str, subject: &'a str, body: Body) -> Self {
        Self { object: SYSTEMD, interface: "org.freedesktop.DBus.Properties", method, subject, body }
    }

    fn peer(method: &'static str) -> Self {
        let (interface, subject) = ("org.freedesktop.DBus.Peer", "itself");
        Self { object: SYSTEMD, interface, method, subject, body: Body::default() }
    }

    fn hello() -> Self {
        Self {
            object: BUS,
            interface: "org.freedesktop.DBus",
            method: "Hello",
            subject: "itself",
            body: Body::default(),
        }
    }

    fn message(&self, serial: u32, flags: u8, is_bus: bool) -> Result<Vec<u8>, zbus::Error> {
        let (destination, path) = self.object;
        let mut fields = vec![
            (PATH, Variant::from(ObjectPath::try_from(path)?)),
            (INTERFACE, Variant::from(self.interface)),
            (MEMBER, Variant::from(self.method)),
        ];
        if is_bus {
            fields.push((DESTINATION, Variant::from(destination)));
        }
        let length = u32::try_from(self.body.bytes.len()).unwrap_or(u32::MAX);
        let header = (b'l', CALL, flags, 1u8, length, serial, fields);
        let mut message = to_bytes(Context::new(LE, 0), &header)?.bytes().to_vec();
        let signature = self.body.signature.as_bytes();
        if !signature.is_empty() {
            // The encoder would write a list of types as a structure, so this field is written here.
            message.resize(message.len().next_multiple_of(8), 0);
            message.extend([SIGNATURE, 1, b'g', 0, u8::try_from(signature.len()).unwrap_or(u8::MAX)]);
            message.extend(signature);
            message.push(0);
            let fields = u32::try_from(message.len() - FIXED).unwrap_or(u32::MAX);
            message[FIXED - 4..FIXED].copy_from_slice(&fields.to_le_bytes());
        }
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend_from_slice(&self.body.bytes);
        Ok(message)
    }
}

/// A received message.
struct Message {
    kind: u8,
    fields: Vec<(u8, OwnedVariant)>,
    body: Vec<u8>,
}

impl Message {
    fn number(&self, field: u8) -> Option<u32> {
        self.field(field).and_then(|value| value.downcast_ref().ok())
    }

    fn text(&self, field: u8) -> Option<String> {
        self.field(field).and_then(|value| value.downcast_ref::<&str>().ok().map(str::to_owned))
    }

    fn field(&self, name: u8) -> Option<&OwnedVariant> {
        self.fields.iter().find_map(|(field, value)| (*field == name).then_some(value))
    }
}

/// Decodes the arguments of an answer.
///
/// # Errors
/// The decoder's error.
pub(super) fn decode<T: DeserializeOwned + Type>(body: &[u8]) -> Result<T, zbus::Error> {
    Ok(Data::new(body, Context::new(LE, 0)).deserialize()?.0)
}

/// A connection to systemd itself, or to a bus.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Whether messages must name their destination.
    is_bus: bool,
    /// Received bytes of an incomplete message.
    buffer: Vec<u8>,
}

impl Bus {
    /// Connects, authenticates this process, and on a bus requests a name.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(super) fn connect(path: &Path, is_bus: bool) -> Result<Self, SystemdError> {
        let failed = |source| SystemdError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
        stream.set_write_timeout(Some(LIMIT)).map_err(failed)?;
        let mut bus = Self { stream, serial: 0, is_bus, buffer: Vec::new() };
        bus.authenticate().map_err(failed)?;
        if is_bus {
            bus.call(&Call::hello())?;
        }
        Ok(bus)
    }

    fn authenticate(&mut self) -> io::Result<()> {
        let uid: String = rustix::process::geteuid().as_raw().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n") && answer.len() < 256 {
            self.stream.read_exact(&mut byte)?;
            answer.extend_from_slice(&byte);
        }
        if !answer.starts_with(b"OK ") {
            let answer = String::from_utf8_lossy(&answer).trim().to_owned();
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it answers {answer:?}")));
        }
        self.stream.write_all(b"BEGIN\r\n")
    }

    /// Calls a method and waits for the answer; returns its arguments.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(super) fn call(&mut self, call: &Call<'_>) -> Result<Vec<u8>, SystemdError> {
        let (method, subject) = (call.method, call.subject.to_owned());
        let serial = self.send(call, 0)?;
        let begun = Instant::now();
        let mut patience = PATIENCE;
        loop {
            let left = LIMIT.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(SystemdError::Timeout { method, subject });
            }
            let Some(message) = self.receive(patience.min(left)).map_err(SystemdError::Talk)? else {
                self.send(&Call::peer("Ping"), NO_REPLY)?;
                patience *= 2;
                continue;
            };
            if message.number(REPLY_SERIAL) != Some(serial) {
                continue;
            }
            match message.kind {
                REPLY => return Ok(message.body),
                ERROR => {
                    let name = message.text(ERROR_NAME).unwrap_or_default();
                    let text = decode::<(String,)>(&message.body).map(|(text,)| text).unwrap_or_default();
                    return Err(SystemdError::Refused { method, subject, name, message: text });
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, call: &Call<'_>, flags: u8) -> Result<u32, SystemdError> {
        self.serial += 1;
        let message = call.message(self.serial, flags, self.is_bus)?;
        self.stream.write_all(&message).map_err(SystemdError::Talk)?;
        Ok(self.serial)
    }

    /// Reads a message; `None` if none arrives within `limit`.
    fn receive(&mut self, limit: Duration) -> io::Result<Option<Message>> {
        self.stream.set_read_timeout(Some(limit))?;
        let mut chunk = [0; 4096];
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a message from the received bytes, if it is complete.
    fn take(&mut self) -> io::Result<Option<Message>> {
        let word = |at: usize| {
            let bytes = self.buffer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(|bytes| u32::from_le_bytes(bytes) as usize)
        };
        let (Some(body), Some(fields)) = (word(4), word(12)) else { return Ok(None) };
        let start = (FIXED + fields.min(MESSAGE_MAX)).next_multiple_of(8);
        if self.buffer[0] != b'l' || start + body > MESSAGE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it sends what is no message of D-Bus"));
        }
        if self.buffer.len() < start + body {
            return Ok(None);
        }
        let rest = self.buffer.split_off(start + body);
        let mut message = std::mem::replace(&mut self.buffer, rest);
        let body = message.split_off(start);
        type Header = (u8, u8, u8, u8, u32, u32, Vec<(u8, OwnedVariant)>);
        let (_, kind, _, _, _, _, fields) = decode::<Header>(&message).map_err(io::Error::other)?;
        Ok(Some(Message { kind, fields, body }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use zbus::Signature;

    use super::*;

    /// Answers like systemd: reads the call after `BEGIN` only when more data arrives.
    fn slow_server(mut stream: UnixStream) {
        let mut line = [0; 256];
        let length = stream.read(&mut line).unwrap();
        assert!(line[..length].starts_with(b"\0AUTH EXTERNAL "));
        stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").unwrap();
        let mut seen = Vec::new();
        while !seen.windows(4).any(|part| part == b"Ping") {
            let length = stream.read(&mut line).unwrap();
            assert!(length > 0);
            seen.extend_from_slice(&line[..length]);
        }
        assert!(seen.starts_with(b"BEGIN\r\n"));
        let fields = vec![
            (REPLY_SERIAL, Variant::from(1u32)),
            (ERROR_NAME, Variant::from("org.freedesktop.systemd1.NoSuchUnit")),
            (SIGNATURE, Variant::from(Signature::try_from("s").unwrap())),
        ];
        let body = encode(&("Unit x.scope not loaded.",)).unwrap();
        let header = (b'l', ERROR, 0u8, 1u8, body.bytes.len() as u32, 9u32, fields);
        let mut message = to_bytes(Context::new(LE, 0), &header).unwrap().bytes().to_vec();
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend_from_slice(&body.bytes);
        // In two pieces, as a socket may deliver them.
        let (first, second) = message.split_at(21);
        stream.write_all(first).unwrap();
        stream.write_all(second).unwrap();
    }

    /// A call without an answer is followed by a ping; an error has its name and text.
    #[test]
    fn calls_are_answered_in_time() {
        let path = std::env::temp_dir().join(format!("prewasi-systemd-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || slow_server(listener.accept().unwrap().0));
        let begun = Instant::now();
        let mut bus = Bus::connect(&path, false).unwrap();
        let body = encode(&("x.scope", "replace")).unwrap();
        assert_eq!(body.signature, "ss");
        let error = bus.call(&Call::manager("StopUnit", "x.scope", body)).unwrap_err();
        assert!(matches!(error, SystemdError::Refused { ref name, .. } if name.ends_with(".NoSuchUnit")), "{error}");
        assert_eq!(
            error.to_string(),
            "systemd refuses StopUnit for x.scope: Unit x.scope not loaded. (org.freedesktop.systemd1.NoSuchUnit)"
        );
        assert!(begun.elapsed() < LIMIT);
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    /// The arguments of a scope have the types that systemd expects.
    #[test]
    fn arguments() {
        let pairs = vec![("PIDs", Variant::from(vec![7u32])), ("AllowedCPUs", Variant::from(vec![3u8]))];
        let auxiliary: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let body = encode(&("x.scope", "fail", pairs, auxiliary)).unwrap();
        assert_eq!(body.signature, "ssa(sv)a(sa(sv))");
        let length = body.bytes.len();
        let call = Call::manager("StartTransientUnit", "x.scope", body);
        let message = call.message(1, 0, true).unwrap();
        let field = b"\x08\x01g\x00\x10ssa(sv)a(sa(sv))\0";
        assert!(message.windows(field.len()).any(|part| part == field), "{message:?}");
        // Decoding the message yields the same values.
        let mut bus = Bus { stream: UnixStream::pair().unwrap().0, serial: 0, is_bus: true, buffer: message };
        let read = bus.take().unwrap().unwrap();
        assert_eq!((read.kind, read.body.len()), (CALL, length));
        assert_eq!(read.text(MEMBER).as_deref(), Some("StartTransientUnit"));
        assert_eq!(read.text(DESTINATION).as_deref(), Some("org.freedesktop.systemd1"));
        assert!(bus.buffer.is_empty());
    }
}
