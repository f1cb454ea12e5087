use std::hash::{Hash as _, Hasher};

use super::*;

type Change = fn(&mut Options);

/// One change to each field.
const CHANGES: [(&str, Change); 30] = [
    ("fingerprint", |it| it.format += 1),
    ("artifact", |it| it.artifact = "other"),
    ("engine", |it| it.engine = "other"),
    ("version", |it| it.version = "48.0.9"),
    ("target", |it| it.target = it.target.replace("linux", "freebsd")),
    ("cpu", |it| drop(it.cpu.pop())),
    ("compiler", |it| it.compiler = "winch"),
    ("optimize", |it| it.optimize = OptLevel::None),
    ("canonical_nans", |it| it.canonical_nans ^= true),
    ("deterministic_relaxed_simd", |it| it.deterministic_relaxed_simd ^= true),
    ("inlining", |it| it.inlining = Inlining::Yes),
    ("features", |it| it.features.remove(WasmFeatures::EXCEPTIONS)),
    ("collector", |it| it.collector = Collector::DeferredReferenceCounting),
    ("memory_reservation", |it| it.memory_reservation /= 2),
    ("memory_guard", |it| it.memory_guard /= 2),
    ("guard_before_memory", |it| it.guard_before_memory ^= true),
    ("memory_may_move", |it| it.memory_may_move ^= true),
    ("memory_image", |it| it.memory_image ^= true),
    ("dense_image", |it| it.dense_image /= 2),
    ("lazy_tables", |it| it.lazy_tables ^= true),
    ("trap_signals", |it| it.trap_signals ^= true),
    ("fuel", |it| it.fuel ^= true),
    ("epochs", |it| it.epochs ^= true),
    ("concurrency", |it| it.concurrency ^= true),
    ("branch_hints", |it| it.branch_hints ^= true),
    ("address_map", |it| it.address_map ^= true),
    ("unwind_tables", |it| it.unwind_tables ^= true),
    ("native_symbols", |it| it.native_symbols ^= true),
    ("native_debug_info", |it| it.native_debug_info ^= true),
    ("wasm_debug_info", |it| it.wasm_debug_info ^= true),
];

/// Each field is a line of its own, and a change to it changes that line and the hash.
#[test]
fn each_field_shapes_the_fingerprint() {
    let original = Options::host().fingerprint();
    assert_eq!(original.lines().lines().count(), CHANGES.len());
    for (index, (name, change)) in CHANGES.iter().enumerate() {
        let mut options = Options::host();
        change(&mut options);
        let changed = options.fingerprint();
        assert_ne!(changed.hex(), original.hex(), "{name}");
        let differing: Vec<_> = (original.lines().lines().zip(changed.lines().lines()).enumerate())
            .filter(|(_, (before, after))| before != after)
            .map(|(index, (before, _))| (index, before.split('=').next().unwrap()))
            .collect();
        assert_eq!(differing, [(index, *name)]);
    }
}

/// Collects the data to be hashed.
struct Written(Vec<u8>);

impl Hasher for Written {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("the bytes are compared, not a hash of them")
    }
}

/// Each option that changes wasmtime's own notion of compatible code also changes the fingerprint; each setting passed to wasmtime
/// changes that notion.
#[test]
fn agrees_with_wasmtime() {
    let hash = |options: &Options| {
        let mut written = Written(Vec::new());
        options.engine(true, Form::Async).unwrap().precompile_compatibility_hash().hash(&mut written);
        written.0
    };
    let original = hash(&Options::host());
    assert_eq!(original, hash(&Options::host()));
    // Facts of the build, which are not passed to wasmtime.
    let facts = ["artifact", "engine", "version", "compiler", "fingerprint"];
    for (name, change) in CHANGES.iter().filter(|(name, _)| !facts.contains(name)) {
        let mut options = Options::host();
        change(&mut options);
        if *name == "native_debug_info" {
            options.native_symbols = true;
        }
        assert_ne!(hash(&options), original, "{name}");
    }
}

/// Naming this machine's target and features to wasmtime gives the same configuration as wasmtime's own detection.
#[test]
fn naming_the_host_changes_nothing() {
    let hash = |config: &Config| {
        let mut written = Written(Vec::new());
        wasmtime::Engine::new(config).unwrap().precompile_compatibility_hash().hash(&mut written);
        written.0
    };
    let mut named = Config::new();
    named.target(&machine::host_target()).unwrap();
    for feature in machine::host_cpu() {
        // SAFETY: nothing is compiled or run.
        unsafe { named.cranelift_flag_enable(&feature) };
    }
    assert_eq!(hash(&named), hash(&Config::new()));
}

/// wasmtime accepts each target and CPU level that can be named, and each has a different fingerprint.
#[cfg(feature = "cross")]
#[test]
fn each_machine_is_a_configuration() {
    let x86 = ["baseline", "x86-64-v2", "x86-64-v3", "x86-64-v4"].map(|cpu| ("x86_64-unknown-linux-gnu", cpu));
    let machines = x86.into_iter().chain([
        ("x86_64-unknown-linux-musl", "baseline"),
        ("aarch64-unknown-linux-gnu", "baseline"),
        ("aarch64-unknown-linux-musl", "baseline"),
    ]);
    let mut fingerprints = std::collections::BTreeSet::new();
    for (target, cpu) in machines {
        let machine = crate::Machine { target: Some(target.to_string()), cpu: Some(cpu.to_string()) };
        let (target, cpu) = machine::resolve(&machine).unwrap();
        let options = Options::for_machine(target, cpu);
        assert!(
            options.engine(true, Form::Module).is_ok(),
            "{machine:?}: {:?}",
            options.engine(true, Form::Module).err()
        );
        assert!(fingerprints.insert(options.fingerprint().hex().to_string()), "{machine:?}");
    }
}

/// The features of this CPU are found and sorted, in the compiler's words.
#[test]
fn cpu_is_detected() {
    let cpu = machine::host_cpu();
    assert!(cpu.is_sorted());
    #[cfg(target_arch = "x86_64")]
    assert_eq!(std::is_x86_feature_detected!("avx2"), cpu.iter().any(|feature| feature == "has_avx2"));
    assert!(machine::host_target().starts_with(std::env::consts::ARCH), "{}", machine::host_target());
}
