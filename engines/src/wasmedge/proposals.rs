//! Proposals of WebAssembly: which are taken, and by what name a person may take more or fewer of them.
//!
//! Only those are taken that the compiler is known to do, whatever WasmEdge's interpreter can.

use wasmedge_sys::ffi;
use wasmparser::WasmFeatures;

use super::NAME;
use crate::TuningError;
use crate::tuning::proposals;

/// A proposal that can be chosen: its name, what the validator calls it, what WasmEdge does.
type Proposal = (&'static str, WasmFeatures, ffi::WasmEdge_Proposal);

/// What can be chosen. All of them are taken by default.
const PROPOSALS: [Proposal; 5] = [
    ("extended-const", WasmFeatures::EXTENDED_CONST, ffi::WasmEdge_Proposal_ExtendedConst),
    ("multi-memory", WasmFeatures::MULTI_MEMORY, ffi::WasmEdge_Proposal_MultiMemories),
    ("relaxed-simd", WasmFeatures::RELAXED_SIMD, ffi::WasmEdge_Proposal_RelaxSIMD),
    ("simd", WasmFeatures::SIMD, ffi::WasmEdge_Proposal_SIMD),
    ("tail-call", WasmFeatures::TAIL_CALL, ffi::WasmEdge_Proposal_TailCall),
];

/// What WasmEdge takes by default and is never taken here: the compiler does not have it, or not all of it.
pub(super) const NEVER: [ffi::WasmEdge_Proposal; 5] = [
    ffi::WasmEdge_Proposal_ExceptionHandling,
    ffi::WasmEdge_Proposal_FunctionReferences,
    ffi::WasmEdge_Proposal_GC,
    ffi::WasmEdge_Proposal_Memory64,
    ffi::WasmEdge_Proposal_Threads,
];

/// Returns what wasm may use: the second standard, without which nothing is done, and all that can be chosen.
pub(super) fn features() -> WasmFeatures {
    let all = PROPOSALS.iter().fold(WasmFeatures::WASM2, |features, (_, feature, _)| features | *feature);
    // The types of references are all that the validator wants of it.
    all | WasmFeatures::GC_TYPES
}

/// Returns the names of the proposals that are taken.
pub(super) fn names(features: WasmFeatures) -> Vec<&'static str> {
    PROPOSALS.iter().filter(|(_, feature, _)| features.contains(*feature)).map(|(name, ..)| *name).collect()
}

/// Returns the proposals that WasmEdge must be told of, and whether they are taken.
pub(super) fn switches(features: WasmFeatures) -> impl Iterator<Item = (ffi::WasmEdge_Proposal, bool)> {
    let chosen = PROPOSALS.iter().map(move |(_, feature, proposal)| (*proposal, features.contains(*feature)));
    chosen.chain(NEVER.map(|proposal| (proposal, false)))
}

/// Takes (`name`) and refuses (`-name`) proposals, in the order given.
///
/// # Errors
/// [`TuningError::Proposal`] if there is none of a name.
pub(super) fn choose(mut features: WasmFeatures, choices: &[String]) -> Result<WasmFeatures, TuningError> {
    for (place, take) in proposals(choices, &PROPOSALS.map(|(name, ..)| name), NAME)? {
        let (name, feature, _) = PROPOSALS[place];
        features.set(feature, take);
        match (name, take) {
            // The one builds on the other.
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

    /// Each proposal is taken by default and can be refused; what builds on one goes with it and brings it back.
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
