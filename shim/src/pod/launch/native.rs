//! Native programs: side-cars, and the pause container of a pod.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::unistd::execve;
use prewasi_engines::CANNOT_RUN;

use super::attributes::{AttributeError, Attributes};
use super::confine::{ConfineError, Confinement};
use super::signals;
use super::{NOT_THERE, exit, mend_null_outputs, tell};
use crate::pod::spec::{self, DEFAULT_PATH};

/// Replaces the process by the spec's program.
#[derive(Clone)]
pub(crate) struct NativeExecutor {
    /// The remaining confinement of an exec process. The client gets the reason if such a process cannot start.
    confinement: Option<Confinement>,
    /// Variables in addition to the spec's.
    variables: Vec<(String, String)>,
    attributes: Attributes,
}

/// The reason why a program cannot be executed.
#[derive(Debug, thiserror::Error)]
enum NativeError {
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    #[error("cannot execute an empty command")]
    Empty,
    #[error("cannot execute {program:?}: executable file not found in $PATH")]
    NotInPath { program: String },
    #[error("cannot execute {program:?}")]
    Program {
        program: String,
        #[source]
        source: io::Error,
    },
}

impl NativeExecutor {
    /// Makes an executor for the init process, or with the remaining confinement for an exec process.
    pub(crate) fn new(
        confinement: Option<Confinement>,
        variables: Vec<(String, String)>,
        attributes: Attributes,
    ) -> Self {
        Self { confinement, variables, attributes }
    }

    /// Executes the program; returns the reason if that fails.
    fn replace(&self, spec: &Spec) -> NativeError {
        if let Err(error) = self.attributes.finish() {
            return error.into();
        }
        if let Some(Err(error)) = self.confinement.as_ref().map(Confinement::apply) {
            return error.into();
        }
        let found = match Self::find(spec) {
            Ok(found) => found,
            Err(error) => return error,
        };
        let args = spec::args(spec);
        let failed = |source| NativeError::Program { program: args[0].clone(), source };
        let mut env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        env.extend(self.variables.iter().map(|(name, value)| (name.into(), value.into())));
        env.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
        // The home of a user whom the image does not know, as with runc.
        env.entry("HOME".into()).or_insert_with(|| "/".into());
        let variables = env.into_iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let text = |text: Vec<u8>| CString::new(text).map_err(|error| failed(error.into()));
        let texts = || {
            let args: Result<Vec<_>, _> = args.iter().map(|arg| text(arg.clone().into_bytes())).collect();
            let variables: Result<Vec<_>, _> = variables.map(text).collect();
            Ok((text(found.into_os_string().into_vec())?, args?, variables?))
        };
        let (path, args, variables) = match texts() {
            Ok(texts) => texts,
            Err(error) => return error,
        };
        if let Err(error) = signals::unblock() {
            return failed(error.into());
        }
        // `exec` of the standard library would run a file of an unknown format with the image's shell.
        match execve(&path, &args, &variables) {
            Err(error) => failed(error.into()),
        }
    }

    /// Finds the program's file.
    fn find(spec: &Spec) -> Result<PathBuf, NativeError> {
        let program = spec::args(spec).first().ok_or(NativeError::Empty)?;
        let env = spec::env(spec);
        let search = env.iter().rfind(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value.as_str());
        if program.contains('/') {
            let path = PathBuf::from(program);
            return match is_executable(&path) {
                Ok(()) => Ok(path),
                Err(source) => Err(NativeError::Program { program: program.clone(), source }),
            };
        }
        let mut candidates = search.split(':').map(|folder| PathBuf::from(folder).join(program));
        let found = candidates.find(|path| is_executable(path).is_ok());
        found.ok_or_else(|| NativeError::NotInPath { program: program.clone() })
    }
}

impl Executor for NativeExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        Self::find(spec)
            .and_then(|_| Ok(self.attributes.begin()?))
            .map_err(|error| ExecutorValidationError::ArgValidationError(prewasi_precompiler::chain(&error)))
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        mend_null_outputs();
        signals::forget_ignored();
        let error = self.replace(spec);
        if self.confinement.is_some() {
            return Err(ExecutorError::Other(prewasi_precompiler::chain(&error)));
        }
        let code = match &error {
            NativeError::Program { source, .. } if source.kind() == io::ErrorKind::NotFound => NOT_THERE,
            _ => CANNOT_RUN,
        };
        // The exit code tells the reason even if nobody reads the message.
        let _ = signals::ignore_closed_pipes();
        tell(&error);
        exit(code)
    }
}

fn is_executable(path: &Path) -> io::Result<()> {
    let metadata = path.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder, and a file without the executable bit, are no programs; each has its own reason.
    #[test]
    fn programs() {
        assert!(is_executable(Path::new("/bin/sh")).is_ok());
        assert_eq!(is_executable(Path::new("/bin")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(is_executable(Path::new("/etc/passwd")).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(is_executable(Path::new("/nothing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
