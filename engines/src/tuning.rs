//! What a person may choose of how wasm is compiled and loaded.
//!
//! A choice that shapes native code is part of the fingerprint, so that code compiled in one way never stands in for code
//! compiled in another. The text form (`optimize=size fuel=yes`) travels to the process that compiles, and on to the
//! labels of the artifact.

use std::fmt;
use std::str::FromStr;

use crate::Machine;

/// How to compile and load; the default is what an engine does by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Which machine to compile for.
    pub machine: Machine,
    /// What the compiler spends its time on.
    pub optimize: Optimize,
    /// The code counts what it executes, so that a guest can be given fuel.
    pub fuel: bool,
    /// Proposals of WebAssembly that are to be taken (`name`) or refused (`-name`), other than by default.
    pub proposals: Vec<String>,
    /// The compiler uses one core. Shapes no code.
    pub serial: bool,
    /// Stack of a guest's own calls, bytes. Shapes no code.
    pub stack: Option<u64>,
    /// How many instances a program that serves has at most at the same time. Shapes no code.
    pub instances: Option<u32>,
    /// What the container has of memory, bytes. Shapes no code.
    pub memory: Option<u64>,
}

/// What a compiler spends its time on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Optimize {
    /// Fast code.
    #[default]
    Speed,
    /// Fast code that is small, too.
    Size,
    /// Nothing: the code is there soonest.
    None,
}

/// Says why there is no engine with these choices. Each is a mistake of whoever chose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TuningError {
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
    /// The engine has no such proposal, or cannot do without it.
    #[error("cannot take or refuse proposal {proposal:?} with {engine}, only {}", known.join(", "))]
    Proposal {
        /// As it was asked for.
        proposal: String,
        /// Name of the engine.
        engine: &'static str,
        /// Proposals that can be chosen.
        known: Vec<String>,
    },
    /// No guest can have such a stack.
    #[error("cannot give a guest a stack of {bytes} bytes, only of {} to {}", limits.0, limits.1)]
    Stack {
        /// As it was asked for.
        bytes: u64,
        /// The least and the most.
        limits: (u64, u64),
    },
    /// The engine does it in one way only.
    #[error("cannot choose {what} with {engine}")]
    Fixed {
        /// What cannot be chosen, e.g. `another machine`.
        what: &'static str,
        /// Name of the engine.
        engine: &'static str,
    },
    /// The text form of a tuning is wrong.
    #[error("cannot read tuning {text:?}")]
    Text {
        /// The part that is wrong.
        text: String,
    },
}

impl TuningError {
    /// Returns what would work instead, for a person, where the message does not say it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Target { known, .. } => Some(format!("known targets: {}", known.join(", "))),
            Self::Cpu { known, target, .. } => Some(format!("CPUs of {target}: {}", known.join(", "))),
            Self::Proposal { .. } | Self::Stack { .. } | Self::Fixed { .. } | Self::Text { .. } => None,
        }
    }
}

impl Tuning {
    /// Returns the bytes of a guest's stack: those asked for, else `usual`.
    ///
    /// # Errors
    /// [`TuningError::Stack`] if that is less or more than `limits` allow, the least and the most.
    pub fn stack_within(&self, limits: (u64, u64), usual: u64) -> Result<u64, TuningError> {
        let bytes = self.stack.unwrap_or(usual);
        if (limits.0..=limits.1).contains(&bytes) { Ok(bytes) } else { Err(TuningError::Stack { bytes, limits }) }
    }

    /// Returns what of it shapes native code.
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

    /// Says whether the code is what an engine makes by itself.
    pub fn is_plain(&self) -> bool {
        self.shape() == Self::default()
    }
}

/// Reads choices of proposals, `name` or `-name`: which of those that are known, by its place, and whether it is taken.
///
/// # Errors
/// [`TuningError::Proposal`] if there is none of a name.
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
    /// Returns its name in options.
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

    /// The text form says all of it, and nothing of what is by default.
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

    /// What shapes no code is no part of the shape.
    #[test]
    fn shape_is_what_code_depends_on() {
        assert!(
            Tuning { serial: true, stack: Some(1), instances: Some(1), memory: Some(1), ..Tuning::default() }
                .is_plain()
        );
        assert!(!Tuning { fuel: true, ..Tuning::default() }.is_plain());
    }
}
