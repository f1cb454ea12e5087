//! Proposals of WebAssembly by name, to enable or disable them.

use wasmer::sys::Features;

use super::NAME;
use crate::TuningError;
use crate::tuning::proposals;

/// The switch of a proposal.
type Switch = fn(&mut Features) -> &mut bool;

/// The proposals that a user can choose. The rest is required, or the compiler does not have it.
const PROPOSALS: [(&str, Switch); 6] = [
    ("exceptions", |features| &mut features.exceptions),
    ("extended-const", |features| &mut features.extended_const),
    ("multi-memory", |features| &mut features.multi_memory),
    ("relaxed-simd", |features| &mut features.relaxed_simd),
    ("simd", |features| &mut features.simd),
    ("threads", |features| &mut features.threads),
];

/// Enables (`name`) and disables (`-name`) proposals, in the order given.
///
/// # Errors
/// [`TuningError::Proposal`] if a name is unknown.
pub(super) fn choose(mut features: Features, choices: &[String]) -> Result<Features, TuningError> {
    for (place, take) in proposals(choices, &PROPOSALS.map(|(name, _)| name), NAME)? {
        let (name, switch) = PROPOSALS[place];
        *switch(&mut features) = take;
        match (name, take) {
            // Relaxed SIMD builds on SIMD.
            ("relaxed-simd", true) => features.simd = true,
            ("simd", false) => features.relaxed_simd = false,
            _ => {}
        }
    }
    Ok(features)
}

#[cfg(test)]
mod tests {
    use super::super::options::features;
    use super::*;

    fn chosen(choices: &[&str]) -> Result<Features, TuningError> {
        choose(features(), &choices.iter().map(|choice| (*choice).to_owned()).collect::<Vec<_>>())
    }

    /// Each proposal is enabled by default and can be disabled. Disabling it disables its dependents; enabling a
    /// dependent enables it again.
    #[test]
    fn proposals_are_chosen() {
        for (name, switch) in PROPOSALS {
            assert!(*switch(&mut chosen(&[]).unwrap()), "{name}");
            let refused = format!("-{name}");
            assert!(!*switch(&mut chosen(&[&refused]).unwrap()), "{refused}");
            assert!(chosen(&[&refused, name]).unwrap().simd, "{name}");
        }
        assert!(!chosen(&["-simd"]).unwrap().relaxed_simd);
        assert!(chosen(&["-simd", "relaxed-simd"]).unwrap().simd);
        let error = chosen(&["memory64"]).unwrap_err();
        assert!(error.to_string().contains("relaxed-simd, simd"), "{error}");
    }
}
