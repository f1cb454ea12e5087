//! The daemon's log: lines of `key=value` in the fifo that containerd reads. Lines that concern a container have its fields.
//!
//! The fifo is opened for reading and writing and never blocks. While containerd is down the daemon does not stall; lines that do not fit
//! are lost. The daemon gets the fifo as its standard error and logs to a copy, because libcontainer replaces standard error by the
//! container's own.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd as _, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer as _, filter, reload};

use crate::telemetry::observe::{self, Observer};
use crate::telemetry::reasons::{self, Notes};

/// Name of the fifo in the bundle.
const FIFO: &str = "log";
/// Descriptor number of the copy of standard error, in a daemon and its helpers.
pub(crate) const FD: RawFd = 4;

static COPY: OnceLock<File> = OnceLock::new();
static SILENT: AtomicBool = AtomicBool::new(false);
static CONTROL: OnceLock<Control> = OnceLock::new();

/// Control of the log's level.
struct Control {
    /// The level that containerd wants.
    wanted: Level,
    level: Mutex<Level>,
    reload: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

/// Opens the fifo that containerd reads, or `/dev/null` without one.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub(crate) fn open(bundle: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(bundle.join(FIFO), flags, Mode::empty()) {
        Ok(fifo) => Ok(fifo.into()),
        Err(_) => File::options().write(true).open("/dev/null"),
    }
}

/// Logs to standard error from now on.
pub(crate) fn to_stderr(wanted: Level) {
    init(wanted, None, false, io::stderr);
}

/// Logs to a copy of standard error from now on, at the level of containerd or of the configuration, and records spans for a trace. Must
/// be the first action of a daemon, because it takes the number [`FD`].
///
/// # Errors
/// The system's error.
pub(crate) fn to_copy(wanted: Level, level: Option<Level>, traced: bool) -> io::Result<()> {
    // SAFETY: dup3 has no memory effects; no other value owns that number yet.
    if unsafe { nix::libc::dup3(nix::libc::STDERR_FILENO, FD, nix::libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor has just been made and has no other owner.
    COPY.get_or_init(|| unsafe { File::from_raw_fd(FD) });
    init(wanted, level, traced, Copy::default);
    Ok(())
}

/// Disables the log: the container's own program is about to run in this process.
pub(crate) fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Logs from this level on, or from a lower one that containerd asks for. `PREWASI_LOG` overrides both.
pub(crate) fn set_level(configured: Option<Level>) {
    let Some(control) = CONTROL.get() else { return };
    let wanted = level_of(control.wanted, configured);
    let mut level = control.level.lock().unwrap_or_else(PoisonError::into_inner);
    if *level != wanted {
        *level = wanted;
        (control.reload)(filter_of(wanted));
    }
}

fn init<W: io::Write + 'static>(
    wanted: Level,
    configured: Option<Level>,
    traced: bool,
    writer: impl Fn() -> W + Send + Sync + 'static,
) {
    let level = level_of(wanted, configured);
    let (filter, handle) = reload::Layer::new(filter_of(level));
    let lines = tracing_subscriber::fmt::layer().event_format(Logfmt).with_writer(writer).with_filter(filter);
    let observer = Observer.with_filter(filter::filter_fn(move |metadata| observe::is_noted(metadata, traced)));
    let notes = Notes.with_filter(filter::filter_fn(reasons::is_noted));
    let subscriber = tracing_subscriber::registry().with(observer).with(notes).with(lines);
    // Fails only at a second call; then the first subscriber stays.
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        // The subscriber lives as long as the process.
        let reload = Box::new(move |filter| drop(handle.reload(filter)));
        CONTROL.get_or_init(|| Control { wanted, level: Mutex::new(level), reload });
    }
}

/// Returns the configured level, unless containerd runs in debug mode.
fn level_of(wanted: Level, configured: Option<Level>) -> Level {
    match configured {
        Some(level) if wanted > Level::INFO => level.max(wanted),
        Some(level) => level,
        None => wanted,
    }
}

fn filter_of(level: Level) -> EnvFilter {
    // libcontainer logs an error at each level of its call stack; the shim gets its errors as values.
    let others = if level > Level::INFO {
        "libcontainer=error,libcgroups=error,h2=info,hyper=info,hyper_util=info,tower=info"
    } else {
        "libcontainer=off,libcgroups=off"
    };
    EnvFilter::new(std::env::var("PREWASI_LOG").unwrap_or_else(|_| format!("{level},{others}")))
}

/// The copy of standard error as a writer.
#[derive(Default)]
struct Copy;

impl io::Write for Copy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match COPY.get() {
            Some(mut copy) if !SILENT.load(Ordering::Relaxed) => copy.write(bytes),
            _ => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats an event as one line of `key=value`.
struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
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
        let scope = context.event_scope().into_iter().flatten();
        for span in scope.filter(|span| span.name() == observe::CONTAINER) {
            for (name, value) in span.extensions().get::<observe::Fields>().into_iter().flat_map(observe::Fields::iter)
            {
                write!(writer, " {name}={}", quoted(value))?;
            }
        }
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

/// Quotes a value that could be misread: a container's name must not look like further fields.
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

    /// The configured level overrides containerd's, except in debug mode.
    #[test]
    fn levels() {
        assert_eq!(level_of(Level::INFO, None), Level::INFO);
        assert_eq!(level_of(Level::WARN, None), Level::WARN);
        assert_eq!(level_of(Level::ERROR, Some(Level::INFO)), Level::INFO);
        assert_eq!(level_of(Level::INFO, Some(Level::ERROR)), Level::ERROR);
        assert_eq!(level_of(Level::DEBUG, Some(Level::ERROR)), Level::DEBUG);
        assert_eq!(level_of(Level::DEBUG, Some(Level::TRACE)), Level::TRACE);
    }

    /// An event is one line with its message and fields, and no value can look like a second line or field.
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
