//! Code for machines other than this one: compiled here, refused here.

use std::fs::File;

use prewasi_engines::{
    CompileError, Engine as _, LoadError, Machine, NativeCode, Tuning, Wasm, Wasmtime, version_label,
};

use crate::common::{store, trials};
use crate::compiled::{compile, compile_bytes};

trials![
    other_architectures_are_compiled_for,
    another_architecture_is_refused_by_name,
    an_engine_for_another_architecture_loads_nothing_here,
    another_cpu_level_is_other_code_under_another_label,
    code_for_a_level_that_this_cpu_has_is_loaded_by_its_own_engine,
    bad_programs_are_refused_for_every_machine,
    late_imports_are_checked_for_other_machines,
];

/// A module with code that depends on the CPU: without the instructions it calls the C library's `floor`, and loops
/// over bits.
const MODULE: &str = r#"(module
    (func (export "bits") (param f64 i64) (result i64)
        (i64.add (i64.trunc_sat_f64_s (f64.floor (local.get 0))) (i64.popcnt (local.get 1))))
    (func (export "_start")))"#;

const COMPONENT: &str = r#"(component
    (core module $m (func (export "f")))
    (core instance $i (instantiate $m))
    (func (export "f") (canon lift (core func $i "f"))))"#;

/// An architecture other than this machine's.
const OTHER: &str = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };

fn engine(target: Option<&str>, cpu: Option<&str>) -> Wasmtime {
    let machine = Machine { target: target.map(str::to_owned), cpu: cpu.map(str::to_owned) };
    Wasmtime::tuned(&Tuning { machine, ..Tuning::default() }).unwrap()
}

fn other() -> Wasmtime {
    engine(Some(&format!("{OTHER}-unknown-linux-gnu")), None)
}

fn compile_with(engine: &Wasmtime, text: &str) -> Result<Vec<u8>, CompileError> {
    engine.compile(&Wasm::new(wat::parse_str(text).unwrap()).unwrap())
}

fn load(engine: &Wasmtime, artifact: &[u8]) -> Result<(), String> {
    let file = store(artifact);
    // SAFETY: an engine has compiled the artifact a moment ago, and no test runs it.
    let code = unsafe { NativeCode::trust(File::open(file.path()).unwrap(), artifact.len() as u64) };
    match engine.load(code) {
        Ok(_) => Ok(()),
        Err(LoadError::Incompatible { reason }) => Err(reason),
        Err(other) => panic!("{other:?}"),
    }
}

/// Modules and components become ELF files of the other architecture.
fn other_architectures_are_compiled_for() {
    let number: u16 = if OTHER == "aarch64" { 183 } else { 62 };
    for text in [MODULE, COMPONENT] {
        let artifact = compile_with(&other(), text).unwrap();
        assert_eq!(artifact[18..20], number.to_le_bytes());
        assert_ne!(artifact, compile(text).unwrap());
    }
}

/// The engine refuses code for another architecture, and the error names both.
fn another_architecture_is_refused_by_name() {
    for text in [MODULE, COMPONENT] {
        let artifact = compile_with(&other(), text).unwrap();
        let reason = load(&Wasmtime::new(), &artifact).unwrap_err();
        assert_eq!(reason, format!("it is for {OTHER}, and this machine is {}", std::env::consts::ARCH));
    }
}

/// An engine for another architecture refuses even its own code: this machine cannot run it.
fn an_engine_for_another_architecture_loads_nothing_here() {
    let artifact = compile_with(&other(), MODULE).unwrap();
    let reason = load(&other(), &artifact).unwrap_err();
    assert!(reason.contains(&format!("it is for {OTHER}-unknown-linux-gnu")), "{reason}");
}

/// Two CPU levels of one target differ in label, fingerprint and code; neither passes for code of this machine.
fn another_cpu_level_is_other_code_under_another_label() {
    let target = Some("x86_64-unknown-linux-gnu");
    let (baseline, third) = (engine(target, Some("baseline")), engine(target, Some("x86-64-v3")));
    assert_ne!(version_label(&baseline), version_label(&third));
    assert_eq!(baseline.fingerprint().field("cpu"), Some(""));
    assert!(third.fingerprint().field("cpu").unwrap().contains("has_avx2"));
    let (old, new) = (compile_with(&baseline, MODULE).unwrap(), compile_with(&third, MODULE).unwrap());
    assert_ne!(old, new);
    for (engine, artifact) in [(&baseline, &old), (&third, &new)] {
        if engine.fingerprint() != Wasmtime::new().fingerprint() {
            let reason = load(&Wasmtime::new(), artifact).unwrap_err();
            let said = [version_label(engine), "it is for x86_64".to_owned()];
            assert!(said.iter().any(|word| reason.contains(word)), "{reason}");
        }
    }
}

/// A machine runs code for a lower level of its own CPU, if an engine for that level loads it.
fn code_for_a_level_that_this_cpu_has_is_loaded_by_its_own_engine() {
    let baseline = engine(None, Some("baseline"));
    assert_ne!(baseline.fingerprint(), Wasmtime::new().fingerprint());
    for text in [MODULE, COMPONENT] {
        assert_eq!(load(&baseline, &compile_with(&baseline, text).unwrap()), Ok(()));
    }
}

/// The error for a broken module or an unknown import is the same for another machine as for this one.
fn bad_programs_are_refused_for_every_machine() {
    let unknown = r#"(module (import "env" "nothing" (func)) (func (export "_start")))"#;
    let error = compile_with(&other(), unknown).unwrap_err();
    assert!(matches!(&error, CompileError::UnknownImport { module, name } if module == "env" && name == "nothing"));
    let invalid = b"\0asm\x01\0\0\0\xff".to_vec();
    assert!(matches!(compile_bytes(invalid.clone()), Err(CompileError::Invalid { .. })));
    assert!(matches!(other().compile(&Wasm::new(invalid).unwrap()), Err(CompileError::Invalid { .. })));
}

/// The compile for another machine also checks a component's import that stands behind its first core module.
fn late_imports_are_checked_for_other_machines() {
    let late = r#"(component
        (core module $m (func (export "f")))
        (import "host:none/such" (instance (export "g" (func)))))"#;
    for result in [compile(late), compile_with(&other(), late)] {
        assert!(
            matches!(&result, Err(CompileError::UnknownImport { module, .. }) if module.contains("host:none/such"))
        );
    }
}
