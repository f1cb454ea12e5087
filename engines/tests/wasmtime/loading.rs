//! Artifacts: mapped when they fit, refused with the reason when they do not.

use prewasi_engines::{Wasmtime, version_label};

use crate::common::{Ended, artifact, run, store, trials};
use crate::compiled::{MODULE, compile, load, load_here, mappings, number, replaced};
use crate::guest::LOAD_FAILED;

trials![other_version_is_refused, other_cpu_is_refused, other_files_are_refused, module_is_mapped, component_is_mapped,];

/// The engine refuses code of another version or fingerprint, and the error names it.
fn other_version_is_refused() {
    let artifact = compile(MODULE).unwrap();
    let label = version_label(&Wasmtime::new());
    let other = label.replacen("48.", "47.", 1);
    let reason = load(&replaced(&artifact, label.as_bytes(), other.as_bytes()), artifact.len() as u64);
    assert!(reason.contains(&other), "{reason}");
    assert_eq!(load(&artifact, artifact.len() as u64), "it was loaded");
}

/// The engine refuses code that uses a CPU feature which this machine does not have, and the error names the feature.
fn other_cpu_is_refused() {
    let (feature, other) = if cfg!(target_arch = "x86_64") { ("has_sse3", "has_xyz3") } else { ("has_lse", "has_xyz") };
    let artifact = compile(MODULE).unwrap();
    let changed = replaced(&artifact, feature.as_bytes(), other.as_bytes());
    let reason = load(&changed, changed.len() as u64);
    assert!(reason.contains(other), "{reason}");
}

/// Neither wasm nor an executable passes for an artifact.
fn other_files_are_refused() {
    let wasm = wat::parse_str(MODULE).unwrap();
    assert_ne!(load(&wasm, wasm.len() as u64), "it was loaded");
    let executable = std::fs::read("/proc/self/exe").unwrap();
    assert_eq!(load(&executable, executable.len() as u64), "it is no artifact of wasmtime");
    let ended = run(&store(b"text"), &[]);
    assert_eq!(ended.code, Some(LOAD_FAILED), "{ended:?}");
}

/// The code of a running module is the file's own pages: none is copied, and two processes share them.
fn module_is_mapped() {
    // The guest changes the data while it runs, which must not touch the file.
    let module = artifact(
        r#"(module (memory 1) (data (i32.const 0) "data")
            (func (export "_start") (i32.store (i32.const 0) (i32.const 1))))"#,
    );
    let before = std::fs::read(module.path()).unwrap();
    let here = load_here(&module);
    assert_mapped(&run(&module, &["--forked", "--report"]), before.len());
    drop(here);
    assert!(std::fs::read(module.path()).unwrap() == before);
}

/// The same holds for a component.
fn component_is_mapped() {
    let component = artifact(crate::components::SUCCEEDS);
    let size = component.as_file().metadata().unwrap().len();
    let here = load_here(&component);
    assert_mapped(&run(&component, &["--forked", "--report"]), usize::try_from(size).unwrap());
    drop(here);
}

fn assert_mapped(ended: &Ended, size: usize) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mappings = mappings(ended);
    // A writable mapping is a linear memory, mapped from the file and rightly private.
    let code: Vec<_> = mappings.iter().filter(|mapping| !mapping["permissions"].contains('w')).collect();
    assert!(code.iter().any(|mapping| mapping["permissions"].starts_with("r-x")), "{}", ended.stdout);
    let kib: usize = code.iter().map(|mapping| number(mapping, "Size")).sum();
    assert!(kib * 1024 >= size, "{kib} KiB of {size} bytes are mapped: {}", ended.stdout);
    for mapping in &code {
        assert_eq!(number(mapping, "Anonymous"), 0, "{}", ended.stdout);
    }
    let sum = |name| code.iter().map(|mapping| number(mapping, name)).sum::<usize>();
    assert!(sum("Pss") < sum("Rss"), "nothing is shared with this process: {}", ended.stdout);
    assert!(ended.stdout.contains("\nthreads=1\n"), "{}", ended.stdout);
}
