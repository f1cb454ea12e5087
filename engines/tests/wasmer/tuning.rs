//! What a person may choose of how wasm is compiled and run.

use prewasi_engines::{CompileError, Engine, Tuning, TuningError, Wasm, Wasmer, version_label};

use crate::common::{Ended, run, store, trials};
use crate::guest::LOAD_FAILED;

trials![
    each_choice_has_its_own_code,
    proposals_are_refused,
    stack_has_a_limit,
    fuel_is_refused,
    unknown_choices_are_refused
];

/// Counts down from 100,000.
const COUNTS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (local $i i32)
    (local.set $i (i32.const 100000))
    (loop $next (br_if $next (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))))"#;

/// Calls itself 50,000 times, with a frame of its own each.
const RECURS: &str = r#"(module (memory (export "memory") 1)
    (func $deep (param $n i32) (result i32)
        (if (result i32) (local.get $n)
            (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get $n) (i32.const 1)))))
            (else (i32.const 0))))
    (func (export "_start") (drop (call $deep (i32.const 50000)))))"#;

fn engine(tuning: &str) -> Result<Box<dyn Engine>, TuningError> {
    Wasmer::new().tuned(&tuning.parse::<Tuning>().unwrap())
}

fn compile(text: &str, tuning: &str) -> Result<Vec<u8>, CompileError> {
    engine(tuning).unwrap().compile(&Wasm::new(wat::parse_str(text).unwrap()).unwrap())
}

fn tuned(text: &str, tuning: &str, options: &[&str]) -> Ended {
    let artifact = store(&compile(text, tuning).unwrap());
    run(&artifact, &[&["--tuning", tuning], options].concat())
}

/// Code that was compiled in one way is not loaded by an engine that compiles in another; what shapes no code changes nothing.
fn each_choice_has_its_own_code() {
    let plain = version_label(&Wasmer::new());
    let choices = ["optimize=size", "optimize=none", "proposals=-simd"];
    let mut labels = vec![plain.clone()];
    for choice in choices {
        labels.push(version_label(&*engine(choice).unwrap()));
        assert_eq!(tuned(COUNTS, choice, &[]).code, Some(0), "{choice}");
        let ended = run(&store(&compile(COUNTS, choice).unwrap()), &[]);
        assert_eq!(ended.code, Some(LOAD_FAILED), "{choice}: {ended:?}");
    }
    labels.sort();
    labels.dedup();
    assert_eq!(labels.len(), 1 + choices.len());
    for same in ["serial=yes", "stack=100000", "instances=3 memory=1000"] {
        assert_eq!(version_label(&*engine(same).unwrap()), plain, "{same}");
        assert_eq!(run(&store(&compile(COUNTS, same).unwrap()), &[]).code, Some(0), "{same}");
    }
}

/// Wasm that uses a proposal which is refused does not compile; the error names it.
fn proposals_are_refused() {
    let simd = r#"(module (func (export "_start") (drop (v128.const i32x4 0 0 0 0))))"#;
    match compile(simd, "proposals=-simd") {
        Err(CompileError::Invalid { reason }) => assert!(reason.contains("SIMD"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(tuned(simd, "", &[]).code, Some(0));
}

/// A guest that needs more stack than it has traps; with more it ends as usual.
fn stack_has_a_limit() {
    let ended = tuned(RECURS, "stack=100000", &["--forked"]);
    assert_eq!(ended.code, Some(134), "{ended:?}");
    assert!(ended.stderr.contains("call stack exhausted"), "{}", ended.stderr);
    assert_eq!(tuned(RECURS, "stack=67108864", &[]).code, Some(0));
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
