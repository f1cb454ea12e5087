//! Terminals: the only streams that the daemon copies.
//!
//! A process with a terminal makes it inside the container, as its own standard streams. It sends the other end, the master, to a socket
//! of the daemon. From then on two tasks of the daemon copy: from the terminal to the output fifo, and from the input fifo to the
//! terminal. Neither blocks. The daemon holds both ends of the fifos, so that containerd may restart.
//!
//! The output ends when the process has ended and all its output is copied. Then the master is closed, which hangs up the terminal for
//! its remaining users.

use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::{Stdio, Stream, StreamError, is_fifo, open_fifo};
use crate::node::readiness;

/// Size of one copy, in bytes.
const CHUNK: usize = 32 << 10;
/// Time limit for the client to read the last output; after it, the end of the process is reported.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Pause while no process has the terminal open; some programs close and reopen it.
const PAUSE: Duration = Duration::from_millis(20);

/// The reason why a process has no terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    #[error("cannot listen on {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot receive the terminal")]
    Receive(#[source] io::Error),
    #[error("cannot open {}", path.display())]
    Stream {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    File(#[from] StreamError),
    #[error("cannot watch the terminal")]
    Watch(#[source] io::Error),
}

/// The socket to which a process sends its terminal.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// A terminal, with the copying tasks.
#[derive(Debug)]
pub(crate) struct Console {
    master: Arc<AsyncFd<OwnedFd>>,
    /// The daemon's own descriptor of the input.
    input: Option<OwnedFd>,
    process_ended: watch::Sender<bool>,
    drained: watch::Receiver<bool>,
}

impl ConsoleSocket {
    /// Listens on a socket in a folder, whose path may exceed the limit for sockets.
    pub(crate) fn listen(folder: &Path, name: &str) -> Result<Self, ConsoleError> {
        let path = folder.join(name);
        let listen = || {
            let _ = fs::remove_file(&path);
            let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = listen().map_err(|source| ConsoleError::Listen { path: path.clone(), source })?;
        Ok(Self { listener, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Receives the terminal that a process has sent before its report, and gives it to the user of the process.
    pub(crate) fn receive(&self, uid: u32) -> Result<OwnedFd, ConsoleError> {
        let receive = || {
            let (connection, _) = self.listener.accept()?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut name = [0; 64];
            recvmsg(&connection, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut sent = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            sent.next().ok_or_else(|| io::Error::other("the message holds no descriptor"))
        };
        let master = receive().map_err(ConsoleError::Receive)?;
        if uid != 0
            && let Err(error) = give_to(&master, uid)
        {
            tracing::warn!(%error, uid, "cannot give a terminal to the user of its process");
        }
        Ok(master)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // The socket is removed with its folder at the latest.
        let _ = fs::remove_file(&self.path);
    }
}

impl Console {
    /// Starts to copy between a terminal and the streams of a request.
    pub(crate) fn start(master: OwnedFd, stdio: &Stdio) -> Result<Self, ConsoleError> {
        let output = Sink::open(&stdio.stdout)?;
        let input = Source::open(&stdio.stdin)?;
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| ConsoleError::Watch(error.into()))?;
        let master = Arc::new(readiness::watch(master).map_err(ConsoleError::Watch)?);
        let (process_ended, mut ended) = watch::channel(false);
        let (done, drained) = watch::channel(false);
        let input = input.and_then(|(source, held)| {
            let (master, mut ended) = (master.clone(), process_ended.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    () = copy_in(&source, &master) => {}
                    _ = ended.wait_for(|ended| *ended) => {}
                }
            });
            held
        });
        let source = master.clone();
        tokio::spawn(async move {
            if let Err(error) = copy_out(&source, output, &mut ended).await {
                tracing::warn!(%error, "cannot copy the output of a terminal");
            }
            done.send_replace(true);
        });
        Ok(Self { master, input, process_ended, drained })
    }

    /// Closes the held input, so that it ends as soon as containerd closes its side.
    pub(crate) fn close_stdin(&mut self) {
        self.input = None;
    }

    /// Sets the terminal's window size.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&*self.master, size)?)
    }

    /// Returns a future that waits until all output is copied, after the process has ended. It has a time limit: there may be no reader.
    pub(crate) fn drain(&self) -> impl Future<Output = ()> + use<> {
        self.process_ended.send_replace(true);
        let mut drained = self.drained.clone();
        async move {
            if tokio::time::timeout(DRAIN_LIMIT, drained.wait_for(|drained| *drained)).await.is_err() {
                tracing::warn!("nothing reads the last output of a terminal");
            }
        }
    }
}

/// The source of a terminal's input.
enum Source {
    Fifo(AsyncFd<OwnedFd>),
    /// Read in place: the kernel cannot poll files.
    File(File),
}

impl Source {
    /// Opens the source, and a descriptor with which the daemon keeps it from ending early.
    fn open(stream: &Stream) -> Result<Option<(Self, Option<OwnedFd>)>, ConsoleError> {
        let path = match stream {
            Stream::Fifo(path) => path,
            Stream::Path(path) if is_fifo(path) => path,
            Stream::Path(_) | Stream::File(_) => {
                let file = stream.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
                return Ok(Some((Self::File(file.into()), None)));
            }
            Stream::Null | Stream::Logger(_) | Stream::Pipe(_) => return Ok(None),
        };
        let open = |mode| {
            let opened = open_fifo(path, mode | OFlags::NONBLOCK);
            opened.map_err(|source| ConsoleError::Stream { path: path.clone(), source })
        };
        let held = open(OFlags::RDWR)?;
        let fifo = readiness::watch(open(OFlags::RDONLY)?).map_err(ConsoleError::Watch)?;
        Ok(Some((Self::Fifo(fifo), Some(held))))
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Fifo(fifo) => {
                fifo.async_io(tokio::io::Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await
            }
            Self::File(file) => {
                tokio::task::coop::consume_budget().await;
                (&*file).read(buffer)
            }
        }
    }
}

/// The target of a terminal's output.
enum Sink {
    Null,
    Fifo(AsyncFd<OwnedFd>),
    /// Written in place: the kernel cannot poll files.
    File(File),
}

impl Sink {
    fn open(stream: &Stream) -> Result<Self, ConsoleError> {
        match stream {
            Stream::Null => Ok(Self::Null),
            Stream::Fifo(path) => Self::fifo(path, OFlags::RDWR),
            Stream::Path(path) if is_fifo(path) => Self::fifo(path, OFlags::RDWR),
            Stream::Pipe(path) => Self::fifo(path, OFlags::WRONLY),
            Stream::Path(_) | Stream::File(_) => Ok(Self::File(stream.open(OFlags::WRONLY)?.into())),
            Stream::Logger(_) => Err(ConsoleError::Watch(io::Error::other("the logging program has not been started"))),
        }
    }

    fn fifo(path: &Path, mode: OFlags) -> Result<Self, ConsoleError> {
        let fifo = open_fifo(path, mode | OFlags::NONBLOCK);
        let fifo = fifo.map_err(|source| ConsoleError::Stream { path: path.to_owned(), source })?;
        readiness::watch(fifo).map(Self::Fifo).map_err(ConsoleError::Watch)
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Null => Ok(()),
            Self::File(file) => file.write_all(bytes),
            Self::Fifo(fifo) => write_all(fifo, bytes).await,
        }
    }
}

async fn write_all(target: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = target.async_io(tokio::io::Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Copies the terminal's output, until the process has ended and nothing is left.
async fn copy_out(master: &AsyncFd<OwnedFd>, mut sink: Sink, ended: &mut watch::Receiver<bool>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let over = *ended.borrow();
        // A terminal with endless output must not starve the daemon's other tasks.
        tokio::task::coop::consume_budget().await;
        // Reads directly: the runtime may not have seen the readiness at the end yet.
        match rustix::io::read(master.get_ref(), &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => sink.write_all(&buffer[..length]).await?,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::IO) if over => return Ok(()),
            Err(Errno::AGAIN) => {
                tokio::select! {
                    ready = master.readable() => ready?.clear_ready(),
                    _ = ended.changed() => {}
                }
            }
            Err(Errno::IO) => {
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    _ = ended.changed() => {}
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Copies the client's input until its end, and signals that to the terminal's reader.
async fn copy_in(source: &Source, master: &AsyncFd<OwnedFd>) {
    let mut buffer = vec![0; CHUNK];
    let mut at_start_of_line = true;
    loop {
        match source.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => {
                at_start_of_line = buffer[length - 1] == b'\n' || buffer[length - 1] == b'\r';
                if write_all(master, &buffer[..length]).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    let Ok(modes) = tcgetattr(master.get_ref()) else { return };
    if modes.local_modes.contains(LocalModes::ICANON) {
        let end = modes.special_codes[SpecialCodeIndex::VEOF];
        // In the middle of a line the first end-of-file character only ends the line.
        let ends = if at_start_of_line { &[end][..] } else { &[end, end] };
        // A failed write means that the terminal has no reader.
        let _ = write_all(master, ends).await;
    }
}

/// Gives the terminal's other end to a user.
fn give_to(master: &OwnedFd, uid: u32) -> io::Result<()> {
    let flags = nix::libc::O_RDWR | nix::libc::O_NOCTTY | nix::libc::O_CLOEXEC;
    // SAFETY: the call has no memory effects and returns a new descriptor.
    let fd = unsafe { nix::libc::ioctl(master.as_fd().as_raw_fd(), nix::libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, and no other value owns it.
    let slave = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(rustix::fs::fchown(slave, Some(rustix::fs::Uid::from_raw(uid)), None)?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    /// Makes a terminal; returns its two ends.
    fn terminal() -> (OwnedFd, File) {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let master = open("/dev/ptmx", flags, Mode::empty()).unwrap();
        let unlocked = nix::libc::c_int::from(false);
        let slave_flags = nix::libc::O_RDWR | nix::libc::O_NOCTTY | nix::libc::O_CLOEXEC;
        // SAFETY: the calls read one number, and return a new descriptor.
        let slave = unsafe {
            assert_eq!(nix::libc::ioctl(master.as_raw_fd(), nix::libc::TIOCSPTLCK, &raw const unlocked), 0);
            let slave = nix::libc::ioctl(master.as_raw_fd(), nix::libc::TIOCGPTPEER, slave_flags);
            assert!(slave >= 0);
            OwnedFd::from_raw_fd(slave)
        };
        (master, slave.into())
    }

    /// A program that writes without end to a terminal without a reader does not keep the daemon busy.
    #[test]
    fn floods_leave_room_for_others() {
        let (master, slave) = terminal();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let started = Instant::now();
        let writer = std::thread::spawn(move || {
            // Long enough to observe, with a limit in case of failure.
            while !stopped.load(Ordering::Relaxed) && started.elapsed() < Duration::from_secs(5) {
                (&slave).write_all(&[b'x'; 4096]).unwrap();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let master = readiness::watch(master).unwrap();
            let (_end, mut ended) = watch::channel(false);
            let copying = copy_out(&master, Sink::Null, &mut ended);
            assert!(tokio::time::timeout(Duration::from_millis(200), copying).await.is_err());
            assert!(started.elapsed() < Duration::from_secs(4));
            stop.store(true, Ordering::Relaxed);
            // The writer waits for room.
            let mut buffer = [0; 4096];
            while !writer.is_finished() {
                let _ = rustix::io::read(master.get_ref(), &mut buffer);
            }
        });
        writer.join().unwrap();
    }
}
