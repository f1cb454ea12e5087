//! Choices of how wasm is compiled and loaded.

use prewasi_engines::{CompileError, Tuning, TuningError, Wasmtime, version_label};

use crate::common::{run, store, trials};
use crate::compiled::{COUNTS, compile_tuned, tuned};
use crate::guest::LOAD_FAILED;

trials![
    fuel_ends_a_guest,
    fuel_is_a_choice,
    fuel_of_a_component,
    each_choice_has_its_own_code,
    proposals_are_refused_and_taken,
    unknown_choices_are_refused
];

/// A guest traps when its fuel is used up. It ends as usual with enough fuel, or without a limit.
fn fuel_ends_a_guest() {
    let ended = tuned(COUNTS, "fuel=yes", &["--fuel", "10000", "--forked"]);
    assert_eq!(ended.code, Some(134), "{ended:?}");
    assert!(ended.stderr.contains("all fuel consumed"), "{}", ended.stderr);
    assert_eq!(tuned(COUNTS, "fuel=yes", &["--fuel", "1000000"]).code, Some(0));
    assert_eq!(tuned(COUNTS, "fuel=yes", &[]).code, Some(0));
}

/// Code that does not count fuel cannot get any: that must not look like a limit.
fn fuel_is_a_choice() {
    let ended = tuned(COUNTS, "", &["--fuel", "10000"]);
    assert_eq!(ended.code, Some(126));
    assert!(ended.stderr.contains("does not count fuel"), "{}", ended.stderr);
}

/// A component has fuel, too.
fn fuel_of_a_component() {
    let component = r#"(component
        (core module $code (func (export "run") (result i32) (loop $again (br $again)) unreachable))
        (core instance $code (instantiate $code))
        (func $run (result (result)) (canon lift (core func $code "run")))
        (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#;
    let ended = tuned(component, "fuel=yes", &["--fuel", "10000"]);
    assert_eq!(ended.code, Some(134), "{ended:?}");
}

/// An engine does not load code that was compiled with other choices. Choices that shape no code change nothing.
fn each_choice_has_its_own_code() {
    let plain = version_label(&Wasmtime::new());
    let choices = ["optimize=size", "optimize=none", "fuel=yes", "proposals=-gc"];
    let mut labels = vec![plain.clone()];
    for choice in choices {
        labels.push(version_label(&Wasmtime::tuned(&choice.parse().unwrap()).unwrap()));
        assert_eq!(tuned(COUNTS, choice, &[]).code, Some(0), "{choice}");
        let ended = run(&store(&compile_tuned(COUNTS, choice).unwrap()), &[]);
        assert_eq!(ended.code, Some(LOAD_FAILED), "{choice}: {ended:?}");
    }
    labels.sort();
    labels.dedup();
    assert_eq!(labels.len(), 1 + choices.len());
    for same in ["serial=yes", "stack=100000", "instances=3 memory=1000"] {
        assert_eq!(version_label(&Wasmtime::tuned(&same.parse().unwrap()).unwrap()), plain, "{same}");
        assert_eq!(run(&store(&compile_tuned(COUNTS, same).unwrap()), &[]).code, Some(0), "{same}");
    }
}

/// Wasm that uses a disabled proposal does not compile, even if the proposal is only disabled by default. The error
/// names the option.
fn proposals_are_refused_and_taken() {
    let simd = r#"(module (func (export "_start") (drop (v128.const i32x4 0 0 0 0))))"#;
    let wide = r#"(module (func (export "_start") (drop (drop (i64.mul_wide_s (i64.const 1) (i64.const 1))))))"#;
    let wide = wide.replace(
        "(drop (drop (i64.mul_wide_s (i64.const 1) (i64.const 1))))",
        "(i64.mul_wide_s (i64.const 1) (i64.const 1)) drop drop",
    );
    let pages = r#"(module (memory 1 (pagesize 1)) (func (export "_start")))"#;
    for (text, refusing, taking, name) in [
        (simd, "proposals=-simd", "", "simd"),
        (&wide, "", "proposals=wide-arithmetic", "wide-arithmetic"),
        (pages, "", "proposals=custom-page-sizes", "custom-page-sizes"),
    ] {
        match compile_tuned(text, refusing) {
            Err(CompileError::Invalid { reason }) => {
                assert!(
                    reason.ends_with(&format!("; the option wasm_proposals = [\"{name}\"] enables it")),
                    "{reason}"
                );
            }
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(tuned(text, taking, &[]).code, Some(0), "{name}");
    }
}

/// The error for an unknown choice names it, and the possible ones.
fn unknown_choices_are_refused() {
    let error = |text: &str| Wasmtime::tuned(&text.parse::<Tuning>().unwrap()).unwrap_err();
    assert!(matches!(error("proposals=-nothing"), TuningError::Proposal { .. }));
    assert!(matches!(error("stack=1"), TuningError::Stack { .. }));
    assert!(matches!(error("target=none"), TuningError::Target { .. }));
    assert!(error("proposals=-nothing").to_string().contains("tail-call"));
}
