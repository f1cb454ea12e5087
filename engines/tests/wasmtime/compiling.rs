//! Wasm that the engine refuses before a container exists.

use prewasi_engines::{CompileError, PreambleError, Wasm};

use crate::common::trials;
use crate::compiled::{compile, compile_bytes, invalid, unknown};

trials![
    unknown_import_is_named,
    unknown_import_of_a_component_is_named,
    late_import_of_a_component_is_checked,
    truncated_wasm_is_refused,
    what_cannot_run_is_refused,
];

/// The error names an unknown import with its module, for a function or any other kind.
fn unknown_import_is_named() {
    for (text, module, name) in [
        (r#"(module (import "env" "missing" (func)))"#, "env", "missing"),
        (r#"(module (import "wasi_snapshot_preview1" "fd_fly" (func)))"#, "wasi_snapshot_preview1", "fd_fly"),
        (r#"(module (import "env" "memory" (memory 1)))"#, "env", "memory"),
        (
            r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
                       (import "wasi" "thread-spawn" (func (param i32) (result i32))) (func (export "_start")))"#,
            "wasi",
            "thread-spawn",
        ),
    ] {
        assert_eq!(unknown(compile(text)), (module.to_string(), name.to_string()));
    }
}

/// The error names a component's unknown import with its interface and, for a part of an interface, its own name.
fn unknown_import_of_a_component_is_named() {
    for (text, module, name) in [
        (
            r#"(component (import "wasi:keyvalue/store@0.2.0" (instance (export "bucket" (type (sub resource))))))"#,
            "wasi:keyvalue/store@0.2.0",
            "bucket",
        ),
        (
            r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "no-such" (func)))))"#,
            "wasi:cli/environment@0.2.0",
            "no-such",
        ),
        (
            r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "get-arguments" (func)))))"#,
            "wasi:cli/environment@0.2.0",
            "get-arguments",
        ),
        (r#"(component (import "lonely" (func)))"#, "lonely", ""),
    ] {
        assert_eq!(unknown(compile(text)), (module.to_string(), name.to_string()));
    }
}

/// The engine also finds an import that stands behind code.
fn late_import_of_a_component_is_checked() {
    let text = r#"(component (core module (func)) (import "lonely" (func)))"#;
    assert_eq!(unknown(compile(text)).0, "lonely");
}

/// Wasm that ends early is refused wherever it ends, and never crashes the compiler.
fn truncated_wasm_is_refused() {
    let module = wat::parse_str(
        r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
            (memory 1) (func (export "_start") (drop (call 0))) (data (i32.const 0) "data"))"#,
    )
    .unwrap();
    let component = wat::parse_str(r#"(component (core module (func (export "f"))) (core instance (instantiate 0)))"#);
    for whole in [module, component.unwrap()] {
        let mut refused = 0;
        for length in 8..whole.len() {
            // Bytes that end between two sections may be whole wasm, only smaller.
            refused +=
                usize::from(matches!(compile_bytes(whole[..length].to_vec()), Err(CompileError::Invalid { .. })));
        }
        assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());
    }
    assert_eq!(Wasm::new(b"\0asm\x01".to_vec()), Err(PreambleError::Truncated { size: 5 }.into()));
}

/// The error for valid wasm that uses a disabled feature names the feature.
fn what_cannot_run_is_refused() {
    let reason = invalid(compile(r#"(module (memory 1 (pagesize 1)))"#));
    assert!(reason.contains("custom page sizes"), "{reason}");
}
