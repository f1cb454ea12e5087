//! A guest's descriptors: their files, streams and rights.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat};
use rustix::io::Errno;

use super::{Memory, Number, Wasi, longs, low, words};
use crate::rights::{CHANGE, FD_FDSTAT_SET_FLAGS, FD_READ, FD_WRITE, FILE, FOLDER, Rights, STREAM, WRITE};

/// Flags of a descriptor.
pub(super) const APPEND: u16 = 1;
pub(super) const DSYNC: u16 = 1 << 1;
pub(super) const NONBLOCK: u16 = 1 << 2;
pub(super) const RSYNC: u16 = 1 << 3;
pub(super) const SYNC: u16 = 1 << 4;

/// WASI's numbers for kinds of files.
pub(super) mod kind {
    use rustix::fs::FileType;

    pub(super) const UNKNOWN: u8 = 0;
    pub(in super::super) const FOLDER: u8 = 3;

    /// Returns the number for the kernel's file type.
    pub(in super::super) fn of(found: FileType) -> u8 {
        match found {
            FileType::BlockDevice => 1,
            FileType::CharacterDevice => 2,
            FileType::Directory => FOLDER,
            FileType::RegularFile => 4,
            FileType::Socket => 6,
            FileType::Symlink => 7,
            FileType::Fifo | FileType::Unknown => UNKNOWN,
        }
    }
}

/// The file or stream behind a descriptor.
#[derive(Debug)]
enum Open {
    /// A stream of the process, which other processes may share.
    Stream(BorrowedFd<'static>),
    File(OwnedFd),
}

/// One of a guest's descriptors.
#[derive(Debug)]
pub(super) struct Descriptor {
    open: Open,
    kind: u8,
    pub(super) base: Rights,
    pub(super) inheriting: Rights,
    pub(super) flags: u16,
    /// The guest can change nothing through it.
    pub(super) read_only: bool,
    /// The guest's name for it, if the guest starts with it.
    name: Option<String>,
    /// It stands for both the working directory and `/`.
    pub(super) either: bool,
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.open {
            Open::Stream(stream) => *stream,
            Open::File(file) => file.as_fd(),
        }
    }
}

impl Descriptor {
    /// Opens a folder that the guest starts with.
    pub(super) fn given(host: &Path, name: String, read_only: bool) -> Result<Self, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::open(host, flags, Mode::empty());
        // A guest may pass through a folder that it cannot list.
        let folder = match open(flags | OFlags::RDONLY) {
            Err(Errno::ACCESS) => open(flags | OFlags::PATH)?,
            folder => folder?,
        };
        let mut given = Self::opened(folder, FOLDER | FILE, read_only)?;
        given.name = Some(name);
        Ok(given)
    }

    /// Describes a file or folder that was opened below a folder; `rights` are the most that it may have.
    pub(super) fn opened(file: OwnedFd, rights: Rights, read_only: bool) -> Result<Self, Errno> {
        let rights = if read_only { rights & !CHANGE } else { rights };
        let found = FileType::from_raw_mode(fstat(&file)?.st_mode);
        let base = match found {
            FileType::Directory => FOLDER,
            FileType::RegularFile | FileType::BlockDevice => FILE,
            _ if has_position(file.as_fd()) => FILE,
            _ => STREAM,
        };
        Ok(Self {
            open: Open::File(file),
            kind: kind::of(found),
            base: base & rights,
            inheriting: if found == FileType::Directory { rights } else { 0 },
            flags: 0,
            read_only,
            name: None,
            either: false,
        })
    }

    /// Describes a stream of the process.
    fn stream(stream: BorrowedFd<'static>, direction: Rights) -> Self {
        let found = fstat(stream).map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
        let base = if has_position(stream) { FILE } else { STREAM };
        let other = (FD_READ | WRITE) & !direction;
        Self {
            open: Open::Stream(stream),
            kind: kind::of(found),
            base: base & !other,
            inheriting: 0,
            flags: 0,
            read_only: false,
            name: None,
            either: false,
        }
    }

    /// Returns whether it is a folder.
    pub(super) fn is_folder(&self) -> bool {
        self.kind == kind::FOLDER
    }

    /// Returns whether it is a stream of the process that the guest wants to wait for.
    pub(super) fn is_patient(&self) -> bool {
        matches!(self.open, Open::Stream(_)) && self.flags & NONBLOCK == 0
    }

    /// Returns whether it is a stream of the process that the guest does not want to wait for. Other processes share
    /// the stream, and may want to wait.
    pub(super) fn is_impatient(&self) -> bool {
        matches!(self.open, Open::Stream(_)) && self.flags & NONBLOCK != 0
    }

    /// Checks that the descriptor has a right.
    pub(super) fn check(&self, right: Rights) -> Result<&Self, Number> {
        match self.base & right {
            had if had == right => Ok(self),
            _ if self.read_only && right & CHANGE != 0 => Err(Number::ROFS),
            _ if self.is_folder() && right & !FOLDER != 0 => Err(Number::ISDIR),
            _ => Err(Number::NOTCAPABLE),
        }
    }
}

/// Returns whether a file has a position. A terminal has none, which is how libraries recognise it. Any other character
/// device counts as positioned, because there is no way to tell.
fn has_position(file: BorrowedFd<'_>) -> bool {
    let found = fstat(file).map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
    match found {
        FileType::RegularFile | FileType::BlockDevice => true,
        FileType::CharacterDevice => !rustix::termios::isatty(file),
        _ => false,
    }
}

/// All of a guest's descriptors, by number.
#[derive(Debug)]
pub(super) struct Table(BTreeMap<u32, Descriptor>);

impl Table {
    /// Makes a table with the standard streams.
    pub(super) fn with_streams() -> Self {
        let streams =
            [(rustix::stdio::stdin(), FD_READ), (rustix::stdio::stdout(), WRITE), (rustix::stdio::stderr(), WRITE)];
        Self((0..).zip(streams.map(|(stream, direction)| Descriptor::stream(stream, direction))).collect())
    }

    /// Gives a descriptor the lowest free number.
    pub(super) fn insert(&mut self, descriptor: Descriptor) -> Result<u32, Number> {
        let mut free = 0;
        for number in self.0.keys() {
            if *number != free {
                break;
            }
            free += 1;
        }
        self.0.insert(free, descriptor);
        Ok(free)
    }

    /// Finds a descriptor.
    pub(super) fn get(&self, number: u32) -> Result<&Descriptor, Number> {
        self.0.get(&number).ok_or(Number::BADF)
    }

    /// Finds a descriptor that has a right.
    pub(super) fn with(&self, number: u32, right: Rights) -> Result<&Descriptor, Number> {
        self.get(number)?.check(right)
    }

    fn get_mut(&mut self, number: u32) -> Result<&mut Descriptor, Number> {
        self.0.get_mut(&number).ok_or(Number::BADF)
    }

    fn remove(&mut self, number: u32) -> Result<Descriptor, Number> {
        self.0.remove(&number).ok_or(Number::BADF)
    }
}

/// `fd_close`
pub(super) fn close(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd] = words(arguments);
    wasi.table.remove(fd).map(drop)
}

/// `fd_renumber`
pub(super) fn renumber(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [from, to] = words(arguments);
    wasi.table.get(from)?;
    wasi.table.get(to)?;
    let moved = wasi.table.remove(from)?;
    wasi.table.0.insert(to, moved);
    Ok(())
}

/// `fd_fdstat_get`
pub(super) fn fdstat_get(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, found] = words(arguments);
    let descriptor = wasi.table.get(fd)?;
    let mut bytes = [0; 24];
    bytes[0] = descriptor.kind;
    bytes[2..4].copy_from_slice(&descriptor.flags.to_le_bytes());
    bytes[8..16].copy_from_slice(&descriptor.base.to_le_bytes());
    bytes[16..].copy_from_slice(&descriptor.inheriting.to_le_bytes());
    memory.put(found, &bytes)
}

/// `fd_fdstat_set_flags`
pub(super) fn fdstat_set_flags(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    /// The only flags that Linux changes on an open file.
    const CHANGEABLE: u16 = APPEND | NONBLOCK;
    let [fd, flags] = words(arguments);
    let flags = u16::try_from(flags).map_err(|_| Number::INVAL)?;
    wasi.table.with(fd, FD_FDSTAT_SET_FLAGS)?;
    let descriptor = wasi.table.get_mut(fd)?;
    if (flags ^ descriptor.flags) & !CHANGEABLE != 0 {
        return Err(Number::NOTSUP);
    }
    if let Open::File(file) = &descriptor.open {
        let mut wanted = OFlags::empty();
        wanted.set(OFlags::APPEND, flags & APPEND != 0);
        wanted.set(OFlags::NONBLOCK, flags & NONBLOCK != 0);
        fcntl_setfl(file, wanted)?;
    }
    descriptor.flags = flags;
    Ok(())
}

/// `fd_fdstat_set_rights`
pub(super) fn fdstat_set_rights(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, base, inheriting] = longs(arguments);
    let descriptor = wasi.table.get_mut(low(fd))?;
    if base & !descriptor.base != 0 || inheriting & !descriptor.inheriting != 0 {
        return Err(Number::NOTCAPABLE);
    }
    (descriptor.base, descriptor.inheriting) = (base, inheriting);
    Ok(())
}

/// `fd_prestat_get`
pub(super) fn prestat_get(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, found] = words(arguments);
    let name = wasi.table.get(fd)?.name.as_ref().ok_or(Number::BADF)?;
    // Zero stands for a folder, the only kind.
    memory.put_word(found, 0)?;
    memory.put_count(found.checked_add(4).ok_or(Number::FAULT)?, name.len())
}

/// `fd_prestat_dir_name`
pub(super) fn prestat_dir_name(wasi: &mut Wasi, memory: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd, at, room] = words(arguments);
    let name = wasi.table.get(fd)?.name.as_ref().ok_or(Number::BADF)?;
    if name.len() > room as usize {
        return Err(Number::NAMETOOLONG);
    }
    memory.put(at, name.as_bytes())
}

/// Refuses all functions of sockets: to a guest, no descriptor is a socket.
pub(super) fn no_socket(wasi: &mut Wasi, _: &mut Memory<'_>, arguments: &[u64]) -> Result<(), Number> {
    let [fd] = words(arguments);
    wasi.table.get(fd)?;
    Err(Number::NOTSOCK)
}

/// Returns whether the rights ask to write to a file.
pub(super) fn writes(rights: Rights) -> bool {
    rights & FD_WRITE != 0
}
