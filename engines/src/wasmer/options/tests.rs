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
        |options| options.engine = "other",
        |options| options.version = "0.0.0",
        |options| options.target = Target::new("riscv64-unknown-linux-gnu".parse().unwrap(), CpuFeature::set()),
        |options| options.target = Target::new(Triple::host(), CpuFeature::set()),
        |options| options.compiler = "other",
        |options| options.compiler_version = "0.0.0".to_owned(),
        |options| options.optimize = compiler::level(Optimize::None),
        |options| options.canonical_nans = true,
        |options| options.split_unaligned = true,
        |options| options.memory_reservation += 1,
        |options| options.memory_guard += 1,
        |options| options.moving_memory_guard += 1,
    ];
    let features: [Change; 13] = [
        |options| options.features.threads ^= true,
        |options| options.features.reference_types ^= true,
        |options| options.features.simd ^= true,
        |options| options.features.bulk_memory ^= true,
        |options| options.features.multi_value ^= true,
        |options| options.features.tail_call ^= true,
        |options| options.features.module_linking ^= true,
        |options| options.features.multi_memory ^= true,
        |options| options.features.memory64 ^= true,
        |options| options.features.exceptions ^= true,
        |options| options.features.relaxed_simd ^= true,
        |options| options.features.extended_const ^= true,
        |options| options.features.wide_arithmetic ^= true,
    ];
    let all: Vec<String> = (changes.iter().chain(&features))
        .map(|change| {
            let mut options = CodeOptions::host();
            change(&mut options);
            options.fingerprint().hex().to_owned()
        })
        .collect();
    let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}

/// The target is written out: a triple, and the CPU's features by name.
#[test]
fn target_is_explicit() {
    let fingerprint = CodeOptions::host().fingerprint();
    assert!(fingerprint.field("target").unwrap().contains(std::env::consts::ARCH));
    let cpu = fingerprint.field("cpu").unwrap();
    assert!(cpu.split(',').any(|feature| ["sse2", "neon"].contains(&feature)), "{cpu}");
}
