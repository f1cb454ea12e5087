//! Everything that shapes native code, in one struct that is both turned into wasmer's configuration and hashed.
//!
//! Hashing destructures the struct, so a forgotten field does not compile. Every other setting is wasmer's default,
//! which the version stands for.

use wasmer::sys::{BaseTunables, CpuFeature, EngineBuilder, Features, Target, Triple};
use wasmer::{Engine, Pages};

use super::compiler::{self, Level};
use super::{NAME, VERSION, proposals};
use crate::tuning::{self, STACK};
use crate::{Fingerprint, Machine, Optimize, Tuning, TuningError, artifact};

/// The least and the greatest stack of a guest, in bytes. wasmer itself takes 8 KiB to 100 MiB.
const STACK_LIMITS: (u64, u64) = (tuning::STACK_LIMITS.0, 100 << 20);

/// The options that native code depends on, and those that shape none.
#[derive(Debug, Clone)]
pub(super) struct CodeOptions {
    /// Version of this list: raised when a field is added, removed or means something else.
    format: u32,
    /// Container format of the artifact.
    artifact: &'static str,
    engine: &'static str,
    version: &'static str,
    target: Target,
    compiler: &'static str,
    compiler_version: String,
    pub(super) optimize: Level,
    pub(super) canonical_nans: bool,
    /// The compiler splits unaligned accesses, for machines that cannot do them. LLVM knows without being told.
    pub(super) split_unaligned: bool,
    features: Features,
    /// Address space per linear memory, in pages of wasm: with all of 32 bits reserved, no access needs a bounds check.
    memory_reservation: u32,
    /// Unmapped space behind it, in bytes, for the offsets in load instructions.
    memory_guard: u64,
    /// Unmapped space behind a memory that may move, in bytes.
    moving_memory_guard: u64,
    /// Bytes of a guest's stack. Shapes no code.
    stack: u64,
    /// The compiler uses one core. Shapes no code.
    pub(super) serial: bool,
}

impl CodeOptions {
    /// Returns the options for code that this machine runs.
    pub(super) fn host() -> Self {
        Self {
            format: 1,
            artifact: "wasmer-elf+label1",
            engine: NAME,
            version: VERSION,
            target: Target::new(Triple::host(), CpuFeature::for_host()),
            compiler: compiler::NAME,
            compiler_version: compiler::version(),
            optimize: compiler::level(Optimize::Speed),
            canonical_nans: false,
            split_unaligned: false,
            features: features(),
            memory_reservation: 1 << 16,
            memory_guard: 4 << 30,
            moving_memory_guard: 1 << 16,
            stack: STACK,
            serial: false,
        }
    }

    /// Returns the options with the choices of `tuning`.
    ///
    /// # Errors
    /// [`TuningError`] names the impossible choice.
    pub(super) fn tuned(tuning: &Tuning) -> Result<Self, TuningError> {
        if tuning.machine != Machine::default() {
            return Err(TuningError::Fixed { what: "another machine", engine: NAME });
        }
        if tuning.fuel {
            return Err(TuningError::Fixed { what: "fuel", engine: NAME });
        }
        let stack = tuning.stack_within(STACK_LIMITS, STACK)?;
        let optimize = compiler::level(tuning.optimize);
        let features = proposals::choose(features(), &tuning.proposals)?;
        Ok(Self { optimize, features, stack, serial: tuning.serial, ..Self::host() })
    }

    /// Returns the bytes of a guest's stack.
    pub(super) fn stack(&self) -> usize {
        usize::try_from(self.stack).unwrap_or(usize::MAX)
    }

    /// Hashes all options, in the order of the struct.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let Self {
            format,
            artifact,
            engine,
            version,
            target,
            compiler,
            compiler_version,
            optimize,
            canonical_nans,
            split_unaligned,
            features,
            memory_reservation,
            memory_guard,
            moving_memory_guard,
            stack: _,
            serial: _,
        } = self;
        let mut cpu: Vec<String> = target.cpu_features().iter().map(|feature| feature.to_string()).collect();
        cpu.sort();
        Fingerprint::new([
            ("fingerprint", format.to_string()),
            ("artifact", artifact.to_string()),
            ("engine", engine.to_string()),
            ("version", version.to_string()),
            ("target", target.triple().to_string()),
            ("cpu", cpu.join(",")),
            ("compiler", compiler.to_string()),
            ("compiler_version", compiler_version.to_string()),
            ("optimize", compiler::name_of_level(optimize).to_string()),
            ("canonical_nans", canonical_nans.to_string()),
            ("split_unaligned", split_unaligned.to_string()),
            ("features", names_of_features(features).join(",")),
            ("memory_reservation", memory_reservation.to_string()),
            ("memory_guard", memory_guard.to_string()),
            ("moving_memory_guard", moving_memory_guard.to_string()),
        ])
    }

    /// Returns the label behind each artifact.
    pub(super) fn label(&self) -> String {
        artifact::label_of(VERSION, &self.fingerprint())
    }

    /// Returns the layout of linear memories.
    pub(super) fn tunables(&self) -> BaseTunables {
        BaseTunables {
            static_memory_bound: Pages(self.memory_reservation),
            static_memory_offset_guard_size: self.memory_guard,
            dynamic_memory_offset_guard_size: self.moving_memory_guard,
        }
    }

    /// Makes an engine that compiles.
    pub(super) fn compiling_engine(&self) -> Engine {
        let mut engine = compiler::builder(self)
            .set_target(Some(self.target.clone()))
            .set_features(Some(self.features.clone()))
            .engine();
        engine.set_tunables(self.tunables());
        engine.into()
    }

    /// Makes an engine that only loads.
    pub(super) fn loading_engine(&self) -> Engine {
        let mut engine = EngineBuilder::headless().engine();
        engine.set_tunables(self.tunables());
        engine.into()
    }
}

/// Returns the features that wasm may use: the parts of the standard that the compiler is known to implement.
pub(super) fn features() -> Features {
    let mut features = Features::none();
    features
        .threads(true)
        .reference_types(true)
        .simd(true)
        .relaxed_simd(true)
        .bulk_memory(true)
        .multi_value(true)
        .multi_memory(true)
        .extended_const(true)
        .exceptions(true);
    features
}

fn names_of_features(features: &Features) -> Vec<&'static str> {
    let Features {
        threads,
        reference_types,
        simd,
        bulk_memory,
        multi_value,
        tail_call,
        module_linking,
        multi_memory,
        memory64,
        exceptions,
        relaxed_simd,
        extended_const,
        wide_arithmetic,
    } = features;
    let all = [
        (bulk_memory, "bulk_memory"),
        (exceptions, "exceptions"),
        (extended_const, "extended_const"),
        (memory64, "memory64"),
        (module_linking, "module_linking"),
        (multi_memory, "multi_memory"),
        (multi_value, "multi_value"),
        (reference_types, "reference_types"),
        (relaxed_simd, "relaxed_simd"),
        (simd, "simd"),
        (tail_call, "tail_call"),
        (threads, "threads"),
        (wide_arithmetic, "wide_arithmetic"),
    ];
    all.into_iter().filter(|(enabled, _)| **enabled).map(|(_, name)| name).collect()
}

#[cfg(test)]
#[path = "options/tests.rs"]
mod tests;
