//! A private folder for a run of the program, and the result of that run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::archive::Archive;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_oci-tar-builder");

pub(crate) const MODULE: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

pub(crate) const COMPONENT: &str = r#"(component
    (import "wasi:io/poll@0.2.6" (instance))
    (core module (func (export "f")))
    (core instance $i (instantiate 0))
    (func $f (canon lift (core func $i "f")))
    (instance $run (export "run" (func $f)))
    (export "wasi:cli/run@0.2.6" (instance $run)))"#;

/// A folder with a module and a component in it.
pub(crate) struct Folder(TempDir);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("demo.wasm", wat::parse_str(MODULE).unwrap());
        folder.write("greet.wasm", wat::parse_str(COMPONENT).unwrap());
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = self.path().read_dir().unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The program, to be run in the folder.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(self.path()).env_remove("SOURCE_DATE_EPOCH");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        self.command(args).output().unwrap().into()
    }

    /// Runs the program, which must succeed, and reads the archive `out.tar`.
    pub(crate) fn pack(&self, args: &[&str]) -> Archive {
        let run = self.run(&[args, &["-o", "out.tar"]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        Archive::read(&self.read("out.tar"))
    }

    /// Runs the program, which must fail with `code`, and returns its message.
    pub(crate) fn refused(&self, code: i32, args: &[&str]) -> String {
        let before = self.names();
        let run = self.run(args);
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        assert_eq!(run.stdout, "", "{args:?}");
        assert_eq!(self.names(), before, "{args:?} left something behind");
        run.stderr
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
