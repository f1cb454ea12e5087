//! `--target` and `--cpu`: machines other than this one.

use clap::Args;
use prewasi_engines::{Engine, Machine, MachineError};

/// Which machine the native code is for.
#[derive(Debug, Args)]
pub(super) struct MachineArgs {
    /// CPU that the code is for: native, baseline, or a level such as x86-64-v3
    #[arg(long, value_name = "CPU")]
    cpu: Option<String>,
}

impl MachineArgs {
    /// Returns engines for the CPU; `None` if that is what the given ones are for anyway.
    ///
    /// # Errors
    /// [`MachineError`] if there is no such CPU.
    pub(super) fn engines(&self, engines: &[&dyn Engine]) -> Result<Option<Vec<Box<dyn Engine>>>, MachineError> {
        for_machine(engines, &Machine { target: None, cpu: self.cpu.clone() })
    }
}

/// Which machine the native code is for, if it need not run here.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// Machine that the code is for, e.g. aarch64-unknown-linux-gnu; other than this one only with --store oci:PATH
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    #[command(flatten)]
    machine: MachineArgs,
}

impl TargetArgs {
    /// Returns engines for the target and CPU, as [`MachineArgs::engines`] does.
    ///
    /// # Errors
    /// [`MachineError`] if there is no such target or CPU.
    pub(super) fn engines(&self, engines: &[&dyn Engine]) -> Result<Option<Vec<Box<dyn Engine>>>, MachineError> {
        for_machine(engines, &Machine { target: self.target.clone(), cpu: self.machine.cpu.clone() })
    }
}

fn for_machine(engines: &[&dyn Engine], machine: &Machine) -> Result<Option<Vec<Box<dyn Engine>>>, MachineError> {
    if *machine == Machine::default() {
        return Ok(None);
    }
    let others = engines.iter().map(|engine| engine.for_machine(machine)).collect::<Result<Vec<_>, _>>()?;
    let differs = others.iter().zip(engines).any(|(other, host)| other.fingerprint() != host.fingerprint());
    Ok(differs.then_some(others))
}
