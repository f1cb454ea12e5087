//! Machines other than this one: what to compile for, as a person says it.

/// A machine to compile for. What is left out is this machine's own, save that another target gets its baseline CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Target triple, e.g. `aarch64-unknown-linux-gnu`.
    pub target: Option<String>,
    /// `native`, `baseline`, or a level of the target's architecture such as `x86-64-v3`.
    pub cpu: Option<String>,
}

/// Says why nothing can be compiled for a machine. Each is a mistake on a command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The target does not exist, or this build has no compiler for it.
    #[error("cannot compile for target {target:?}: {reason}")]
    Target {
        /// As it was asked for.
        target: String,
        /// What is wrong with it.
        reason: String,
        /// Targets that do work.
        known: Vec<String>,
    },
    /// The target has no such CPU level.
    #[error("cannot compile for CPU {cpu:?} of target {target}: {reason}")]
    Cpu {
        /// As it was asked for.
        cpu: String,
        /// For which target.
        target: String,
        /// What is wrong with it.
        reason: String,
        /// CPUs that do work for this target.
        known: Vec<String>,
    },
    /// The engine compiles for the machine that it runs on and for no other.
    #[error("cannot compile for another machine with {engine}")]
    HostOnly {
        /// Name of the engine.
        engine: &'static str,
    },
}

impl MachineError {
    /// Returns what would work instead, for a person.
    pub fn hint(&self) -> String {
        match self {
            Self::Target { known, .. } => format!("known targets: {}", known.join(", ")),
            Self::Cpu { known, target, .. } => format!("CPUs of {target}: {}", known.join(", ")),
            Self::HostOnly { .. } => "run it on such a machine".to_owned(),
        }
    }
}
