//! `prewasi` without a containerd: archives, layouts, files and the runtime folder are in the test's own folder.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use oci_tar_builder::{Builder, Format};
use tempfile::TempDir;

use crate::home;
use crate::journal::Journal;
use crate::process::{self, Output};

/// Time limit for a program: it may compile a small guest on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A folder for a test.
#[derive(Debug)]
pub struct Local {
    folder: TempDir,
}

impl Local {
    /// Makes the folder, which every user may read.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Self {
        let mode = Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().prefix("prewasi-test-").permissions(mode).tempdir();
        let local = Self { folder: folder.expect("a temporary folder") };
        fs::create_dir(local.runtime_dir()).expect("the folder is ours");
        local
    }

    /// Returns the path of a file in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the runtime folder that [`Self::prewasi`] uses.
    pub fn runtime_dir(&self) -> PathBuf {
        self.path("runtime")
    }

    /// Returns the journal in the runtime folder.
    pub fn journal(&self) -> Journal {
        Journal::new(&self.runtime_dir())
    }

    /// Writes a file that every user may read.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("the folder is ours");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("the file is ours");
        path
    }

    /// Packs an image `localhost/<name>:latest` as the archive `<name>.tar`.
    ///
    /// # Panics
    /// If it cannot be packed.
    pub fn archive(&self, name: &str, describe: impl FnOnce(Builder) -> Builder) -> PathBuf {
        let reference = format!("localhost/{name}:latest").parse().expect("test images have plain names");
        let image = describe(Builder::new(Format::Image, reference)).build().expect("the image is well described");
        let path = self.path(format!("{name}.tar"));
        image.write_file(&path).expect("the folder is ours");
        path
    }

    /// Packs an image as [`Self::archive`] does, and unpacks it as the layout `<name>`.
    ///
    /// # Panics
    /// If it cannot be packed or unpacked.
    pub fn layout(&self, name: &str, describe: impl FnOnce(Builder) -> Builder) -> PathBuf {
        let archive = fs::File::open(self.archive(name, describe)).expect("it has just been written");
        let path = self.path(name);
        tar::Archive::new(archive).unpack(&path).expect("the folder is ours");
        path
    }

    /// Returns the command `prewasi`, with its runtime folder in this folder.
    pub fn command(&self) -> Command {
        let mut command = Command::new(home::program("prewasi"));
        command
            .env("PREWASI_RUNTIME_DIR", self.runtime_dir())
            .env_remove("PREWASI_LOG")
            .current_dir(self.folder.path());
        command
    }

    /// Returns the command `prewasi` for another user, who has no runtime folder yet. The program is copied, because other users may have
    /// no access to the build folder.
    ///
    /// # Panics
    /// If this is not root, or the program cannot be copied.
    pub fn command_as(&self, user: u32) -> Command {
        let program = self.path("prewasi");
        if !program.exists() {
            home::copy_program("prewasi", &program);
            fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("the copy is ours");
        }
        let mut command = Command::new(program);
        command.uid(user).gid(user).env_clear().current_dir(self.folder.path());
        command
    }

    /// Makes a folder that belongs to another user.
    ///
    /// # Panics
    /// If this is not root.
    pub fn folder_of(&self, user: u32, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("the folder is ours");
        fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("the folder is ours");
        chown(&path, Some(user), Some(user)).expect("root may give folders away");
        path
    }

    /// Runs `prewasi`, and waits for its end.
    pub fn prewasi<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(self.command().args(args))
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a program, and waits for its end.
pub fn run(command: &mut Command) -> Output {
    process::run(command, LIMIT)
}
