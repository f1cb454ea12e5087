//! The daemon's log: lines of `key=value` on standard error, which is the fifo that containerd reads.
//!
//! The fifo is opened for reading and writing and never blocks: while containerd is away nothing stalls, and what does
//! not fit is lost.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Name of the fifo in the bundle.
const FIFO: &str = "log";

/// Opens the fifo that containerd reads, or `/dev/null` where there is none.
///
/// # Errors
/// Whatever the system says of `/dev/null`.
pub(crate) fn open(bundle: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(bundle.join(FIFO), flags, Mode::empty()) {
        Ok(fifo) => Ok(fifo.into()),
        Err(_) => File::options().write(true).open("/dev/null"),
    }
}

/// Sends what is logged from now on to standard error.
pub(crate) fn init(debug: bool) {
    // libcontainer logs each step on the way up; its errors reach us as values.
    let default = if debug { "debug,h2=info,hyper=info,tower=info" } else { "info,libcontainer=off,libcgroups=off" };
    let filter = std::env::var("PREWASI_LOG").unwrap_or_else(|_| default.to_owned());
    let subscriber = tracing_subscriber::fmt()
        .event_format(Logfmt)
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(io::stderr)
        .finish();
    // Fails only if it is called twice; then the first stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Says whether standard error is still there, for the sake of a daemon that was started by hand.
pub(crate) fn is_open() -> bool {
    rustix::fs::fstat(io::stderr().as_fd()).is_ok()
}

/// Formats an event as one line of `key=value`.
struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        writer.write_str("time=\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\" level={level} msg={}{}", quoted(&line.message), line.fields)?;
        if *event.metadata().level() > Level::INFO {
            write!(writer, " target={}", event.metadata().target())?;
        }
        writeln!(writer)
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(self.fields, " {}={}", field.name(), quoted(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Quotes a value if it could be misread: what a container is called must not pass for fields of ours.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(plain) { value.to_owned() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An event is one line with its message and fields, and no value can pass for a second line or field.
    #[test]
    fn lines() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt().event_format(Logfmt).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(id = "a\nlevel=error", pid = 7, "cannot unmount {}", "/x y");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let (time, rest) = text.split_once("\" ").unwrap();
        assert!(time.starts_with("time=\"2"), "{time}");
        assert_eq!(rest, "level=warning msg=\"cannot unmount /x y\" id=\"a\\nlevel=error\" pid=7\n");
    }
}
