//! Reads the files of a cgroup's folder.
//!
//! Files are opened relative to the open folder and read into one buffer: one call for metrics reads up to forty of them.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::read;

/// Size of the buffer, in bytes: enough for all files, except on nodes with very many block devices.
const SIZE: usize = 8 << 10;

/// A reader for the files of one folder.
pub(super) struct Files {
    /// `None` if the cgroup no longer exists.
    folder: Option<OwnedFd>,
    unlimited: u64,
    buffer: Vec<u8>,
}

impl Files {
    /// Opens a folder. `unlimited` is the value for the word `max`. A folder that no longer exists counts as empty.
    pub(super) fn of(folder: &Path, unlimited: u64) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self { folder: open(folder, flags, Mode::empty()).ok(), unlimited, buffer: Vec::with_capacity(SIZE) }
    }

    /// Reads a file; `None` if it is missing or unreadable, like the files of pressure if the kernel does not measure it.
    pub(super) fn text(&mut self, name: &str) -> Option<&str> {
        let file = openat(self.folder.as_ref()?, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        self.buffer.clear();
        loop {
            self.buffer.reserve(SIZE / 2);
            if read(&file, spare_capacity(&mut self.buffer)).ok()? == 0 {
                return std::str::from_utf8(&self.buffer).ok();
            }
        }
    }

    /// Reads a file with one number; `None` if it is missing.
    pub(super) fn find(&mut self, name: &str) -> Option<u64> {
        let unlimited = self.unlimited;
        match self.text(name)?.trim() {
            "max" => Some(unlimited),
            text => text.parse().ok(),
        }
    }

    /// Reads a file with one number; zero if it is missing.
    pub(super) fn number(&mut self, name: &str) -> u64 {
        self.find(name).unwrap_or_default()
    }

    /// Reads a file of `name value` lines; `None` if it is missing.
    pub(super) fn table(&mut self, name: &str) -> Option<impl Iterator<Item = (&str, u64)>> {
        Some(self.text(name)?.lines().filter_map(pair))
    }
}

fn pair(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(' ')?;
    Some((name, value.parse().ok()?))
}
