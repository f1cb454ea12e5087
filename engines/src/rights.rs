//! Rights of WASI preview 1 that concern changes of files and folders.

/// A set of WASI rights: one bit each.
pub(crate) type Rights = u64;

const FD_DATASYNC: Rights = 1;
const FD_WRITE: Rights = 1 << 6;
const FD_ALLOCATE: Rights = 1 << 8;
const PATH_CREATE_DIRECTORY: Rights = 1 << 9;
const PATH_CREATE_FILE: Rights = 1 << 10;
pub(crate) const PATH_LINK_SOURCE: Rights = 1 << 11;
pub(crate) const PATH_LINK_TARGET: Rights = 1 << 12;
pub(crate) const PATH_RENAME_SOURCE: Rights = 1 << 16;
pub(crate) const PATH_RENAME_TARGET: Rights = 1 << 17;
const PATH_FILESTAT_SET_SIZE: Rights = 1 << 19;
const PATH_FILESTAT_SET_TIMES: Rights = 1 << 20;
const FD_FILESTAT_SET_SIZE: Rights = 1 << 22;
const FD_FILESTAT_SET_TIMES: Rights = 1 << 23;
pub(crate) const PATH_SYMLINK: Rights = 1 << 24;
const PATH_REMOVE_DIRECTORY: Rights = 1 << 25;
const PATH_UNLINK_FILE: Rights = 1 << 26;

/// A file is opened for writing if the guest requests one of these rights.
pub(crate) const WRITE: Rights = FD_WRITE | FD_ALLOCATE | FD_FILESTAT_SET_SIZE;
/// All rights that change a file or folder. The first one changes nothing, but makes engines open a file for writing.
pub(crate) const CHANGE: Rights = FD_DATASYNC
    | WRITE
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
