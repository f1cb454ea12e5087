//! Folders of the process that a guest may use.
//!
//! A folder is opened once, when the guest is set up; everything in it is reached from that descriptor, and the kernel
//! itself sees to it that no path, link or race leads out of it (`openat2`). Out of the process's own root nothing leads. What changes something is refused in a
//! read-only folder before it gets that far.
//!
//! wasmer gives a guest one tree of folders. Each of the guest's folders is mounted in it under its name, and what
//! [`preopens`] makes of the list is what the guest is told.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType as Kind, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use wasmer_wasix::WasiEnvBuilder;
use wasmer_wasix::virtual_fs::{
    DirEntry, FileOpener, FileSystem, FileType, FsError, Metadata, MountFileSystem, OpenOptions, OpenOptionsConfig,
    ReadDir, VirtualFile,
};

use super::files::OpenFile;
use crate::preopens;
use crate::{Guest, RunError};

/// What new files may be before the process's own mask: as C programs make them.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

type FsResult<T> = Result<T, FsError>;

/// Opens a guest's folders and names them to the guest.
///
/// # Errors
/// [`RunError::Setup`] names a folder that cannot be opened.
pub(super) fn open(guest: &Guest, wasi: &mut WasiEnvBuilder) -> Result<(), RunError> {
    // Of several folders with one name, the last counts.
    let mut mounts = BTreeMap::new();
    for preopen in &guest.preopens {
        mounts.insert(absolute(&preopen.guest), (&preopen.host, preopen.read_only));
    }
    let tree = MountFileSystem::new();
    for (name, (host, read_only)) in &mounts {
        let folder = Folder::open(host, *read_only).map_err(|error| setup(host, name, error))?;
        tree.mount(name, Arc::new(folder)).map_err(|error| setup(host, name, error))?;
    }
    wasi.set_mount_fs(tree);

    if mounts.is_empty() {
        return Ok(());
    }
    // wasmer's descriptor 3 is the tree's root, which finds nothing unless the root is a folder of the list too.
    let mut told = vec![PathBuf::from("/")];
    add(wasi, Path::new("/"), None, false).map_err(|error| setup(Path::new("/"), Path::new("/"), error))?;
    for folder in preopens::resolve(&guest.preopens, &guest.cwd) {
        // Each is opened, to know now whether it is there.
        match Folder::open(&folder.host, folder.read_only) {
            Ok(_) => {}
            Err(error) if folder.required => return Err(setup(&folder.host, Path::new(&folder.guest), error)),
            Err(_) => continue,
        }
        let working = folder.guest == ".";
        let path = if working { normal(&guest.cwd) } else { absolute(&folder.guest) };
        let name = if working { PathBuf::from(".") } else { path.clone() };
        if told.contains(&name) {
            continue;
        }
        let alias = if folder.guest.starts_with('/') { None } else { Some(folder.guest.as_str()) };
        add(wasi, &path, alias, folder.read_only).map_err(|error| setup(&folder.host, &name, error))?;
        told.push(name);
    }
    Ok(())
}

fn add(
    wasi: &mut WasiEnvBuilder,
    path: &Path,
    alias: Option<&str>,
    read_only: bool,
) -> Result<(), wasmer_wasix::WasiStateCreationError> {
    wasi.add_preopen_build(|folder| {
        folder.directory(path).read(true).write(!read_only).create(!read_only);
        match alias {
            Some(alias) => folder.alias(alias),
            None => folder,
        }
    })
}

/// Returns a path in the tree.
fn absolute(name: &str) -> PathBuf {
    normal(Path::new(name))
}

/// Returns a path in the tree without `.` and `..`, which lead nowhere above the root.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(part) => normal.push(part),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

fn setup(host: &Path, name: &Path, error: impl std::fmt::Display) -> RunError {
    RunError::Setup { reason: format!("folder {} as {:?}: {error}", host.display(), name.display().to_string()) }
}

/// An open folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: Arc<OwnedFd>,
    read_only: bool,
    /// It is the process's root: a path leads where the kernel says, links that are absolute or climb included.
    is_root: bool,
}

impl Folder {
    fn open(host: &Path, read_only: bool) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(host, flags, Mode::empty())?;
        Ok(Self { root: Arc::new(root), read_only, is_root: host.as_os_str() == "/" })
    }

    /// Refuses if nothing may be changed.
    pub(super) fn writable(&self) -> FsResult<()> {
        if self.read_only { Err(FsError::PermissionDenied) } else { Ok(()) }
    }

    /// Removes a file or a link.
    pub(super) fn unlink(&self, path: &Path) -> FsResult<()> {
        self.remove(path, AtFlags::empty())
    }

    fn remove(&self, path: &Path, flags: AtFlags) -> FsResult<()> {
        self.writable()?;
        let (parent, name) = self.parent(path)?;
        rustix::fs::unlinkat(&parent, name, flags).map_err(failed)
    }

    fn at(&self, path: &Path, flags: OFlags, mode: Mode) -> FsResult<OwnedFd> {
        let path = match path.strip_prefix("/").unwrap_or(path) {
            path if path.as_os_str().is_empty() => Path::new("."),
            path => path,
        };
        let mut resolve = ResolveFlags::NO_MAGICLINKS;
        resolve.set(ResolveFlags::BENEATH, !self.is_root);
        loop {
            match rustix::fs::openat2(&*self.root, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // The kernel wants to be asked again when something was renamed meanwhile.
                Err(Errno::INTR | Errno::AGAIN) => {}
                result => return result.map_err(failed),
            }
        }
    }

    /// Opens the folder that a path lies in, and returns the path's last part.
    fn parent(&self, path: &Path) -> FsResult<(OwnedFd, OsString)> {
        let name = path.file_name().ok_or(FsError::InvalidInput)?.to_owned();
        let parent =
            self.at(path.parent().unwrap_or(Path::new("/")), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok((parent, name))
    }

    fn stat(&self, path: &Path, flags: OFlags) -> FsResult<Metadata> {
        let fd = self.at(path, OFlags::PATH | flags, Mode::empty())?;
        Ok(metadata(&rustix::fs::fstat(&fd).map_err(failed)?))
    }
}

impl FileSystem for Folder {
    fn readlink(&self, path: &Path) -> FsResult<PathBuf> {
        let (parent, name) = self.parent(path)?;
        let target = rustix::fs::readlinkat(&parent, name, Vec::new()).map_err(failed)?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    fn read_dir(&self, path: &Path) -> FsResult<ReadDir> {
        let folder = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if [b".".as_slice(), b".."].contains(&name.to_bytes()) {
                continue;
            }
            match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => entries.push(DirEntry {
                    path: path.join(OsString::from_vec(name.to_bytes().to_vec())),
                    metadata: Ok(metadata(&stat)),
                }),
                // It was removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(ReadDir::new(entries))
    }

    fn create_dir(&self, path: &Path) -> FsResult<()> {
        self.writable()?;
        let (parent, name) = self.parent(path)?;
        rustix::fs::mkdirat(&parent, name, FOLDER_MODE).map_err(failed)
    }

    fn create_symlink(&self, source: &Path, target: &Path) -> FsResult<()> {
        self.writable()?;
        let (parent, name) = self.parent(target)?;
        rustix::fs::symlinkat(source, &parent, name).map_err(failed)
    }

    fn hard_link(&self, source: &Path, target: &Path) -> FsResult<()> {
        self.writable()?;
        let ((from, source), (to, target)) = (self.parent(source)?, self.parent(target)?);
        rustix::fs::linkat(&from, source, &to, target, AtFlags::empty()).map_err(failed)
    }

    fn remove_dir(&self, path: &Path) -> FsResult<()> {
        self.remove(path, AtFlags::REMOVEDIR)
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> Pin<Box<dyn Future<Output = FsResult<()>> + Send + 'a>> {
        Box::pin(async move {
            self.writable()?;
            let ((from, source), (to, target)) = (self.parent(from)?, self.parent(to)?);
            rustix::fs::renameat(&from, source, &to, target).map_err(failed)
        })
    }

    fn metadata(&self, path: &Path) -> FsResult<Metadata> {
        self.stat(path, OFlags::empty())
    }

    fn symlink_metadata(&self, path: &Path) -> FsResult<Metadata> {
        self.stat(path, OFlags::NOFOLLOW)
    }

    fn remove_file(&self, path: &Path) -> FsResult<()> {
        self.unlink(path)
    }

    fn new_open_options(&self) -> OpenOptions<'_> {
        OpenOptions::new(self)
    }
}

impl FileOpener for Folder {
    fn open(&self, path: &Path, options: &OpenOptionsConfig) -> FsResult<Box<dyn VirtualFile + Send + Sync + 'static>> {
        if options.would_mutate() {
            self.writable()?;
        }
        let write = options.write || options.append;
        let mut flags = match (options.read, write) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            (_, false) => OFlags::RDONLY,
        };
        for (wanted, flag) in [
            (options.append, OFlags::APPEND),
            (options.truncate && write, OFlags::TRUNC),
            (options.create && write, OFlags::CREATE),
            (options.create_new && write, OFlags::CREATE | OFlags::EXCL),
        ] {
            flags.set(flag, flags.contains(flag) || wanted);
        }
        let mode = if flags.contains(OFlags::CREATE) { FILE_MODE } else { Mode::empty() };
        let file = File::from(self.at(path, flags, mode)?);
        if Kind::from_raw_mode(rustix::fs::fstat(&file).map_err(failed)?.st_mode) == Kind::Directory {
            return Err(FsError::NotAFile);
        }
        Ok(Box::new(OpenFile::new(file, self.clone(), path.to_path_buf())))
    }
}

fn metadata(stat: &Stat) -> Metadata {
    let kind = Kind::from_raw_mode(stat.st_mode);
    Metadata {
        ft: FileType {
            dir: kind == Kind::Directory,
            file: kind == Kind::RegularFile,
            symlink: kind == Kind::Symlink,
            char_device: kind == Kind::CharacterDevice,
            block_device: kind == Kind::BlockDevice,
            socket: kind == Kind::Socket,
            fifo: kind == Kind::Fifo,
        },
        accessed: nanoseconds(stat.st_atime, stat.st_atime_nsec),
        created: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        len: stat.st_size.cast_unsigned(),
    }
}

/// Returns a time since 1970; 0 for one before.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: impl TryInto<u64>) -> u64 {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.try_into().unwrap_or(0))
}

/// Tells wasmer what the system says, as far as it has a word for it.
pub(super) fn failed(error: Errno) -> FsError {
    match error {
        // A file that cannot be opened for writing is tried again for reading if it is called so.
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY | Errno::XDEV => FsError::PermissionDenied,
        Errno::NOTDIR => FsError::BaseNotDirectory,
        Errno::ISDIR => FsError::PermissionDenied,
        Errno::NOTEMPTY => FsError::DirectoryNotEmpty,
        Errno::NOSPC | Errno::DQUOT => FsError::StorageFull,
        error => FsError::from(std::io::Error::from(error)),
    }
}

#[cfg(test)]
#[path = "folders/tests.rs"]
mod tests;
