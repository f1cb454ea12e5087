//! A guest's parameters in the form that a C library takes.

use std::ffi::CString;
use std::fs::File;

use crate::preopens::Folder;
use crate::{Guest, RunError};

/// The parameters of a guest.
pub(crate) struct Texts {
    pub(crate) args: Vec<CString>,
    /// `name=value` each.
    pub(crate) env: Vec<CString>,
    /// In the library's own notation.
    pub(crate) folders: Vec<CString>,
    /// Each open folder, and whether it is read-only.
    pub(crate) opened: Vec<(File, bool)>,
}

impl Texts {
    /// Converts the parameters; `mapping` writes a folder in the library's notation. Optional folders that cannot be opened are left out.
    ///
    /// # Errors
    /// [`RunError::Setup`] names the folder, or the text that cannot be converted.
    pub(crate) fn of(
        guest: &Guest,
        given: Vec<Folder>,
        mapping: impl Fn(&Folder) -> Result<CString, RunError>,
    ) -> Result<Self, RunError> {
        let (mut folders, mut opened) = (Vec::new(), Vec::new());
        for folder in given {
            match File::open(&folder.host) {
                Err(error) if folder.required => return Err(refused(&folder, &error.to_string())),
                Err(_) => continue,
                Ok(file) => opened.push((file, folder.read_only)),
            }
            folders.push(mapping(&folder)?);
        }
        let variable = |(name, value): &(String, String)| format!("{name}={value}");
        Ok(Self {
            args: texts(guest.args.iter().cloned())?,
            env: texts(guest.env.iter().map(variable))?,
            folders,
            opened,
        })
    }
}

fn texts(texts: impl Iterator<Item = String>) -> Result<Vec<CString>, RunError> {
    let text = |text: String| CString::new(text).map_err(|error| setup(format!("an argument or variable: {error}")));
    texts.map(text).collect()
}

/// Makes the error of a folder that cannot be given to a guest.
pub(crate) fn refused(folder: &Folder, reason: &str) -> RunError {
    setup(format!("folder {} as {:?}: {reason}", folder.host.display(), folder.guest))
}

/// Makes the error of a guest that cannot be set up.
pub(crate) fn setup(reason: String) -> RunError {
    RunError::Setup { reason }
}
