//! Finds the file of a container's first argument inside its root filesystem.
//!
//! All files in the root filesystem are hostile: the kernel resolves links as if the root filesystem were `/`, and only regular files are
//! read.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use prewasi_precompiler::{is_named_wasm, split_function};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

/// Most folders of a search path that are searched. The image writes the path, and each folder costs the node a lookup.
const FOLDERS: usize = 1024;

/// The parsed first argument of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entrypoint {
    /// The program: a path or a name.
    pub(crate) program: String,
    /// The export to call: the part after the last `#`.
    pub(crate) function: Option<String>,
}

impl Entrypoint {
    /// Parses an argument: `file.wasm#function` calls that export.
    pub(crate) fn parse(argument: &str) -> Self {
        let (program, function) = split_function(argument);
        Self { program: program.to_owned(), function: function.map(str::to_owned) }
    }

    /// Returns whether the name is that of a wasm file.
    pub(crate) fn is_named_wasm(&self) -> bool {
        is_named_wasm(&self.program)
    }

    /// Opens the program in a root filesystem; `None` if there is no such file.
    ///
    /// # Errors
    /// The system's error, except that the file does not exist.
    pub(crate) fn open(&self, root: &Path, cwd: &Path, search: &str) -> io::Result<Option<File>> {
        let root = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for path in self.candidates(cwd, search) {
            let found = loop {
                match openat2(root.as_fd(), &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
                    // After a concurrent rename the kernel wants the call to be repeated.
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    found => break found,
                }
            };
            match found {
                Ok(found) if is_regular(&found)? => return reopen(&found).map(Some),
                Ok(_) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Lists the candidates: a path as it is; a name in the search path, and for wasm first in the working directory.
    pub(crate) fn candidates(&self, cwd: &Path, search: &str) -> Vec<PathBuf> {
        if self.program.contains('/') {
            return vec![cwd.join(&self.program)];
        }
        let own = self.is_named_wasm().then(|| cwd.join(&self.program));
        let folders = search.split(':').filter(|folder| !folder.is_empty()).take(FOLDERS);
        let others = folders.map(|folder| cwd.join(folder).join(&self.program));
        own.into_iter().chain(others).collect()
    }
}

fn is_regular(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::RegularFile)
}

/// Opens a found file for reading. Its type must have been checked: opening a device may have effects, and the container's device list
/// does not restrict this process.
fn reopen(found: &OwnedFd) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Compares the first bytes of a file, without moving its offset.
///
/// # Errors
/// The system's error.
pub(crate) fn starts_with(file: &File, magic: &[u8]) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut start = vec![0; magic.len()];
    match file.read_exact_at(&mut start, 0) {
        Ok(()) => Ok(start == magic),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("prewasi-entrypoint-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("root/bin")).unwrap();
            fs::write(dir.join("secret"), "outside").unwrap();
            fs::write(dir.join("root/app.wasm"), "\0asm").unwrap();
            fs::write(dir.join("root/bin/sh"), "#!").unwrap();
            Self(dir)
        }

        fn read(&self, program: &str, cwd: &str) -> Option<String> {
            let file = Entrypoint::parse(program).open(&self.0.join("root"), Path::new(cwd), "/usr/bin:/bin").unwrap();
            file.map(|mut file| {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                text
            })
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// The function is the part after the last `#`.
    #[test]
    fn functions() {
        let parse = |argument| {
            let entrypoint = Entrypoint::parse(argument);
            (entrypoint.program, entrypoint.function)
        };
        assert_eq!(parse("/a.wasm#run"), ("/a.wasm".to_owned(), Some("run".to_owned())));
        assert_eq!(parse("/a#b.wasm#run"), ("/a#b.wasm".to_owned(), Some("run".to_owned())));
        assert_eq!(parse("/a.wasm"), ("/a.wasm".to_owned(), None));
        assert_eq!(parse("#run"), ("#run".to_owned(), None));
    }

    /// Paths, names in the working directory and names in the search path are found.
    #[test]
    fn finds_programs() {
        let root = Root::new("finds");
        assert_eq!(root.read("/app.wasm", "/").as_deref(), Some("\0asm"));
        assert_eq!(root.read("app.wasm", "/").as_deref(), Some("\0asm"));
        assert_eq!(root.read("../app.wasm", "/bin").as_deref(), Some("\0asm"));
        assert_eq!(root.read("sh", "/").as_deref(), Some("#!"));
        assert_eq!(root.read("nothing", "/"), None);
        assert_eq!(root.read("/bin", "/"), None);
    }

    /// Links and dots do not lead out of the root filesystem.
    #[test]
    fn stays_inside() {
        let root = Root::new("inside");
        symlink("../secret", root.0.join("root/up.wasm")).unwrap();
        symlink(root.0.join("secret"), root.0.join("root/absolute.wasm")).unwrap();
        symlink("/bin/sh", root.0.join("root/good.wasm")).unwrap();
        assert_eq!(root.read("/up.wasm", "/"), None);
        assert_eq!(root.read("/absolute.wasm", "/"), None);
        assert_eq!(root.read("/../secret", "/"), None);
        assert_eq!(root.read("/good.wasm", "/").as_deref(), Some("#!"));
    }

    /// A search path has its end, however long the image makes it.
    #[test]
    fn search_paths_are_bounded() {
        let entrypoint = Entrypoint::parse("a");
        assert_eq!(entrypoint.candidates(Path::new("/"), &"/d:".repeat(FOLDERS + 1)).len(), FOLDERS);
    }

    /// Files that are not regular are not opened: a fifo would block, and opening a device may have effects.
    #[test]
    fn only_files_are_opened() {
        use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

        let root = Root::new("special");
        let fifo = root.0.join("root/f.wasm");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, &fifo, WatchFlags::OPEN).unwrap();
        assert_eq!(root.read("/f.wasm", "/"), None);
        let mut events = [0; 64];
        assert_eq!(rustix::io::read(&watch, &mut events), Err(rustix::io::Errno::AGAIN));
        drop(open(&fifo, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap());
        assert!(rustix::io::read(&watch, &mut events).unwrap() > 0);
    }

    /// The first bytes are compared, and a shorter file does not match.
    #[test]
    fn magic() {
        let root = Root::new("magic");
        let file = File::open(root.0.join("root/app.wasm")).unwrap();
        assert!(starts_with(&file, b"\0asm").unwrap());
        assert!(!starts_with(&file, b"\0asm\x01").unwrap());
    }
}
