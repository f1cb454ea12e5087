//! A guest's description as a library in C takes it.

use std::ffi::CString;
use std::fs::File;

use crate::preopens::Folder;
use crate::{Guest, RunError};

/// What a guest is started with.
pub(crate) struct Texts {
    pub(crate) args: Vec<CString>,
    /// `name=value` each.
    pub(crate) env: Vec<CString>,
    /// As the library wants them.
    pub(crate) folders: Vec<CString>,
    /// Each folder, open, and whether nothing in it can be changed.
    pub(crate) opened: Vec<(File, bool)>,
}

impl Texts {
    /// Writes it down; `mapping` writes a folder. Folders that a guest can do without are left out if they cannot be opened.
    ///
    /// # Errors
    /// [`RunError::Setup`] names the folder, or the text that cannot be written.
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

/// Says that a folder cannot be given to a guest.
pub(crate) fn refused(folder: &Folder, reason: &str) -> RunError {
    setup(format!("folder {} as {:?}: {reason}", folder.host.display(), folder.guest))
}

/// Says why a guest cannot be set up.
pub(crate) fn setup(reason: String) -> RunError {
    RunError::Setup { reason }
}
