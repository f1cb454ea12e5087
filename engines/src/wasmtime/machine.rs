//! Translates the names of a target and a CPU to the compiler's settings: a triple and a list of features.

use cranelift_codegen::isa::{self, LookupError};
use cranelift_codegen::settings::{Configurable, SetResult};

use crate::{Machine, TuningError};

/// The CPU of the machine that this process runs on.
const NATIVE: &str = "native";
/// The features that every CPU of an architecture has.
const BASELINE: &str = "baseline";

/// Targets that code may be compiled for, if this build has a compiler for them.
const TARGETS: [&str; 4] = [
    "aarch64-unknown-linux-gnu",
    "aarch64-unknown-linux-musl",
    "x86_64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
];

/// The levels of the x86-64 psABI. Each adds features to the one before: those that the compiler knows.
const X86_LEVELS: [(&str, &[&str]); 4] = [
    (BASELINE, &[]),
    ("x86-64-v2", &["has_cmpxchg16b", "has_popcnt", "has_sse3", "has_ssse3", "has_sse41", "has_sse42"]),
    ("x86-64-v3", &["has_avx", "has_avx2", "has_bmi1", "has_bmi2", "has_fma", "has_lzcnt"]),
    ("x86-64-v4", &["has_avx512dq", "has_avx512f", "has_avx512vl"]),
];
const OTHER_LEVELS: [(&str, &[&str]); 1] = [(BASELINE, &[])];

/// Finds the triple and the CPU features of a machine (sorted, in the compiler's spelling).
///
/// # Errors
/// [`TuningError`] if there is no such target or CPU, or this build has no compiler for it.
pub(super) fn resolve(machine: &Machine) -> Result<(String, Vec<String>), TuningError> {
    let host = host_target();
    let target = machine.target.as_ref().unwrap_or(&host);
    check_target(target, &host)?;
    let default = if *target == host { NATIVE } else { BASELINE };
    let cpu = match machine.cpu.as_deref().unwrap_or(default) {
        NATIVE if *target == host => host_cpu(),
        cpu => features(target, &host, cpu)?,
    };
    Ok((target.clone(), cpu))
}

fn check_target(target: &str, host: &str) -> Result<(), TuningError> {
    let can_compile = |target: &str| TARGETS.contains(&target) && isa::lookup_by_name(target).is_ok();
    if target == host || can_compile(target) {
        return Ok(());
    }
    // The look-up panics for a name that does not parse.
    let disabled =
        TARGETS.contains(&target) && matches!(isa::lookup_by_name(target), Err(LookupError::SupportDisabled));
    let reason = if disabled { "this program was built without a compiler for it" } else { "there is no such target" };
    let mut known: Vec<String> = TARGETS.into_iter().filter(|name| can_compile(name)).map(str::to_owned).collect();
    if !known.iter().any(|name| name == host) {
        known.push(host.to_owned());
    }
    Err(TuningError::Target { target: target.to_owned(), reason: reason.to_owned(), known })
}

/// Lists the features of a CPU level.
fn features(target: &str, host: &str, cpu: &str) -> Result<Vec<String>, TuningError> {
    let levels = if target.starts_with("x86_64-") { X86_LEVELS.as_slice() } else { OTHER_LEVELS.as_slice() };
    let Some(level) = levels.iter().position(|(name, _)| *name == cpu) else {
        let reason = match cpu {
            NATIVE => format!("that is the CPU of this machine, which is {host}"),
            _ => "the target has no such CPU".to_owned(),
        };
        let native = (target == host).then_some(NATIVE);
        let known = native.into_iter().chain(levels.iter().map(|(name, _)| *name)).map(str::to_owned).collect();
        return Err(TuningError::Cpu { cpu: cpu.to_owned(), target: target.to_owned(), reason, known });
    };
    let mut features: Vec<String> =
        levels[..=level].iter().flat_map(|(_, features)| features.iter()).map(|&name| name.to_owned()).collect();
    features.sort();
    Ok(features)
}

/// Returns the triple of this machine.
pub(super) fn host_target() -> String {
    match cranelift_native::builder_with_options(false) {
        Ok(builder) => builder.triple().to_string(),
        Err(reason) => reason.to_string(),
    }
}

/// Returns the CPU features that the compiler finds on this machine.
pub(super) fn host_cpu() -> Vec<String> {
    let mut found = Enabled(Vec::new());
    if let Err(reason) = cranelift_native::infer_native_flags(&mut found) {
        found.0.push(reason.to_string());
    }
    found.0.sort();
    found.0
}

/// Records the settings that host detection makes.
struct Enabled(Vec<String>);

impl Configurable for Enabled {
    fn set(&mut self, name: &str, value: &str) -> SetResult<()> {
        self.0.push(format!("{name}:{value}"));
        Ok(())
    }

    fn enable(&mut self, name: &str) -> SetResult<()> {
        self.0.push(name.to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(target: Option<&str>, cpu: Option<&str>) -> Result<(String, Vec<String>), TuningError> {
        resolve(&Machine { target: target.map(str::to_owned), cpu: cpu.map(str::to_owned) })
    }

    /// No choice, this machine's own target, and `native` all mean this machine.
    #[test]
    fn default_is_this_machine() {
        let host = host_target();
        let expected = (host.clone(), host_cpu());
        assert_eq!(resolved(None, None).unwrap(), expected);
        assert_eq!(resolved(Some(&host), None).unwrap(), expected);
        assert_eq!(resolved(Some(&host), Some("native")).unwrap(), expected);
    }

    /// Another target gets its baseline CPU unless a level is named.
    #[cfg(feature = "cross")]
    #[test]
    fn other_targets_get_their_baseline() {
        for target in TARGETS.into_iter().filter(|target| *target != host_target()) {
            assert_eq!(resolved(Some(target), None).unwrap(), (target.to_owned(), Vec::new()));
            assert_eq!(resolved(Some(target), None), resolved(Some(target), Some("baseline")));
        }
    }

    /// Each level of x86-64 has the features of the one before and more, in the order in which they are hashed.
    #[cfg(feature = "cross")]
    #[test]
    fn x86_levels_build_on_each_other() {
        let levels = X86_LEVELS.map(|(name, _)| resolved(Some("x86_64-unknown-linux-gnu"), Some(name)).unwrap().1);
        assert!(levels.iter().all(|features| features.is_sorted()));
        for pair in levels.windows(2) {
            assert!(pair[0].len() < pair[1].len());
            assert!(pair[0].iter().all(|feature| pair[1].contains(feature)), "{pair:?}");
        }
    }

    /// An unknown target, even one that is no triple at all, is an error that lists those that are known.
    #[cfg(feature = "cross")]
    #[test]
    fn unknown_targets_are_refused() {
        for target in ["", "pdp11-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu", "x86_64-pc-windows-msvc", "-"] {
            let error = resolved(Some(target), None).unwrap_err();
            assert!(matches!(&error, TuningError::Target { target: named, .. } if named == target), "{error}");
            assert!(error.hint().unwrap().contains("aarch64-unknown-linux-gnu"), "{}", error.hint().unwrap());
        }
    }

    /// A CPU of another architecture, and `native` for another target, are errors that list the target's CPUs.
    #[cfg(feature = "cross")]
    #[test]
    fn unknown_cpus_are_refused() {
        let foreign = TARGETS.into_iter().find(|target| !target.starts_with(std::env::consts::ARCH)).unwrap();
        for cpu in ["native", "pentium", ""] {
            let error = resolved(Some(foreign), Some(cpu)).unwrap_err();
            assert!(matches!(&error, TuningError::Cpu { cpu: named, .. } if named == cpu), "{error}");
            assert!(
                error.hint().unwrap().contains("baseline") && !error.hint().unwrap().contains("native"),
                "{}",
                error.hint().unwrap()
            );
        }
        let error = resolved(Some("aarch64-unknown-linux-gnu"), Some("x86-64-v3")).unwrap_err();
        assert!(matches!(error, TuningError::Cpu { .. }));
        assert!(resolved(None, Some("pentium")).unwrap_err().hint().unwrap().contains("native"));
    }
}
