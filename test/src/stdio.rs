//! Standard streams of a container, as fifos that are read continuously.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::task::JoinHandle;

/// Makes the fifo of a standard input and opens it for writing.
pub(crate) fn input(path: &Path) -> File {
    fifo(path);
    // Opened for reading too, so that the open does not wait for the container.
    File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .expect("the fifo is there")
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("the folder is ours");
}

/// A reader of one stream of a container.
#[derive(Debug)]
pub(crate) struct Stream {
    path: PathBuf,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    pipe: Receiver,
    bytes: Mutex<Vec<u8>>,
}

impl Shared {
    /// Reads the data that is in the pipe now.
    fn drain(&self, read: impl Fn(&mut [u8]) -> io::Result<usize>) {
        let mut buffer = [0; 8192];
        let mut bytes = self.bytes.lock().expect("no holder panics");
        loop {
            match read(&mut buffer) {
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("cannot read a container's output: {error}"),
            }
        }
    }
}

impl Stream {
    /// Makes the fifo and starts to read.
    pub(crate) fn open(path: PathBuf) -> Self {
        fifo(&path);
        // Opened for writing too, so that the pipe has no end when a container closes it.
        let pipe = OpenOptions::new().read_write(true).open_receiver(&path).expect("the fifo is there");
        let shared = Arc::new(Shared { pipe, bytes: Mutex::default() });
        let reader = tokio::spawn({
            let shared = shared.clone();
            async move {
                while shared.pipe.readable().await.is_ok() {
                    shared.drain(|buffer| shared.pipe.try_read(buffer));
                }
            }
        });
        Self { path, shared, reader }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the whole output so far.
    pub(crate) fn text(&self) -> String {
        // Without tokio, which reads only after its driver has seen data.
        self.shared.drain(|buffer| Ok(rustix::io::read(&self.shared.pipe, buffer)?));
        String::from_utf8_lossy(&self.shared.bytes.lock().expect("no holder panics")).into_owned()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
