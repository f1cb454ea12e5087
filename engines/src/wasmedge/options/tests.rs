use super::*;

/// A change to one option.
type Change = fn(&mut CodeOptions);

/// Each option changes the fingerprint, and no two changes give the same one.
#[test]
fn each_option_is_hashed() {
    let changes: [Change; 15] = [
        |_| {},
        |options| options.format += 1,
        |options| options.artifact = "other",
        |options| options.rewrite += 1,
        |options| options.engine = "other",
        |options| options.version = "0.0.0",
        |options| options.library = "0.0.0".to_owned(),
        |options| options.llvm = "0.0.0".to_owned(),
        |options| options.target = "other".to_owned(),
        |options| options.cpu = "other".to_owned(),
        |options| options.cpu = GENERIC.to_owned(),
        |options| options.optimize = Optimize::None,
        |options| options.optimize = Optimize::Size,
        |options| options.fuel = true,
        |options| options.features = WasmFeatures::WASM2,
    ];
    let names = proposals::names(proposals::features());
    let refused = names.iter().map(|name| CodeOptions::tuned(&format!("proposals=-{name}").parse().unwrap()).unwrap());
    let changed = changes.iter().map(|change| {
        let mut options = CodeOptions::host();
        change(&mut options);
        options
    });
    let all: Vec<String> = changed.chain(refused).map(|options| options.fingerprint().hex().to_owned()).collect();
    let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}

/// The target is written out, and so are the CPU, the library and its LLVM.
#[test]
fn target_is_explicit() {
    let fingerprint = CodeOptions::host().fingerprint();
    let field = |name| fingerprint.field(name).unwrap();
    assert!(field("target").contains(std::env::consts::ARCH));
    assert!(field("library").starts_with("0.17."));
    assert!(!field("cpu").is_empty() && !field("llvm").is_empty());
}

/// This CPU or the baseline can be chosen, nothing else.
#[test]
fn baseline_is_a_choice() {
    let tuned = |text: &str| CodeOptions::tuned(&text.parse().unwrap());
    assert!(tuned("cpu=baseline").unwrap().generic());
    assert_eq!(tuned("cpu=native").unwrap().fingerprint(), CodeOptions::host().fingerprint());
    assert!(tuned("cpu=x86-64-v3").unwrap_err().hint().unwrap().contains("baseline"));
    assert!(matches!(tuned("target=riscv64-unknown-linux-gnu"), Err(TuningError::Fixed { .. })));
}
