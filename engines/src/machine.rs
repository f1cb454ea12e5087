//! The machine to compile for, as a user names it.

/// A machine to compile for. A missing part is this machine's own, except that another target gets its baseline CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Target triple, e.g. `aarch64-unknown-linux-gnu`.
    pub target: Option<String>,
    /// `native`, `baseline`, or a level of the target's architecture such as `x86-64-v3`.
    pub cpu: Option<String>,
}
