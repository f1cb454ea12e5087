//! Everything that shapes native code, in one struct that is both turned into WasmEdge's configuration and hashed.
//!
//! Hashing destructures the struct, so a forgotten field does not compile. Every other setting is WasmEdge's default,
//! which the library's version stands for.

use wasmparser::WasmFeatures;

use super::{NAME, VERSION, linked, proposals};
use crate::tuning::{STACK, STACK_LIMITS};
use crate::{Fingerprint, Machine, Optimize, Tuning, TuningError, artifact};

/// The options that native code depends on, and those that shape none.
#[derive(Debug, Clone)]
pub(super) struct CodeOptions {
    /// Version of this list: raised when a field is added, removed or means something else.
    format: u32,
    /// Container format of the artifact.
    artifact: &'static str,
    /// Version of the changes to a module before it is compiled.
    rewrite: u32,
    engine: &'static str,
    version: &'static str,
    /// The version that the linked library reports.
    library: String,
    /// Version of the LLVM that it uses.
    llvm: String,
    target: String,
    /// The CPU to compile for, with its features; `generic` for the baseline of the architecture.
    cpu: String,
    optimize: Optimize,
    /// The code counts fuel.
    fuel: bool,
    features: WasmFeatures,
    /// Bytes of a guest's stack. Shapes no code.
    stack: u64,
}

/// The name of an architecture's baseline CPU.
const GENERIC: &str = "generic";

impl CodeOptions {
    /// Returns the options for code that this machine runs.
    pub(super) fn host() -> Self {
        Self {
            format: 1,
            artifact: "wasmedge-so+label1",
            rewrite: 2,
            engine: NAME,
            version: VERSION,
            library: linked::version(),
            llvm: linked::llvm(),
            target: format!("{}-unknown-linux", std::env::consts::ARCH),
            cpu: cpu::host(),
            optimize: Optimize::Speed,
            fuel: false,
            features: proposals::features(),
            stack: STACK,
        }
    }

    /// Returns the options with the choices of `tuning`. The choice of one core has no effect: only the linker, which
    /// takes a moment, uses more.
    ///
    /// # Errors
    /// [`TuningError`] names the impossible choice.
    pub(super) fn tuned(tuning: &Tuning) -> Result<Self, TuningError> {
        let host = Self::host();
        let cpu = match &tuning.machine {
            Machine { target: Some(_), .. } => {
                return Err(TuningError::Fixed { what: "another machine", engine: NAME });
            }
            Machine { cpu: None, .. } => host.cpu,
            Machine { cpu: Some(cpu), .. } => match cpu.as_str() {
                "native" => host.cpu,
                "baseline" => GENERIC.to_owned(),
                _ => {
                    return Err(TuningError::Cpu {
                        cpu: cpu.clone(),
                        target: host.target,
                        reason: "wasmedge compiles for this CPU or for all of its architecture".to_owned(),
                        known: vec!["native".to_owned(), "baseline".to_owned()],
                    });
                }
            },
        };
        let stack = tuning.stack_within(STACK_LIMITS, STACK)?;
        let features = proposals::choose(host.features, &tuning.proposals)?;
        Ok(Self { cpu, optimize: tuning.optimize, fuel: tuning.fuel, features, stack, ..Self::host() })
    }

    /// Returns the bytes of a guest's stack.
    pub(super) fn stack(&self) -> usize {
        usize::try_from(self.stack).unwrap_or(usize::MAX)
    }

    /// Returns the features that wasm may use.
    pub(super) fn features(&self) -> WasmFeatures {
        self.features
    }

    /// Returns the compiler's optimisation goal.
    pub(super) fn optimize(&self) -> Optimize {
        self.optimize
    }

    /// Returns whether the code counts fuel.
    pub(super) fn fuel(&self) -> bool {
        self.fuel
    }

    /// Returns whether the code runs on each CPU of the architecture.
    pub(super) fn generic(&self) -> bool {
        self.cpu == GENERIC
    }

    /// Hashes all options, in the order of the struct.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let Self {
            format,
            artifact,
            rewrite,
            engine,
            version,
            library,
            llvm,
            target,
            cpu,
            optimize,
            fuel,
            features,
            stack: _,
        } = self;
        Fingerprint::new([
            ("fingerprint", format.to_string()),
            ("artifact", artifact.to_string()),
            ("rewrite", rewrite.to_string()),
            ("engine", engine.to_string()),
            ("version", version.to_string()),
            ("library", library.clone()),
            ("llvm", llvm.clone()),
            ("target", target.clone()),
            ("cpu", cpu.clone()),
            ("optimize", optimize.name().to_owned()),
            ("fuel", fuel.to_string()),
            ("proposals", proposals::names(*features).join(",")),
        ])
    }

    /// Returns the label behind each artifact.
    pub(super) fn label(&self) -> String {
        artifact::label_of(VERSION, &self.fingerprint())
    }
}

mod cpu {
    //! The CPU as WasmEdge's compiler sees it: the compiler compiles for just this one.

    /// Returns the model and the features of this machine's CPU.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn host() -> String {
        use std::arch::x86_64::{__cpuid, __cpuid_count};

        let (vendor, model, more) = (__cpuid(0), __cpuid(1), __cpuid(0x8000_0001));
        let (first, second) = (__cpuid_count(7, 0), __cpuid_count(7, 1));
        let letters = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
        // The lowest four bits of a model are its stepping, which shapes no code.
        let words = [
            model.eax >> 4,
            model.ecx,
            model.edx,
            first.ebx,
            first.ecx,
            first.edx,
            second.eax,
            second.edx,
            more.ecx,
            more.edx,
        ];
        // Whether the system saves the registers of these features.
        let [avx, avx512] = [is_x86_feature_detected!("avx"), is_x86_feature_detected!("avx512f")];
        let words = words.map(|word| format!("{word:x}")).join(".");
        format!("{} {words} avx={avx} avx512={avx512}", String::from_utf8_lossy(&letters))
    }

    /// Returns the features of this machine's CPU, as the kernel reports them.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn host() -> String {
        let (first, second) = rustix::param::linux_hwcap();
        format!("{first:x}.{second:x}")
    }
}

#[cfg(test)]
#[path = "options/tests.rs"]
mod tests;
