//! Proposals of WebAssembly: the accepted ones, and the names by which a user enables or disables them.
//!
//! The engine accepts only the proposals that the compiler is known to implement. WasmEdge's interpreter may have more.

use wasmedge_sys::ffi;
use wasmparser::WasmFeatures;

use super::NAME;
use crate::TuningError;
use crate::tuning::proposals;

/// A proposal that a user can choose: its name, the validator's feature, WasmEdge's constant.
type Proposal = (&'static str, WasmFeatures, ffi::WasmEdge_Proposal);

/// The proposals that a user can choose. All of them are enabled by default.
const PROPOSALS: [Proposal; 5] = [
    ("extended-const", WasmFeatures::EXTENDED_CONST, ffi::WasmEdge_Proposal_ExtendedConst),
    ("multi-memory", WasmFeatures::MULTI_MEMORY, ffi::WasmEdge_Proposal_MultiMemories),
    ("relaxed-simd", WasmFeatures::RELAXED_SIMD, ffi::WasmEdge_Proposal_RelaxSIMD),
    ("simd", WasmFeatures::SIMD, ffi::WasmEdge_Proposal_SIMD),
    ("tail-call", WasmFeatures::TAIL_CALL, ffi::WasmEdge_Proposal_TailCall),
];

/// Proposals that WasmEdge enables by default and this engine never does: the compiler lacks them, or parts of them.
pub(super) const NEVER: [ffi::WasmEdge_Proposal; 5] = [
    ffi::WasmEdge_Proposal_ExceptionHandling,
    ffi::WasmEdge_Proposal_FunctionReferences,
    ffi::WasmEdge_Proposal_GC,
    ffi::WasmEdge_Proposal_Memory64,
    ffi::WasmEdge_Proposal_Threads,
];

/// Returns the features that wasm may use: the second standard, which is required, and all proposals that a user can
/// choose.
pub(super) fn features() -> WasmFeatures {
    let all = PROPOSALS.iter().fold(WasmFeatures::WASM2, |features, (_, feature, _)| features | *feature);
    // The validator needs only the types of references from this feature.
    all | WasmFeatures::GC_TYPES
}

/// Returns the names of the enabled proposals.
pub(super) fn names(features: WasmFeatures) -> Vec<&'static str> {
    PROPOSALS.iter().filter(|(_, feature, _)| features.contains(*feature)).map(|(name, ..)| *name).collect()
}

/// Returns the proposals to set in WasmEdge, and whether each is enabled.
pub(super) fn switches(features: WasmFeatures) -> impl Iterator<Item = (ffi::WasmEdge_Proposal, bool)> {
    let chosen = PROPOSALS.iter().map(move |(_, feature, proposal)| (*proposal, features.contains(*feature)));
    chosen.chain(NEVER.map(|proposal| (proposal, false)))
}

/// Enables (`name`) and disables (`-name`) proposals, in the order given.
///
/// # Errors
/// [`TuningError::Proposal`] if a name is unknown.
pub(super) fn choose(mut features: WasmFeatures, choices: &[String]) -> Result<WasmFeatures, TuningError> {
    for (place, take) in proposals(choices, &PROPOSALS.map(|(name, ..)| name), NAME)? {
        let (name, feature, _) = PROPOSALS[place];
        features.set(feature, take);
        match (name, take) {
            // Relaxed SIMD builds on SIMD.
            ("relaxed-simd", true) => features.insert(WasmFeatures::SIMD),
            ("simd", false) => features.remove(WasmFeatures::RELAXED_SIMD),
            _ => {}
        }
    }
    Ok(features)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each proposal is enabled by default and can be disabled. Disabling it disables its dependents; enabling a
    /// dependent enables it again.
    #[test]
    fn proposals_are_chosen() {
        let chosen = |choices: &[&str]| {
            choose(features(), &choices.iter().map(|choice| (*choice).to_owned()).collect::<Vec<_>>())
        };
        for (name, feature, proposal) in PROPOSALS {
            assert!(features().contains(feature), "{name}");
            let refused = chosen(&[&format!("-{name}")]).unwrap();
            assert!(!refused.contains(feature) && !names(refused).contains(&name), "{name}");
            assert!(switches(refused).any(|switch| switch == (proposal, false)), "{name}");
        }
        assert!(!chosen(&["-simd"]).unwrap().contains(WasmFeatures::RELAXED_SIMD));
        assert!(chosen(&["-simd", "relaxed-simd"]).unwrap().contains(WasmFeatures::SIMD));
        assert!(chosen(&["memory64"]).unwrap_err().to_string().contains("simd, tail-call"));
    }
}
