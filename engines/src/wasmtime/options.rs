//! Everything that shapes native code, in one struct that is both converted to wasmtime's configuration and hashed.
//!
//! The hash destructures the struct, so a forgotten field does not compile; a test checks that each field reaches wasmtime. A setting
//! that is not listed here either does not shape code (parallel compilation, stack size, pools) or is wasmtime's default, which the
//! version covers.

use wasmtime::{
    Collector, Config, Inlining, ModuleVersionStrategy, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails,
    WasmFeatures,
};

use super::form::Form;
use super::{VERSION, machine, proposals};
use crate::tuning::{STACK, STACK_LIMITS};
use crate::{Fingerprint, Optimize, Tuning, TuningError};

/// Additional room for host functions on the same stack, in bytes.
const HOST_STACK: usize = 2 << 20;

/// The enabled features: the 3.0 standard (exceptions, garbage collection, tail calls, 64-bit and multiple memories, SIMD, threads'
/// atomics and so on) and components.
pub(super) const FEATURES: WasmFeatures =
    WasmFeatures::WASM3.union(WasmFeatures::GC_TYPES).union(WasmFeatures::COMPONENT_MODEL);

/// The settings that native code depends on.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// Version of this list: to be raised when a field is added, removed or changes its meaning.
    format: u32,
    /// Container format of the artifact.
    artifact: &'static str,
    engine: &'static str,
    version: &'static str,
    /// Target triple.
    target: String,
    /// CPU features that the compiler uses, sorted, in the compiler's spelling.
    cpu: Vec<String>,
    compiler: &'static str,
    optimize: OptLevel,
    canonical_nans: bool,
    deterministic_relaxed_simd: bool,
    inlining: Inlining,
    features: WasmFeatures,
    collector: Collector,
    /// Address space per linear memory, in bytes: with the full 32-bit range reserved, no access needs a bounds check.
    memory_reservation: u64,
    /// Unmapped space after it, in bytes, for the offsets in load instructions.
    memory_guard: u64,
    guard_before_memory: bool,
    memory_may_move: bool,
    /// Data segments are stored as pages, which an instance maps from the artifact instead of copying them.
    memory_image: bool,
    /// Largest such image with holes in it, in bytes.
    dense_image: u64,
    lazy_tables: bool,
    trap_signals: bool,
    fuel: bool,
    /// Components can be interrupted, so that a component that serves cannot keep a thread to itself.
    epochs: bool,
    /// Components that need it have several concurrent tasks. All others are faster without.
    concurrency: bool,
    branch_hints: bool,
    /// Native addresses are mapped to offsets in the wasm, for backtraces.
    address_map: bool,
    unwind_tables: bool,
    native_symbols: bool,
    native_debug_info: bool,
    wasm_debug_info: bool,
    /// Not hashed: does not shape code.
    serial: bool,
    /// Not hashed: does not shape code.
    stack: usize,
}

impl Options {
    /// Returns the options for code that runs on this machine.
    pub(super) fn host() -> Self {
        Self::for_machine(machine::host_target(), machine::host_cpu())
    }

    /// Returns the options for a tuning.
    ///
    /// # Errors
    /// [`TuningError`] names the choice that is not possible.
    pub(super) fn tuned(tuning: &Tuning) -> Result<Self, TuningError> {
        let (target, cpu) = machine::resolve(&tuning.machine)?;
        let stack = tuning.stack_within(STACK_LIMITS, STACK)?;
        Ok(Self {
            optimize: match tuning.optimize {
                Optimize::Speed => OptLevel::Speed,
                Optimize::Size => OptLevel::SpeedAndSize,
                Optimize::None => OptLevel::None,
            },
            fuel: tuning.fuel,
            features: proposals::choose(FEATURES, &tuning.proposals)?,
            serial: tuning.serial,
            // Values within the limits fit.
            stack: usize::try_from(stack).unwrap_or(STACK as usize),
            ..Self::for_machine(target, cpu)
        })
    }

    /// Returns the options for code for a machine with these features (sorted).
    pub(super) fn for_machine(target: String, cpu: Vec<String>) -> Self {
        Self {
            format: 2,
            artifact: "wasmtime-elf",
            engine: "wasmtime",
            version: VERSION,
            target,
            cpu,
            compiler: "cranelift",
            optimize: OptLevel::Speed,
            canonical_nans: false,
            deterministic_relaxed_simd: false,
            inlining: Inlining::No,
            features: FEATURES,
            collector: Collector::Copying,
            memory_reservation: 4 << 30,
            memory_guard: 32 << 20,
            guard_before_memory: true,
            memory_may_move: true,
            memory_image: true,
            dense_image: 16 << 20,
            lazy_tables: true,
            trap_signals: true,
            fuel: false,
            epochs: true,
            concurrency: true,
            branch_hints: false,
            address_map: true,
            // Backtraces walk frame pointers. Registering these tables would read all of them at each start.
            unwind_tables: false,
            // Names for backtraces come from the wasm's name section; symbols would only make the file larger.
            native_symbols: false,
            native_debug_info: false,
            wasm_debug_info: false,
            serial: false,
            stack: STACK as usize,
        }
    }

    /// Returns the enabled features of wasm.
    pub(super) fn features(&self) -> WasmFeatures {
        self.features
    }

    /// Returns whether the code counts executed instructions.
    pub(super) fn has_fuel(&self) -> bool {
        self.fuel
    }

    /// Returns whether the code is for the machine that this process runs on.
    pub(super) fn is_host(&self) -> bool {
        self.target == machine::host_target() && self.cpu == machine::host_cpu()
    }

    /// Returns the target triple.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// Hashes all fields, in the order of the struct.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let Self {
            format,
            artifact,
            engine,
            version,
            target,
            cpu,
            compiler,
            optimize,
            canonical_nans,
            deterministic_relaxed_simd,
            inlining,
            features,
            collector,
            memory_reservation,
            memory_guard,
            guard_before_memory,
            memory_may_move,
            memory_image,
            dense_image,
            lazy_tables,
            trap_signals,
            fuel,
            epochs,
            concurrency,
            branch_hints,
            address_map,
            unwind_tables,
            native_symbols,
            native_debug_info,
            wasm_debug_info,
            serial: _,
            stack: _,
        } = self;
        let mut features: Vec<_> = features.iter_names().map(|(name, _)| name.to_lowercase()).collect();
        features.sort();
        Fingerprint::new([
            ("fingerprint", format.to_string()),
            ("artifact", artifact.to_string()),
            ("engine", engine.to_string()),
            ("version", version.to_string()),
            ("target", target.clone()),
            ("cpu", cpu.join(",")),
            ("compiler", compiler.to_string()),
            ("optimize", name_of_level(*optimize).to_string()),
            ("canonical_nans", canonical_nans.to_string()),
            ("deterministic_relaxed_simd", deterministic_relaxed_simd.to_string()),
            ("inlining", name_of_inlining(*inlining).to_string()),
            ("features", features.join(",")),
            ("collector", name_of_collector(*collector).to_string()),
            ("memory_reservation", memory_reservation.to_string()),
            ("memory_guard", memory_guard.to_string()),
            ("guard_before_memory", guard_before_memory.to_string()),
            ("memory_may_move", memory_may_move.to_string()),
            ("memory_image", memory_image.to_string()),
            ("dense_image", dense_image.to_string()),
            ("lazy_tables", lazy_tables.to_string()),
            ("trap_signals", trap_signals.to_string()),
            ("fuel", fuel.to_string()),
            ("epochs", if *epochs { "components" } else { "no" }.to_string()),
            ("concurrency", if *concurrency { "components_that_ask" } else { "no" }.to_string()),
            ("branch_hints", branch_hints.to_string()),
            ("address_map", address_map.to_string()),
            ("unwind_tables", unwind_tables.to_string()),
            ("native_symbols", native_symbols.to_string()),
            ("native_debug_info", native_debug_info.to_string()),
            ("wasm_debug_info", wasm_debug_info.to_string()),
        ])
    }

    /// Makes an engine with or without a compiler, for one form of wasm.
    ///
    /// # Errors
    /// wasmtime does not support the machine or the options.
    pub(super) fn engine(&self, compiles: bool, form: Form) -> wasmtime::Result<wasmtime::Engine> {
        self.engine_with(self.config(compiles, form)?)
    }

    /// Makes an engine that reuses the memory of instances.
    ///
    /// # Errors
    /// The pool does not fit into the address space.
    pub(super) fn pooled_engine(
        &self,
        form: Form,
        pool: PoolingAllocationConfig,
    ) -> wasmtime::Result<wasmtime::Engine> {
        let mut config = self.config(false, form)?;
        config.allocation_strategy(pool);
        self.engine_with(config)
    }

    fn engine_with(&self, config: Config) -> wasmtime::Result<wasmtime::Engine> {
        let engine = wasmtime::Engine::new(&config)?;
        super::traps::remember();
        Ok(engine)
    }

    fn config(&self, compiles: bool, form: Form) -> wasmtime::Result<Config> {
        let concurrency = self.concurrency && form == Form::Async;
        let features = self.features.union(if concurrency { WasmFeatures::CM_ASYNC } else { WasmFeatures::empty() });
        let mut config = Config::new();
        config
            .module_version(ModuleVersionStrategy::Custom(format!("{VERSION}-{}", &self.fingerprint().hex()[..12])))?
            .wasm_features(features.complement(), false)
            .wasm_features(features, true)
            .collector(self.collector)
            .relaxed_simd_deterministic(self.deterministic_relaxed_simd)
            .compiler_inlining(self.inlining)
            .memory_reservation(self.memory_reservation)
            .memory_guard_size(self.memory_guard)
            .guard_before_linear_memory(self.guard_before_memory)
            .memory_may_move(self.memory_may_move)
            .memory_init_cow(self.memory_image)
            .memory_guaranteed_dense_image_size(self.dense_image)
            .table_lazy_init(self.lazy_tables)
            .signals_based_traps(self.trap_signals)
            .consume_fuel(self.fuel)
            .epoch_interruption(self.epochs && form != Form::Module)
            .concurrency_support(concurrency)
            .wasm_branch_hinting(self.branch_hints)
            .generate_address_map(self.address_map)
            .native_unwind_info(self.unwind_tables)
            .debug_symbols(self.native_symbols)
            .debug_info(self.native_debug_info)
            .wasm_backtrace_details(if self.wasm_debug_info {
                WasmBacktraceDetails::Enable
            } else {
                WasmBacktraceDetails::Disable
            })
            .max_wasm_stack(self.stack)
            .async_stack_size(self.stack + HOST_STACK)
            .parallel_compilation(!self.serial);
        if compiles {
            config.cranelift_opt_level(self.optimize).cranelift_nan_canonicalization(self.canonical_nans);
            // A named target disables wasmtime's own detection of the CPU: wasmtime uses exactly the hashed features.
            config.target(&self.target)?;
            for feature in &self.cpu {
                // SAFETY: these features were detected on this CPU, or belong to a level that was chosen for another machine. In either
                // case wasmtime compares each with the CPU before it loads code.
                unsafe { config.cranelift_flag_enable(feature) };
            }
        } else {
            config.enable_compiler(false);
        }
        Ok(config)
    }
}

fn name_of_level(level: OptLevel) -> &'static str {
    match level {
        OptLevel::None => "none",
        OptLevel::Speed => "speed",
        OptLevel::SpeedAndSize => "speed_and_size",
        _ => "unknown",
    }
}

fn name_of_inlining(inlining: Inlining) -> &'static str {
    match inlining {
        Inlining::No => "no",
        Inlining::Yes => "yes",
        Inlining::InterModule => "between_modules",
        Inlining::InterModuleAndIntraGc => "between_modules_and_gc",
        Inlining::Intrinsics => "intrinsics",
    }
}

fn name_of_collector(collector: Collector) -> &'static str {
    match collector {
        Collector::Copying => "copying",
        Collector::DeferredReferenceCounting => "deferred_reference_counting",
        Collector::Null => "null",
        _ => "unknown",
    }
}

#[cfg(test)]
#[path = "options/tests.rs"]
mod tests;
