//! The standard streams of a process.
//!
//! The process itself gets the fifos that containerd makes; no data is copied. The daemon keeps each of them open as well. So a restart
//! of containerd does not break the output pipe, and the input does not end before `CloseIO`. When the process has ended the daemon
//! closes them, and readers see the end.
//!
//! If a client names a file instead of a fifo, the process appends to it.
//!
//! Only for a terminal the daemon copies data, see [`console`].

mod console;
mod logger;
mod uri;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use serde::{Deserialize, Serialize};

pub(crate) use console::{Console, ConsoleError, ConsoleSocket};
pub(crate) use logger::{Logger, LoggerError};

/// The standard streams of a request, unparsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StdioPaths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// One terminal instead of three streams.
    pub(crate) terminal: bool,
}

/// The source or target of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stream {
    Null,
    /// A fifo, or any existing file.
    Path(PathBuf),
    Fifo(PathBuf),
    /// A file that is created if it is missing.
    File(PathBuf),
    Logger(Logger),
    /// A pipe to a running logging program, as a path to the daemon's descriptor.
    Pipe(PathBuf),
}

/// The parsed standard streams of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stdio {
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
}

/// The error of a URI that is no stream.
#[derive(Debug, thiserror::Error)]
#[error(
    "{uri:?} is no stream: a stream is a path, fifo:// or file://; for both outputs together also one binary:// or binary-v2://"
)]
pub(crate) struct UriError {
    uri: String,
}

/// The reason why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {}", path.display())]
pub(crate) struct StreamError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The way in which a process in creation gets its standard streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Streams {
    /// The process opens each of them.
    Each(Stdio),
    /// The process makes a terminal and sends it to this socket.
    Console(PathBuf),
}

/// The daemon's own descriptors of the streams.
#[derive(Debug, Default)]
pub(crate) struct Held {
    stdin: Option<OwnedFd>,
    _outputs: Vec<OwnedFd>,
}

impl Stdio {
    /// Parses the streams of a request.
    ///
    /// # Errors
    /// [`UriError`] for an unsupported kind of stream.
    pub(crate) fn new(paths: &StdioPaths) -> Result<Self, UriError> {
        let unusable = |uri: &str| UriError { uri: uri.to_owned() };
        let stream = |uri: &str| Stream::parse(uri).ok_or_else(|| unusable(uri));
        let stdio =
            Self { stdin: stream(&paths.stdin)?, stdout: stream(&paths.stdout)?, stderr: stream(&paths.stderr)? };
        let is_logger = |stream: &Stream| matches!(stream, Stream::Logger(_));
        // Both outputs go to one program.
        if is_logger(&stdio.stdin) || (is_logger(&stdio.stderr) && stdio.stderr != stdio.stdout) {
            return Err(unusable(if is_logger(&stdio.stdin) { &paths.stdin } else { &paths.stderr }));
        }
        Ok(stdio)
    }

    /// Starts the logging program for the outputs, if there is one, and replaces its URI by pipes to it. Returns the daemon's ends. The
    /// process opens its ends through these, so they must stay open until then.
    ///
    /// # Errors
    /// [`LoggerError`] has the reason why the program does not run.
    pub(crate) async fn start_logger(&mut self, id: &str, namespace: &str) -> Result<Vec<OwnedFd>, LoggerError> {
        let Stream::Logger(logger) = &self.stdout else { return Ok(Vec::new()) };
        let pipes = logger.start(id, namespace).await?;
        let path = |pipe: &OwnedFd| {
            use std::os::fd::AsRawFd as _;
            Stream::Pipe(format!("/proc/{}/fd/{}", std::process::id(), pipe.as_raw_fd()).into())
        };
        (self.stdout, self.stderr) = (path(&pipes[0]), path(&pipes[1]));
        Ok(pipes.into())
    }

    /// Opens the fifos to hold them, and checks that files can be opened. Never blocks.
    ///
    /// # Errors
    /// [`StreamError`] names the fifo or file that cannot be opened.
    pub(crate) fn hold(&self) -> Result<Held, StreamError> {
        let outputs = [self.stdout.hold(OFlags::WRONLY)?, self.stderr.hold(OFlags::WRONLY)?];
        let stdin = self.stdin.hold(OFlags::RDONLY)?;
        Ok(Held { stdin, _outputs: outputs.into_iter().flatten().collect() })
    }

    /// Checks that files can be opened, for a process with a terminal: its fifos are opened later.
    ///
    /// # Errors
    /// [`StreamError`] names the file that cannot be opened.
    pub(crate) fn try_files(&self) -> Result<(), StreamError> {
        let streams = [(&self.stdin, OFlags::RDONLY), (&self.stdout, OFlags::WRONLY)];
        let mut files = streams.into_iter().filter(|(stream, _)| stream.is_file());
        files.try_for_each(|(stream, mode)| stream.hold(mode).map(drop))
    }

    /// Opens the streams for a process: input, output, errors. The fifos must be held.
    ///
    /// # Errors
    /// [`StreamError`] names the stream that cannot be opened.
    pub(crate) fn open(&self) -> Result<[OwnedFd; 3], StreamError> {
        Ok([self.stdin.open(OFlags::RDONLY)?, self.stdout.open(OFlags::WRONLY)?, self.stderr.open(OFlags::WRONLY)?])
    }
}

impl Held {
    /// Closes the held input, so that it ends as soon as containerd closes its side.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

impl Stream {
    fn parse(uri: &str) -> Option<Self> {
        if uri.is_empty() {
            return Some(Self::Null);
        }
        // A path may contain any character, also a colon.
        let scheme = uri.split_once(':').filter(|_| !uri.starts_with('/'));
        match scheme {
            None => Some(Self::Path(uri.into())),
            Some(("file", rest)) => uri::path_of_file(rest).map(|path| Self::File(path.into())),
            Some((scheme, rest)) => match (scheme, rest.strip_prefix("//")?) {
                ("fifo", path) => Some(Self::Fifo(path.into())),
                ("binary", program) => Logger::parse(program, false).map(Self::Logger),
                ("binary-v2", program) => Logger::parse(program, true).map(Self::Logger),
                _ => None,
            },
        }
    }

    fn is_file(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Path(path) => !is_fifo(path),
            Self::Null | Self::Fifo(_) | Self::Logger(_) | Self::Pipe(_) => false,
        }
    }

    /// Opens a fifo for both directions; of a file it only checks that it can be opened.
    fn hold(&self, mode: OFlags) -> Result<Option<OwnedFd>, StreamError> {
        match self {
            // If a logging program dies, its container shall notice.
            Self::Null | Self::Logger(_) | Self::Pipe(_) => Ok(None),
            Self::Fifo(path) => self.tell(open_fifo(path, OFlags::RDWR)).map(Some),
            Self::Path(path) if is_fifo(path) => self.tell(open_fifo(path, OFlags::RDWR)).map(Some),
            // Neither a device nor a fifo that has just appeared may block the daemon.
            Self::Path(_) | Self::File(_) => self.open(mode | OFlags::NONBLOCK).map(|_| None),
        }
    }

    fn open(&self, mode: OFlags) -> Result<OwnedFd, StreamError> {
        let opened = match self {
            Self::Null => open("/dev/null", mode | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from),
            Self::Fifo(path) | Self::Pipe(path) => open_fifo(path, mode),
            Self::Path(path) if is_fifo(path) => open_fifo(path, mode),
            Self::Path(path) => open_file(path, mode, false),
            Self::File(path) => open_file(path, mode, true),
            Self::Logger(_) => Err(io::Error::other("the logging program has not been started")),
        };
        self.tell(opened)
    }

    fn tell<T>(&self, opened: io::Result<T>) -> Result<T, StreamError> {
        let path = match self {
            Self::Null | Self::Logger(_) => Path::new("/dev/null"),
            Self::Path(path) | Self::Fifo(path) | Self::File(path) | Self::Pipe(path) => path,
        };
        opened.map_err(|source| StreamError { path: path.to_owned(), source })
    }
}

fn is_fifo(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// Opens a file to read it, or to append to it. With `made`, the file and its parents may be created.
fn open_file(path: &Path, mode: OFlags, made: bool) -> io::Result<OwnedFd> {
    let writes = mode & OFlags::RWMODE != OFlags::RDONLY;
    if let Some(folder) = path.parent().filter(|_| made && writes) {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    let flags = OFlags::NOCTTY | (mode & OFlags::NONBLOCK);
    let mut options = File::options();
    options.read(!writes).append(writes).create(made && writes).mode(0o644).custom_flags(flags.bits().cast_signed());
    Ok(options.open(path)?.into())
}

/// Opens a fifo, in the blocking mode that a container expects unless `mode` is non-blocking.
fn open_fifo(path: &Path, mode: OFlags) -> io::Result<OwnedFd> {
    let fd = open(path, mode | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::Fifo => Ok(fd),
        _ => Err(io::Error::other("it is not a fifo")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read as _, Write as _};

    use super::*;

    /// A path is taken literally, with any characters; an unsupported stream is an error with its URI.
    #[test]
    fn streams() {
        assert_eq!(Stream::parse(""), Some(Stream::Null));
        assert_eq!(Stream::parse("/f://%41"), Some(Stream::Path("/f://%41".into())));
        assert_eq!(Stream::parse("fifo:///f"), Some(Stream::Fifo("/f".into())));
        assert_eq!(Stream::parse("file:///f%20g"), Some(Stream::File("/f g".into())));
        for bad in ["file://", "file://host", "binary:/log", "binary://log", "tcp://host/"] {
            assert_eq!(Stream::parse(bad), None, "{bad}");
        }
        let paths = StdioPaths { stdout: "npipe:///x".into(), ..StdioPaths::default() };
        assert!(matches!(Stdio::new(&paths), Err(UriError { uri }) if uri == paths.stdout));
    }

    /// One logging program takes both outputs, and never provides an input.
    #[test]
    fn one_logger() {
        let paths = |stdin: &str, stdout: &str, stderr: &str| StdioPaths {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
            terminal: false,
        };
        assert!(Stdio::new(&paths("", "binary:///log?a=b", "binary:///log?a=b")).is_ok());
        assert!(Stdio::new(&paths("", "binary:///log", "")).is_ok());
        assert!(Stdio::new(&paths("", "binary:///log", "binary:///other")).is_err());
        assert!(Stdio::new(&paths("", "/fifo", "binary:///log")).is_err());
        assert!(Stdio::new(&paths("binary:///log", "", "")).is_err());
    }

    /// A file is appended to; a plain path must exist; a failure to open names the path.
    #[test]
    fn files_are_appended_to() {
        let dir = std::env::temp_dir().join(format!("prewasi-files-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (file, missing, made) = (dir.join("file"), dir.join("missing"), dir.join("new/folder/file"));
        fs::write(&file, "before\n").unwrap();
        let stdio = |output: &str| {
            let paths = StdioPaths { stdout: output.to_owned(), stderr: output.to_owned(), ..StdioPaths::default() };
            Stdio::new(&paths).unwrap()
        };
        for output in [file.display().to_string(), format!("file://{}", made.display())] {
            let stdio = stdio(&output);
            stdio.hold().unwrap();
            let [_, stdout, stderr] = stdio.open().unwrap();
            File::from(stdout).write_all(b"out\n").unwrap();
            File::from(stderr).write_all(b"err\n").unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "before\nout\nerr\n");
        assert_eq!(fs::read_to_string(&made).unwrap(), "out\nerr\n");
        for (output, reason) in [
            (missing.display().to_string(), "No such file or directory (os error 2)"),
            (dir.display().to_string(), "Is a directory (os error 21)"),
            (format!("{}/log", file.display()), "Not a directory (os error 20)"),
            (format!("file://{}/log", file.display()), "File exists (os error 17)"),
            (format!("fifo://{}", file.display()), "it is not a fifo"),
        ] {
            let error = prewasi_precompiler::chain(&stdio(&output).hold().unwrap_err());
            let path = output.split_once("://").map_or(&*output, |(_, path)| path);
            assert_eq!(error, format!("cannot open {path}: {reason}"));
        }
        fs::remove_dir_all(dir).unwrap();
    }

    /// While the fifo is held, a writer survives the end of its reader; after that the next reader sees the end.
    #[test]
    fn held_fifos_do_not_break() {
        let dir = std::env::temp_dir().join(format!("prewasi-stdio-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("out");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let paths = StdioPaths { stdout: path.to_str().unwrap().to_owned(), ..StdioPaths::default() };
        let stdio = Stdio::new(&paths).unwrap();
        let held = stdio.hold().unwrap();
        let [_, stdout, _] = stdio.open().unwrap();
        let mut stdout = File::from(stdout);
        // The first reader comes and goes.
        drop(File::open(&path).unwrap());
        stdout.write_all(b"still here").unwrap();
        let mut reader = File::open(&path).unwrap();
        drop((stdout, held));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
        fs::remove_dir_all(dir).unwrap();
    }
}
