//! `man`: the manual, one page for each command.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{Prewasi, Status};
use crate::report;

/// Write the manual pages into a folder
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The folder, made when needed, e.g. /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// The folder cannot be written to.
#[derive(Debug, thiserror::Error)]
#[error("cannot write manual pages into {}", folder.display())]
struct ManError {
    folder: PathBuf,
    source: std::io::Error,
}

impl Man {
    pub(super) fn execute(&self) -> Status {
        let write = || {
            std::fs::create_dir_all(&self.folder)?;
            clap_mangen::generate_to(Prewasi::command().disable_help_subcommand(true), &self.folder)
        };
        match write() {
            Ok(()) => Status::Done,
            Err(source) => {
                report(&ManError { folder: self.folder.clone(), source }, None);
                Status::Input
            }
        }
    }
}
