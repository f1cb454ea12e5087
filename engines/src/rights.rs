//! Rights of WASI preview 1.

/// A set of WASI rights: one bit each.
pub(crate) type Rights = u64;

const FD_DATASYNC: Rights = 1;
pub(crate) const FD_READ: Rights = 1 << 1;
pub(crate) const FD_SEEK: Rights = 1 << 2;
pub(crate) const FD_FDSTAT_SET_FLAGS: Rights = 1 << 3;
pub(crate) const FD_SYNC: Rights = 1 << 4;
pub(crate) const FD_TELL: Rights = 1 << 5;
pub(crate) const FD_WRITE: Rights = 1 << 6;
pub(crate) const FD_ADVISE: Rights = 1 << 7;
pub(crate) const FD_ALLOCATE: Rights = 1 << 8;
pub(crate) const PATH_CREATE_DIRECTORY: Rights = 1 << 9;
pub(crate) const PATH_CREATE_FILE: Rights = 1 << 10;
pub(crate) const PATH_LINK_SOURCE: Rights = 1 << 11;
pub(crate) const PATH_LINK_TARGET: Rights = 1 << 12;
pub(crate) const PATH_OPEN: Rights = 1 << 13;
pub(crate) const FD_READDIR: Rights = 1 << 14;
pub(crate) const PATH_READLINK: Rights = 1 << 15;
pub(crate) const PATH_RENAME_SOURCE: Rights = 1 << 16;
pub(crate) const PATH_RENAME_TARGET: Rights = 1 << 17;
pub(crate) const PATH_FILESTAT_GET: Rights = 1 << 18;
pub(crate) const PATH_FILESTAT_SET_SIZE: Rights = 1 << 19;
pub(crate) const PATH_FILESTAT_SET_TIMES: Rights = 1 << 20;
pub(crate) const FD_FILESTAT_GET: Rights = 1 << 21;
pub(crate) const FD_FILESTAT_SET_SIZE: Rights = 1 << 22;
pub(crate) const FD_FILESTAT_SET_TIMES: Rights = 1 << 23;
pub(crate) const PATH_SYMLINK: Rights = 1 << 24;
pub(crate) const PATH_REMOVE_DIRECTORY: Rights = 1 << 25;
pub(crate) const PATH_UNLINK_FILE: Rights = 1 << 26;
const POLL_FD_READWRITE: Rights = 1 << 27;

/// The rights that need a file that is open for writing.
pub(crate) const WRITE: Rights = FD_WRITE | FD_ALLOCATE | FD_FILESTAT_SET_SIZE | FD_DATASYNC;
/// All rights that change a file or a folder.
pub(crate) const CHANGE: Rights = WRITE
    | PATH_CREATE_DIRECTORY
    | PATH_CREATE_FILE
    | PATH_LINK_SOURCE
    | PATH_LINK_TARGET
    | PATH_RENAME_SOURCE
    | PATH_RENAME_TARGET
    | PATH_FILESTAT_SET_SIZE
    | PATH_FILESTAT_SET_TIMES
    | FD_FILESTAT_SET_TIMES
    | PATH_SYMLINK
    | PATH_REMOVE_DIRECTORY
    | PATH_UNLINK_FILE;
/// Rights that apply to any open file, stream or folder.
const ANY: Rights =
    FD_DATASYNC | FD_FDSTAT_SET_FLAGS | FD_SYNC | FD_FILESTAT_GET | FD_FILESTAT_SET_TIMES | POLL_FD_READWRITE;
/// Rights that apply to a stream: a sequence of bytes without a position.
pub(crate) const STREAM: Rights = ANY | FD_READ | FD_WRITE;
/// Rights that apply to a file.
pub(crate) const FILE: Rights = STREAM | FD_SEEK | FD_TELL | FD_ADVISE | FD_ALLOCATE | FD_FILESTAT_SET_SIZE;
/// Rights that apply to a folder.
pub(crate) const FOLDER: Rights = ANY
    | PATH_CREATE_DIRECTORY
    | PATH_CREATE_FILE
    | PATH_LINK_SOURCE
    | PATH_LINK_TARGET
    | PATH_OPEN
    | FD_READDIR
    | PATH_READLINK
    | PATH_RENAME_SOURCE
    | PATH_RENAME_TARGET
    | PATH_FILESTAT_GET
    | PATH_FILESTAT_SET_SIZE
    | PATH_FILESTAT_SET_TIMES
    | PATH_SYMLINK
    | PATH_REMOVE_DIRECTORY
    | PATH_UNLINK_FILE;
