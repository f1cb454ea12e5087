//! `make test-node`: runs the cases of `test/node/suite` on a node as in production; also boots that node for manual work.
//!
//! The node is a virtual machine: Debian with systemd, pure cgroup v2, AppArmor and the distribution's containerd as a service. A case is
//! a script. It runs there with runc and with prewasi's shim, and must print the same with both.

mod by_hand;
mod case;
mod client;
mod error;
mod machine;
mod nodes;
mod parts;
mod trials;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use libtest_mimic::Arguments;

use crate::error::NodeError;
use crate::trials::Form;

/// A node as production has it: a virtual machine to test on
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the cases; the arguments are those of `cargo test`
    Test {
        /// Leave out cases that take long, and newer containerds
        #[arg(long)]
        short: bool,
        /// Names of cases, and options of the test runner
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Boot a node to work on, unless it runs already, and install programs, images and cases
    Boot,
    /// Open a shell on that node, or run a command
    Ssh {
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Stop that node
    Stop,
    /// Call containerd for cases, where `ctr` has no command; runs in the node
    #[command(subcommand)]
    Client(client::Verb),
}

fn main() -> ExitCode {
    let done = match Args::parse().verb {
        Verb::Test { short, arguments } => {
            let arguments = Arguments::from_iter(std::iter::once("node test".to_owned()).chain(arguments));
            return trials::run(if short { Form::Short } else { Form::Long }, &arguments);
        }
        Verb::Boot => by_hand::boot(),
        Verb::Ssh { command } => by_hand::ssh(&command),
        Verb::Stop => by_hand::stop(),
        Verb::Client(verb) => client::run(verb),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {}", error.chain());
        ExitCode::FAILURE
    })
}

impl NodeError {
    /// Returns the error and its causes.
    fn chain(&self) -> String {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}
