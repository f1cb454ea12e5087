//! Choices of how core modules are compiled and run, with each engine that compiles no components.

use prewasi_engines::{CompileError, Engine, Tuning, TuningError, version_label};

use crate::common::{run, store, trials};
use crate::compiled::{COUNTS, compile_tuned, tuned};
use crate::guest::LOAD_FAILED;

trials![each_choice_has_its_own_code, proposals_are_refused, unknown_choices_are_refused];

pub(crate) fn engine(tuning: &str) -> Result<Box<dyn Engine>, TuningError> {
    crate::engine().tuned(&tuning.parse::<Tuning>().unwrap())
}

/// An engine does not load code that was compiled with other choices. Choices that shape no code change nothing.
fn each_choice_has_its_own_code() {
    let plain = version_label(&crate::engine());
    let choices = ["optimize=size", "optimize=none", "proposals=-simd"];
    let mut labels = vec![plain.clone()];
    for choice in choices {
        labels.push(version_label(&*engine(choice).unwrap()));
        assert_eq!(tuned(COUNTS, choice, &[]).code, Some(0), "{choice}");
        let ended = run(&store(&compile_tuned(COUNTS, choice).unwrap()), &[]);
        assert_eq!(ended.code, Some(LOAD_FAILED), "{choice}: {ended:?}");
    }
    labels.sort();
    labels.dedup();
    assert_eq!(labels.len(), 1 + choices.len());
    for same in ["serial=yes", "stack=100000", "instances=3 memory=1000"] {
        assert_eq!(version_label(&*engine(same).unwrap()), plain, "{same}");
        assert_eq!(run(&store(&compile_tuned(COUNTS, same).unwrap()), &[]).code, Some(0), "{same}");
    }
}

/// Wasm that uses a disabled proposal does not compile; the error names the proposal.
fn proposals_are_refused() {
    let simd = r#"(module (func (export "_start") (drop (v128.const i32x4 0 0 0 0))))"#;
    match compile_tuned(simd, "proposals=-simd") {
        Err(CompileError::Invalid { reason }) => assert!(reason.contains("SIMD"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(tuned(simd, "", &[]).code, Some(0));
}

/// The error for an unknown choice names it, and the possible ones.
fn unknown_choices_are_refused() {
    let error = |text: &str| engine(text).err().unwrap();
    assert!(error("proposals=-reference-types").to_string().contains("multi-memory"));
    assert!(matches!(error("stack=1"), TuningError::Stack { .. }));
    let other = error("target=riscv64-unknown-linux-gnu");
    assert!(matches!(other, TuningError::Fixed { what: "another machine", .. }), "{other}");
}
