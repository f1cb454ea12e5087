//! The standard streams of a container.
//!
//! The fifos that containerd makes are handed to the container itself; nothing is copied. The daemon keeps each of them
//! open as well: so the output survives a restart of containerd without a broken pipe, and the input does not end
//! before `CloseIO`. When the process has ended the daemon lets go, and readers see the end.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use crate::error::TaskError;

/// What a request says of the standard streams, as it says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StdioPaths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Where a stream comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stream {
    Null,
    Fifo(PathBuf),
    File(PathBuf),
}

/// The standard streams of a container, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stdio {
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
}

/// The daemon's own hold on the fifos.
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
        let stream = |uri: &str| {
            Stream::parse(uri).ok_or_else(|| TaskError::StdioUri { id: id.to_owned(), uri: uri.to_owned() })
        };
        Ok(Self { stdin: stream(&paths.stdin)?, stdout: stream(&paths.stdout)?, stderr: stream(&paths.stderr)? })
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
            Stream::Null | Stream::File(_) => Ok(None),
        };
        let outputs = [hold(&self.stdout)?, hold(&self.stderr)?];
        Ok(Held { stdin: hold(&self.stdin)?, _outputs: outputs.into_iter().flatten().collect() })
    }

    /// Opens the streams for the container's process: input, output, errors. The fifos must be held.
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
            Some(_) => None,
        }
    }

    fn open(&self, mode: OFlags) -> io::Result<OwnedFd> {
        match self {
            Self::Null => Ok(open("/dev/null", mode | OFlags::CLOEXEC, Mode::empty())?),
            Self::Fifo(path) => open_fifo(path, mode),
            Self::File(path) => {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)?;
                }
                Ok(File::options().create(true).append(true).open(path)?.into())
            }
        }
    }
}

/// Opens a fifo for the blocking use that a container expects.
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
        let paths = StdioPaths { stdout: "binary:///logger?x=1".into(), ..StdioPaths::default() };
        assert!(matches!(Stdio::new("a", &paths), Err(TaskError::StdioUri { uri, .. }) if uri == paths.stdout));
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
