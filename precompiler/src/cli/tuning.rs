//! Options of commands that compile: the machine, and the runtimes' options.

use std::path::PathBuf;

use clap::Args;
use prewasi_engines::{Engine, Machine, Tuning, TuningError};

use crate::{Options, OptionsError};

/// Which CPU the native code is for.
#[derive(Debug, Args)]
pub(super) struct CpuArgs {
    /// CPU that the code is for: native, baseline, or a level such as x86-64-v3
    #[arg(long, value_name = "CPU")]
    cpu: Option<String>,
}

/// Which machine the native code is for, if it need not run here.
#[derive(Debug, Args)]
pub(super) struct MachineArgs {
    /// Machine that the code is for, e.g. aarch64-unknown-linux-gnu; other than this one only with --store oci:PATH
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    #[command(flatten)]
    cpu: CpuArgs,
}

/// With the options of which runtimes.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// File with the options of a runtime, over those of the node; may be repeated, for several runtimes
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
}

impl CpuArgs {
    pub(super) fn machine(&self) -> Machine {
        Machine { target: None, cpu: self.cpu.clone() }
    }
}

impl MachineArgs {
    pub(super) fn machine(&self) -> Machine {
        Machine { target: self.target.clone(), cpu: self.cpu.cpu.clone() }
    }
}

impl ConfigArgs {
    /// Returns the options of each runtime; those of the node if no file is named.
    ///
    /// # Errors
    /// [`OptionsError`] names the file.
    pub(super) fn options(&self) -> Result<Vec<Options>, OptionsError> {
        let node = Options::of_node()?;
        let over = |file: &PathBuf| {
            let mut options = node.clone();
            options.set_file(file.clone()).map(|()| options)
        };
        if self.config.is_empty() { Ok(vec![node]) } else { self.config.iter().map(over).collect() }
    }
}

/// Returns whether code for this machine differs from the code of these engines without tuning.
///
/// # Errors
/// [`TuningError`] if there is no such machine.
pub(super) fn is_another_machine(engines: &[&dyn Engine], machine: &Machine) -> Result<bool, TuningError> {
    let tuning = Tuning { machine: machine.clone(), ..Tuning::default() };
    let others = engines.iter().map(|engine| engine.tuned(&tuning)).collect::<Result<Vec<_>, _>>()?;
    Ok(others.iter().zip(engines).any(|(other, host)| other.fingerprint() != host.fingerprint()))
}
