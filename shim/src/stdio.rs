//! The standard streams of a process.
//!
//! The fifos that containerd makes are handed to the process itself; nothing is copied. The daemon keeps each of them
//! open as well: so the output survives a restart of containerd without a broken pipe, and the input does not end
//! before `CloseIO`. When the process has ended the daemon lets go, and readers see the end.
//!
//! A terminal is the one case in which the daemon copies, see [`console`].

mod console;
mod logger;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use serde::{Deserialize, Serialize};

pub(crate) use console::{Console, ConsoleError, ConsoleSocket};
pub(crate) use logger::{Logger, LoggerError};

use crate::error::TaskError;

/// What a request says of the standard streams, as it says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StdioPaths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// One terminal instead of three streams.
    pub(crate) terminal: bool,
}

/// Where a stream comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stream {
    Null,
    Fifo(PathBuf),
    File(PathBuf),
    Logger(Logger),
    /// A pipe to a logging program that runs, by way of the daemon's descriptor.
    Pipe(PathBuf),
}

/// The standard streams of a process, understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stdio {
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
}

/// How a process that is being made gets its standard streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Streams {
    /// It opens each.
    Each(Stdio),
    /// It makes a terminal and sends it to this socket.
    Console(PathBuf),
}

/// The daemon's own hold on the streams.
#[derive(Debug, Default)]
pub(crate) struct Held {
    stdin: Option<OwnedFd>,
    _outputs: Vec<OwnedFd>,
}

impl Stdio {
    /// Understands what a request says.
    ///
    /// # Errors
    /// [`TaskError::StdioUri`] for a kind of stream that is not supported.
    pub(crate) fn new(id: &str, paths: &StdioPaths) -> Result<Self, TaskError> {
        let unusable = |uri: &str| TaskError::StdioUri { id: id.to_owned(), uri: uri.to_owned() };
        let stream = |uri: &str| Stream::parse(uri).ok_or_else(|| unusable(uri));
        let stdio =
            Self { stdin: stream(&paths.stdin)?, stdout: stream(&paths.stdout)?, stderr: stream(&paths.stderr)? };
        let is_logger = |stream: &Stream| matches!(stream, Stream::Logger(_));
        // One program takes both outputs.
        if is_logger(&stdio.stdin) || (is_logger(&stdio.stderr) && stdio.stderr != stdio.stdout) {
            return Err(unusable(if is_logger(&stdio.stdin) { &paths.stdin } else { &paths.stderr }));
        }
        Ok(stdio)
    }

    /// Starts the program that takes the outputs, if one does, and puts the pipes to it in the place of its name. Returns
    /// the daemon's ends, by which the process opens its own: they must be kept until it has.
    ///
    /// # Errors
    /// [`LoggerError`] says why it does not run.
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

    /// Opens the fifos for the daemon to hold. Never blocks.
    ///
    /// # Errors
    /// [`TaskError::Stdio`] names the fifo that cannot be opened.
    pub(crate) fn hold(&self, id: &str) -> Result<Held, TaskError> {
        let hold = |stream: &Stream| match stream {
            Stream::Fifo(path) => open_fifo(path, OFlags::RDWR).map(Some).map_err(|source| TaskError::Stdio {
                id: id.to_owned(),
                path: path.clone(),
                source,
            }),
            // If a logging program dies, its container shall know.
            Stream::Null | Stream::File(_) | Stream::Logger(_) | Stream::Pipe(_) => Ok(None),
        };
        let outputs = [hold(&self.stdout)?, hold(&self.stderr)?];
        Ok(Held { stdin: hold(&self.stdin)?, _outputs: outputs.into_iter().flatten().collect() })
    }

    /// Opens the streams for a process: input, output, errors. The fifos must be held.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(&self) -> io::Result<[OwnedFd; 3]> {
        Ok([self.stdin.open(OFlags::RDONLY)?, self.stdout.open(OFlags::WRONLY)?, self.stderr.open(OFlags::WRONLY)?])
    }
}

impl Held {
    /// Lets the input end as soon as containerd has closed its side.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

impl Stream {
    fn parse(uri: &str) -> Option<Self> {
        match uri.split_once("://") {
            _ if uri.is_empty() => Some(Self::Null),
            None => Some(Self::Fifo(uri.into())),
            Some(("fifo", path)) => Some(Self::Fifo(path.into())),
            Some(("file", path)) => Some(Self::File(path.into())),
            Some(("binary", program)) => Logger::parse(program).map(Self::Logger),
            Some(_) => None,
        }
    }

    fn open(&self, mode: OFlags) -> io::Result<OwnedFd> {
        match self {
            Self::Null => Ok(open("/dev/null", mode | OFlags::CLOEXEC, Mode::empty())?),
            Self::Fifo(path) | Self::Pipe(path) => open_fifo(path, mode),
            Self::File(path) => {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)?;
                }
                Ok(File::options().create(true).append(true).open(path)?.into())
            }
            Self::Logger(_) => Err(io::Error::other("the logging program has not been started")),
        }
    }
}

/// Opens a fifo, for the blocking use that a container expects unless `mode` says otherwise.
fn open_fifo(path: &Path, mode: OFlags) -> io::Result<OwnedFd> {
    let fd = open(path, mode | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::Fifo => Ok(fd),
        _ => Err(io::Error::other("it is not a fifo")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// Paths are fifos unless they say otherwise, and what is not supported is named.
    #[test]
    fn streams() {
        assert_eq!(Stream::parse(""), Some(Stream::Null));
        assert_eq!(Stream::parse("/f"), Some(Stream::Fifo("/f".into())));
        assert_eq!(Stream::parse("file:///f"), Some(Stream::File("/f".into())));
        let paths = StdioPaths { stdout: "npipe:///x".into(), ..StdioPaths::default() };
        assert!(matches!(Stdio::new("a", &paths), Err(TaskError::StdioUri { uri, .. }) if uri == paths.stdout));
    }

    /// One logging program takes both outputs, and never makes an input.
    #[test]
    fn one_logger() {
        let paths = |stdin: &str, stdout: &str, stderr: &str| StdioPaths {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
            terminal: false,
        };
        assert!(Stdio::new("a", &paths("", "binary:///log?a=b", "binary:///log?a=b")).is_ok());
        assert!(Stdio::new("a", &paths("", "binary:///log", "")).is_ok());
        assert!(Stdio::new("a", &paths("", "binary:///log", "binary:///other")).is_err());
        assert!(Stdio::new("a", &paths("", "/fifo", "binary:///log")).is_err());
        assert!(Stdio::new("a", &paths("binary:///log", "", "")).is_err());
    }

    /// A writer outlives the reader while the fifo is held, and the next reader sees the end once it is let go.
    #[test]
    fn held_fifos_do_not_break() {
        let dir = std::env::temp_dir().join(format!("prewasi-stdio-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("out");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let paths = StdioPaths { stdout: path.to_str().unwrap().to_owned(), ..StdioPaths::default() };
        let stdio = Stdio::new("a", &paths).unwrap();
        let held = stdio.hold("a").unwrap();
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
