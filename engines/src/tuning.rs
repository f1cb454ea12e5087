//! Tuning: the choices that a user has in how wasm is compiled and loaded.
//!
//! A choice that shapes native code is part of the fingerprint, so code of one tuning never stands in for code of another. The text form
//! (`optimize=size fuel=yes`) is passed to the compile worker, and written to the labels of the artifact.

use std::fmt;
use std::str::FromStr;

use crate::Machine;

/// Stack for a guest's own calls, in bytes: as large as that of a native program's main thread. Its pages are used only when touched.
pub(crate) const STACK: u64 = 8 << 20;
/// The least and the greatest stack of a guest, in bytes, unless an engine has other limits of its own.
#[cfg(any(feature = "wamr", feature = "wasmedge", feature = "wasmer", feature = "wasmtime"))]
pub(crate) const STACK_LIMITS: (u64, u64) = (64 << 10, 1 << 30);

/// How to compile and load. The default is the engine's own behaviour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The machine to compile for.
    pub machine: Machine,
    /// The goal of the compiler's optimisation.
    pub optimize: Optimize,
    /// The code counts executed instructions, so that a guest can get a limit of fuel.
    pub fuel: bool,
    /// Proposals of WebAssembly to enable (`name`) or disable (`-name`), in deviation from the default.
    pub proposals: Vec<String>,
    /// The compiler uses one core. Does not shape the code.
    pub serial: bool,
    /// Stack for a guest's own calls, in bytes. Does not shape the code.
    pub stack: Option<u64>,
    /// Maximum number of concurrent instances of a program that serves HTTP. Does not shape the code.
    pub instances: Option<u32>,
    /// The container's memory limit, in bytes. Does not shape the code.
    pub memory: Option<u64>,
}

/// The goal of a compiler's optimisation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Optimize {
    /// Fast code.
    #[default]
    Speed,
    /// Fast code that is also small.
    Size,
    /// No optimisation: the compile is fastest.
    None,
}

/// The reason why no engine can have this tuning. Each is a mistake of the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TuningError {
    /// The target does not exist, or this build has no compiler for it.
    #[error("cannot compile for target {target:?}: {reason}")]
    Target {
        /// The requested target.
        target: String,
        /// The mistake.
        reason: String,
        /// Targets that can be chosen.
        known: Vec<String>,
    },
    /// The target has no such CPU or CPU level.
    #[error("cannot compile for CPU {cpu:?} of target {target}: {reason}")]
    Cpu {
        /// The requested CPU.
        cpu: String,
        /// The target it was requested for.
        target: String,
        /// The mistake.
        reason: String,
        /// CPUs that can be chosen for this target.
        known: Vec<String>,
    },
    /// The engine does not know the proposal, or cannot switch it.
    #[error("cannot enable or disable proposal {proposal:?} with {engine}; possible are {}", known.join(", "))]
    Proposal {
        /// The requested proposal.
        proposal: String,
        /// Name of the engine.
        engine: &'static str,
        /// Proposals that can be chosen.
        known: Vec<String>,
    },
    /// The requested stack is too small or too large.
    #[error("cannot give a guest a stack of {bytes} bytes; possible are {} to {}", limits.0, limits.1)]
    Stack {
        /// The requested size, in bytes.
        bytes: u64,
        /// The least and the greatest size, in bytes.
        limits: (u64, u64),
    },
    /// The engine has no choice in this point.
    #[error("cannot choose {what} with {engine}")]
    Fixed {
        /// The point, e.g. `another machine`.
        what: &'static str,
        /// Name of the engine.
        engine: &'static str,
    },
    /// The text form of a tuning does not parse.
    #[error("cannot read tuning {text:?}")]
    Text {
        /// The malformed part.
        text: String,
    },
}

impl TuningError {
    /// Returns the values that can be chosen, for people, if the message does not list them.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Target { known, .. } => Some(format!("known targets: {}", known.join(", "))),
            Self::Cpu { known, target, .. } => Some(format!("CPUs of {target}: {}", known.join(", "))),
            Self::Proposal { .. } | Self::Stack { .. } | Self::Fixed { .. } | Self::Text { .. } => None,
        }
    }
}

impl Tuning {
    /// Returns the size of a guest's stack, in bytes: the requested size, else `usual`.
    ///
    /// # Errors
    /// [`TuningError::Stack`] if the size is outside of `limits`, the least and the greatest size in bytes.
    pub fn stack_within(&self, limits: (u64, u64), usual: u64) -> Result<u64, TuningError> {
        let bytes = self.stack.unwrap_or(usual);
        if (limits.0..=limits.1).contains(&bytes) { Ok(bytes) } else { Err(TuningError::Stack { bytes, limits }) }
    }

    /// Returns the part of the tuning that shapes native code.
    #[must_use]
    pub fn shape(&self) -> Self {
        Self {
            machine: self.machine.clone(),
            optimize: self.optimize,
            fuel: self.fuel,
            proposals: self.proposals.clone(),
            ..Self::default()
        }
    }

    /// Returns whether the code is the same as without tuning.
    pub fn is_plain(&self) -> bool {
        self.shape() == Self::default()
    }
}

/// Parses choices of proposals, `name` or `-name`. Returns for each the index in the list of known ones, and whether it is enabled.
///
/// # Errors
/// [`TuningError::Proposal`] if a name is unknown.
#[cfg(any(feature = "wasmedge", feature = "wasmer", feature = "wasmtime"))]
pub(crate) fn proposals(
    choices: &[String],
    known: &[&'static str],
    engine: &'static str,
) -> Result<Vec<(usize, bool)>, TuningError> {
    let read = |choice: &String| {
        let (name, take) = choice.strip_prefix('-').map_or((choice.as_str(), true), |name| (name, false));
        known.iter().position(|known| *known == name).map(|place| (place, take)).ok_or_else(|| {
            let known = known.iter().map(|known| (*known).to_owned()).collect();
            TuningError::Proposal { proposal: choice.clone(), engine, known }
        })
    };
    choices.iter().map(read).collect()
}

impl Optimize {
    /// Returns the name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Speed => "speed",
            Self::Size => "size",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, optimize, fuel, proposals, serial, stack, instances, memory } = self;
        let number = |number: &Option<u64>| number.map(|number| number.to_string());
        let parts = [
            ("target", machine.target.clone()),
            ("cpu", machine.cpu.clone()),
            ("optimize", (*optimize != Optimize::Speed).then(|| optimize.name().to_owned())),
            ("fuel", fuel.then(|| "yes".to_owned())),
            ("proposals", (!proposals.is_empty()).then(|| proposals.join(","))),
            ("serial", serial.then(|| "yes".to_owned())),
            ("stack", number(stack)),
            ("instances", number(&instances.map(u64::from))),
            ("memory", number(memory)),
        ];
        let parts = parts.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        f.write_str(&parts.collect::<Vec<_>>().join(" "))
    }
}

impl FromStr for Tuning {
    type Err = TuningError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut tuning = Self::default();
        for part in text.split(' ').filter(|part| !part.is_empty()) {
            let wrong = || TuningError::Text { text: part.to_owned() };
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let number = || value.parse().map_err(|_| wrong());
            let yes = || if value == "yes" { Ok(true) } else { Err(wrong()) };
            match name {
                "target" => tuning.machine.target = Some(value.to_owned()),
                "cpu" => tuning.machine.cpu = Some(value.to_owned()),
                "optimize" => {
                    let all = [Optimize::Speed, Optimize::Size, Optimize::None];
                    tuning.optimize = all.into_iter().find(|level| level.name() == value).ok_or_else(wrong)?;
                }
                "fuel" => tuning.fuel = yes()?,
                "proposals" => tuning.proposals = value.split(',').map(str::to_owned).collect(),
                "serial" => tuning.serial = yes()?,
                "stack" => tuning.stack = Some(number()?),
                "instances" => tuning.instances = Some(u32::try_from(number()?).map_err(|_| wrong())?),
                "memory" => tuning.memory = Some(number()?),
                _ => return Err(wrong()),
            }
        }
        Ok(tuning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Tuning {
        Tuning {
            machine: Machine { target: Some("aarch64-unknown-linux-gnu".to_owned()), cpu: Some("baseline".to_owned()) },
            optimize: Optimize::Size,
            fuel: true,
            proposals: vec!["-gc".to_owned(), "wide-arithmetic".to_owned()],
            serial: true,
            stack: Some(1 << 20),
            instances: Some(7),
            memory: Some(1 << 30),
        }
    }

    /// The text form has every choice that differs from the default, and no other.
    #[test]
    fn text_round_trips() {
        for tuning in
            [Tuning::default(), all(), all().shape(), Tuning { optimize: Optimize::None, ..Tuning::default() }]
        {
            assert_eq!(tuning.to_string().parse(), Ok(tuning));
        }
        assert_eq!(Tuning::default().to_string(), "");
        assert_eq!(
            Tuning { fuel: true, optimize: Optimize::Size, ..Tuning::default() }.to_string(),
            "optimize=size fuel=yes"
        );
        for wrong in ["fuel", "fuel=no", "fule=yes", "optimize=best", "stack=-1", "instances=4294967296"] {
            assert_eq!(wrong.parse::<Tuning>(), Err(TuningError::Text { text: wrong.to_owned() }));
        }
    }

    /// Choices that do not shape the code are not part of the shape.
    #[test]
    fn shape_is_what_code_depends_on() {
        assert!(
            Tuning { serial: true, stack: Some(1), instances: Some(1), memory: Some(1), ..Tuning::default() }
                .is_plain()
        );
        assert!(!Tuning { fuel: true, ..Tuning::default() }.is_plain());
    }
}
