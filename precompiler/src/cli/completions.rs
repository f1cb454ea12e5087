//! `completions`: scripts with which a shell completes the command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Prewasi, Status};

/// Print a script that completes the command line in a shell
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Shell to complete for
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(&self) -> Status {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Prewasi::command(), "prewasi", &mut script);
        super::progress::print(String::from_utf8_lossy(&script).trim_end());
        Status::Done
    }
}
