//! What a person may choose of how wasm is compiled and run.

use prewasi_engines::{CompileError, Engine, Tuning, TuningError, Wasmer, version_label};

use crate::common::{run, store, trials};
use crate::compiled::{COUNTS, compile_tuned, tuned};
use crate::guest::LOAD_FAILED;

trials![each_choice_has_its_own_code, proposals_are_refused, fuel_is_refused, unknown_choices_are_refused];

fn engine(tuning: &str) -> Result<Box<dyn Engine>, TuningError> {
    Wasmer::new().tuned(&tuning.parse::<Tuning>().unwrap())
}

/// Code that was compiled in one way is not loaded by an engine that compiles in another; what shapes no code changes nothing.
fn each_choice_has_its_own_code() {
    let plain = version_label(&Wasmer::new());
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

/// Wasm that uses a proposal which is refused does not compile; the error names it.
fn proposals_are_refused() {
    let simd = r#"(module (func (export "_start") (drop (v128.const i32x4 0 0 0 0))))"#;
    match compile_tuned(simd, "proposals=-simd") {
        Err(CompileError::Invalid { reason }) => assert!(reason.contains("SIMD"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(tuned(simd, "", &[]).code, Some(0));
}

/// There is no fuel: neither code that counts it, nor a guest that has some.
fn fuel_is_refused() {
    assert_eq!(engine("fuel=yes").err(), Some(TuningError::Fixed { what: "fuel", engine: "wasmer" }));
    let ended = tuned(COUNTS, "", &["--fuel", "10000"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("cannot limit how much"), "{}", ended.stderr);
}

/// What cannot be chosen is refused by name, with what can.
fn unknown_choices_are_refused() {
    let error = |text: &str| engine(text).err().unwrap();
    assert!(error("proposals=-tail-call").to_string().contains("multi-memory"));
    assert!(matches!(error("stack=1"), TuningError::Stack { .. }));
    assert!(matches!(error("cpu=baseline"), TuningError::Fixed { what: "another machine", .. }));
}
