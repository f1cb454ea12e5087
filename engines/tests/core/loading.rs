//! Artifacts: mapped when they fit, refused with the reason when they do not.

use prewasi_engines::{Engine as _, version_label};

use crate::common::{Ended, artifact, run, store, trials};
use crate::compiled::{MODULE, compile, load, load_here, mappings, number, replaced};
use crate::guest::LOAD_FAILED;

trials![other_version_is_refused, other_options_are_refused, other_files_are_refused, module_is_mapped,];

/// The engine refuses code of another version, and the error names the version.
fn other_version_is_refused() {
    let artifact = compile(MODULE).unwrap();
    let (engine, label) = (crate::engine(), version_label(&crate::engine()));
    let other = label.replacen('.', "8", 1);
    let reason = load(&replaced(&artifact, label.as_bytes(), other.as_bytes()), artifact.len() as u64);
    let (name, version) = (engine.name(), engine.version());
    assert_eq!(reason, format!("it was compiled by {name} {}, and this is {version}", version.replacen('.', "8", 1)));
    assert_eq!(load(&artifact, artifact.len() as u64), "it was loaded");
}

/// The engine refuses code of another fingerprint (other options, another CPU), and the error names both.
fn other_options_are_refused() {
    let artifact = compile(MODULE).unwrap();
    let own = crate::engine().fingerprint().hex()[..12].to_owned();
    let other = "0123456789ab";
    let reason = load(&replaced(&artifact, own.as_bytes(), other.as_bytes()), artifact.len() as u64);
    assert!(reason.contains(&own) && reason.contains(other), "{reason}");
}

/// Neither wasm nor an executable passes for an artifact.
fn other_files_are_refused() {
    let wasm = wat::parse_str(MODULE).unwrap();
    assert_ne!(load(&wasm, wasm.len() as u64), "it was loaded");
    let executable = std::fs::read("/proc/self/exe").unwrap();
    let reason = format!("it is no artifact of {}, or not a whole one", crate::engine().name());
    assert_eq!(load(&executable, executable.len() as u64), reason);
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
    assert_mapped(&run(&module, &["--forked", "--report"]));
    drop(here);
    assert!(std::fs::read(module.path()).unwrap() == before);
}

fn assert_mapped(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mappings = mappings(ended);
    // Writable mappings hold the addresses of the engine's own functions, which each process fills in.
    let code: Vec<_> = mappings.iter().filter(|mapping| mapping["permissions"].starts_with("r-x")).collect();
    assert!(!code.is_empty(), "{}", ended.stdout);
    for mapping in &code {
        assert_eq!(number(mapping, "Anonymous"), 0, "{}", ended.stdout);
    }
    let sum = |name| code.iter().map(|mapping| number(mapping, name)).sum::<usize>();
    assert!(sum("Pss") < sum("Rss"), "nothing is shared with this process: {}", ended.stdout);
}
