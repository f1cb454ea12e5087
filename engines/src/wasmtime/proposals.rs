//! Proposals of WebAssembly by name, to enable or disable them.

use wasmtime::WasmFeatures;

use crate::TuningError;
use crate::tuning::proposals;

/// A proposal, and the proposals that build on it.
#[derive(Clone, Copy)]
struct Proposal {
    name: &'static str,
    feature: WasmFeatures,
    /// Features that are disabled with it.
    dependents: WasmFeatures,
}

const fn proposal(name: &'static str, feature: WasmFeatures, dependents: WasmFeatures) -> Proposal {
    Proposal { name, feature, dependents }
}

/// The proposals that can be chosen. The rest of the standard is always enabled.
const PROPOSALS: [Proposal; 12] = [
    proposal("custom-page-sizes", WasmFeatures::CUSTOM_PAGE_SIZES, WasmFeatures::empty()),
    proposal("exceptions", WasmFeatures::EXCEPTIONS, WasmFeatures::empty()),
    proposal("extended-const", WasmFeatures::EXTENDED_CONST, WasmFeatures::empty()),
    proposal("function-references", WasmFeatures::FUNCTION_REFERENCES, WasmFeatures::GC),
    proposal("gc", WasmFeatures::GC, WasmFeatures::empty()),
    proposal("memory64", WasmFeatures::MEMORY64, WasmFeatures::empty()),
    proposal("multi-memory", WasmFeatures::MULTI_MEMORY, WasmFeatures::empty()),
    proposal("relaxed-simd", WasmFeatures::RELAXED_SIMD, WasmFeatures::empty()),
    proposal("simd", WasmFeatures::SIMD, WasmFeatures::RELAXED_SIMD),
    proposal("tail-call", WasmFeatures::TAIL_CALL, WasmFeatures::empty()),
    proposal("threads", WasmFeatures::THREADS, WasmFeatures::empty()),
    proposal("wide-arithmetic", WasmFeatures::WIDE_ARITHMETIC, WasmFeatures::empty()),
];

/// Enables (`name`) and disables (`-name`) proposals, in this order.
///
/// # Errors
/// [`TuningError::Proposal`] if a name is unknown.
pub(super) fn choose(mut features: WasmFeatures, choices: &[String]) -> Result<WasmFeatures, TuningError> {
    for (place, take) in proposals(choices, &PROPOSALS.map(|known| known.name), "wasmtime")? {
        let known = &PROPOSALS[place];
        if take {
            features.insert(known.feature);
            let below = PROPOSALS.iter().filter(|other| other.dependents.intersects(known.feature));
            below.for_each(|other| features.insert(other.feature));
        } else {
            features.remove(known.feature.union(known.dependents));
        }
    }
    Ok(features)
}

/// Returns the disabled proposal that the validator reports, if a user can choose it. The validator spells a name with
/// spaces.
pub(super) fn refused_by(reason: &str) -> Option<&'static str> {
    let reason = reason.to_lowercase();
    let mut names = PROPOSALS.iter().map(|proposal| proposal.name);
    names.find(|name| {
        let name = name.replace('-', " ");
        let starts = [name.clone(), format!("the {name}")].iter().any(|start| reason.starts_with(start));
        starts && (reason.contains("not enabled") || reason.contains("must be enabled"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::options::FEATURES;
    use super::*;

    fn chosen(choices: &[&str]) -> Result<WasmFeatures, TuningError> {
        choose(FEATURES, &choices.iter().map(|choice| (*choice).to_owned()).collect::<Vec<_>>())
    }

    /// Each proposal can be enabled and disabled. Disabling it disables its dependents; enabling a dependent enables it again.
    #[test]
    fn proposals_are_chosen() {
        assert_eq!(chosen(&[]).unwrap(), FEATURES);
        for known in &PROPOSALS {
            assert!(chosen(&[known.name]).unwrap().contains(known.feature), "{}", known.name);
            let refused = format!("-{}", known.name);
            assert!(!chosen(&[&refused]).unwrap().intersects(known.feature.union(known.dependents)), "{refused}");
        }
        assert!(chosen(&["-simd", "relaxed-simd"]).unwrap().contains(WasmFeatures::SIMD));
        let error = chosen(&["-gcc"]).unwrap_err();
        assert!(matches!(&error, TuningError::Proposal { proposal, .. } if proposal == "-gcc"));
        assert!(error.to_string().contains("gc, "), "{error}");
    }

    /// wasmtime accepts every choice.
    #[test]
    fn choices_are_configurations() {
        use super::super::form::Form;
        use super::super::options::Options;
        for known in &PROPOSALS {
            for choice in [known.name.to_owned(), format!("-{}", known.name)] {
                let tuning = crate::Tuning { proposals: vec![choice.clone()], ..crate::Tuning::default() };
                let engine = Options::tuned(&tuning).unwrap().engine(true, Form::Module);
                assert!(engine.is_ok(), "{choice}: {:?}", engine.err());
            }
        }
    }
}
