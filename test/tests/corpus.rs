//! The inputs that were kept of fuzzing, tried by the same functions as there.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;
use prewasi_test::trial::local_trials;

#[path = "../fuzz/properties.rs"]
#[expect(unreachable_pub, reason = "it is a library where it is fuzzed")]
mod properties;

pub(crate) fn trials() -> Vec<Trial> {
    local_trials![references, labels, images, wasm, options]
}

/// Tries every input of one target.
fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for path in files {
        eprintln!("trying {}", path.display());
        property(&fs::read(&path).expect("it can be read"));
    }
}

/// References are understood, printed, and understood again.
fn references() {
    replay("reference", properties::reference);
}

/// Labels are those that we would have written, or nobody's.
fn labels() {
    replay("labels", properties::labels);
}

/// Documents of images give layers or an error.
fn images() {
    replay("image", properties::image);
}

/// Bytes are wasm by their beginning.
fn wasm() {
    replay("wasm", properties::wasm);
}

/// Options count as a whole, or not at all.
fn options() {
    replay("options", properties::options);
}
