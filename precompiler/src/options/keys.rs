//! The options by name. This table is the only list of all options that a file, a runtime or an annotation may set. A test compares it
//! with the table in `docs/configuration.md`.

use toml::Value;
use tracing::Level;

use super::Options;
use super::value::{self, Preopens};
use prewasi_engines::{Network, Optimize};

/// An option. Its texts for people appear in the documentation; a test compares them.
#[cfg_attr(not(test), expect(dead_code, reason = "some fields are for the documentation"))]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The possible values, for people.
    pub(super) values: &'static str,
    pub(super) default: &'static str,
    /// Whether an annotation may set it.
    pub(super) annotation: bool,
    /// Whether an annotation of an image may set it.
    pub(super) image: bool,
    /// The effect, for people.
    pub(super) meaning: &'static str,
    /// Sets the option, or returns the expected form of its value.
    pub(super) set: fn(&mut Options, &Value) -> Result<(), String>,
}

/// All options, in the order of the documentation.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "preopens",
        values: "`root`, `read-only`, `mounts`, `none`",
        default: "`root`",
        annotation: true,
        image: false,
        meaning: "folders that a wasm program may use: all of the container's root filesystem with its mounts; the same, and \
                  nothing can be changed; the mounts alone; none",
        set: |options, value| {
            options.preopens = value::choice(
                value,
                &[
                    ("root", Preopens::Root),
                    ("read-only", Preopens::ReadOnly),
                    ("mounts", Preopens::Mounts),
                    ("none", Preopens::None),
                ],
            )?;
            Ok(())
        },
    },
    Key {
        name: "network",
        values: "`inherit`, `none`",
        default: "`inherit`",
        annotation: true,
        image: false,
        meaning: "a wasm program's access to the container's network: full, or no sockets and no name lookup",
        set: |options, value| {
            options.guest.network = value::choice(value, &[("inherit", Network::Inherit), ("none", Network::None)])?;
            Ok(())
        },
    },
    Key {
        name: "memory_limit",
        values: "size, or `none`",
        default: "`none`",
        annotation: true,
        image: true,
        meaning: "limit of a wasm program's own memory: linear memories, tables and collected objects together",
        set: |options, value| {
            options.guest.memory_limit = value::or_none(value, value::size)?;
            Ok(())
        },
    },
    Key {
        name: "timeout",
        values: "duration, or `none`",
        default: "`none`",
        annotation: true,
        image: false,
        meaning: "time limit of a wasm program, wall clock; then it is ended, with exit code 134",
        set: |options, value| {
            options.timeout = value::or_none(value, value::time)?;
            Ok(())
        },
    },
    Key {
        name: "fuel",
        values: "whole number, or `none`",
        default: "`none`",
        annotation: true,
        image: false,
        meaning: "limit of the instructions that a wasm program executes, about one unit for each; then it traps, \
                  with exit code 134. Its code is compiled to count",
        set: |options, value| {
            options.guest.fuel = value::or_none(value, value::number)?;
            Ok(())
        },
    },
    Key {
        name: "stack_limit",
        values: "size",
        default: "`8MiB`",
        annotation: true,
        image: true,
        meaning: "stack of a wasm program's own calls, from 64KiB to 1GiB; a program that needs more traps",
        set: |options, value| {
            options.tuning.stack = Some(value::size(value)?);
            Ok(())
        },
    },
    Key {
        name: "http_address",
        values: "address and port, or port",
        default: "`0.0.0.0:8080`",
        annotation: true,
        image: true,
        meaning: "address on which a wasm program that answers HTTP requests listens; the variable \
                  `PREWASI_HTTP_ADDRESS` of the container has precedence",
        set: |options, value| {
            options.guest.http.address = value::address(value)?;
            Ok(())
        },
    },
    Key {
        name: "http_instance_requests",
        values: "whole number",
        default: "`1`",
        annotation: true,
        image: true,
        meaning: "number of requests that an instance of such a program answers before a new instance replaces it",
        set: |options, value| {
            options.guest.http.instance_requests = value::small(value)?;
            Ok(())
        },
    },
    Key {
        name: "http_concurrency",
        values: "whole number",
        default: "`128`",
        annotation: true,
        image: true,
        meaning: "number of requests that are answered at the same time, if the container's memory is enough; as \
                  many more may wait, and further ones get 503",
        set: |options, value| {
            options.guest.http.concurrency = value::small(value)?;
            Ok(())
        },
    },
    Key {
        name: "http_timeout",
        values: "duration",
        default: "`60s`",
        annotation: true,
        image: true,
        meaning: "time limit until such a program begins to answer (then 504), and again for its work after the answer",
        set: |options, value| {
            options.guest.http.timeout = value::time(value)?;
            Ok(())
        },
    },
    Key {
        name: "http_body_limit",
        values: "size",
        default: "`64MiB`",
        annotation: true,
        image: true,
        meaning: "longest body of a request (longer ones get 413)",
        set: |options, value| {
            options.guest.http.body_limit = value::size(value)?;
            Ok(())
        },
    },
    Key {
        name: "optimize",
        values: "`speed`, `size`, `none`",
        default: "`speed`",
        annotation: false,
        image: true,
        meaning: "goal of the compiler: fast code; fast code that is also small; no optimisation, so that the \
                  compile is fastest",
        set: |options, value| {
            let levels = [Optimize::Speed, Optimize::Size, Optimize::None].map(|level| (level.name(), level));
            options.tuning.optimize = value::choice(value, &levels)?;
            Ok(())
        },
    },
    Key {
        name: "wasm_proposals",
        values: "list of names",
        default: "`none`",
        annotation: false,
        image: true,
        meaning: "proposals of WebAssembly to enable (`wide-arithmetic`) or disable (`-gc`), in deviation from the \
                  default; as text, with commas",
        set: |options, value| {
            options.tuning.proposals = value::list(value)?;
            Ok(())
        },
    },
    Key {
        name: "compile_parallel",
        values: "`true`, `false`",
        default: "`true`",
        annotation: false,
        image: false,
        meaning: "whether a compile may use all cores, or one",
        set: |options, value| {
            options.tuning.serial = !value::yes(value)?;
            Ok(())
        },
    },
    Key {
        name: "compile_memory",
        values: "size",
        default: "`2GiB`",
        annotation: false,
        image: false,
        meaning: "memory limit of a compile",
        set: |options, value| {
            options.compile.memory = value::size(value)?;
            Ok(())
        },
    },
    Key {
        name: "compile_timeout",
        values: "duration",
        default: "`300s`",
        annotation: false,
        image: false,
        meaning: "time limit of a compile, wall clock",
        set: |options, value| {
            options.compile.timeout = value::time(value)?;
            Ok(())
        },
    },
    Key {
        name: "compile_cpu_time",
        values: "duration",
        default: "`900s`",
        annotation: false,
        image: false,
        meaning: "limit of a compile's processor time, all its threads together; whole seconds",
        set: |options, value| {
            options.compile.cpu_time = value::time(value)?;
            Ok(())
        },
    },
    Key {
        name: "compile_slots",
        values: "whole number",
        default: "cores of the node",
        annotation: false,
        image: false,
        meaning: "number of layers that the node compiles at the same time",
        set: |options, value| {
            options.compile.slots = value::count(value)?;
            Ok(())
        },
    },
    Key {
        name: "lock_deadline",
        values: "duration",
        default: "`120s`",
        annotation: false,
        image: false,
        meaning: "time to wait for another process that compiles the same layer, before compiling without the lock",
        set: |options, value| {
            options.compile.lock_deadline = value::time(value)?;
            Ok(())
        },
    },
    Key {
        name: "log_level",
        values: "`error`, `warn`, `info`, `debug`, `trace`",
        default: "`info`",
        annotation: false,
        image: false,
        meaning: "least level of the lines in a shim's log",
        set: |options, value| {
            options.log_level = Some(value::choice(
                value,
                &[
                    ("error", Level::ERROR),
                    ("warn", Level::WARN),
                    ("info", Level::INFO),
                    ("debug", Level::DEBUG),
                    ("trace", Level::TRACE),
                ],
            )?);
            Ok(())
        },
    },
    Key {
        name: "allowed_annotations",
        values: "list of options",
        default: "all that have one",
        annotation: false,
        image: false,
        meaning: "options that annotations may set; `[]` for none",
        set: |options, value| {
            let annotations = KEYS.iter().filter(|key| key.annotation).map(|key| key.name);
            options.allowed_annotations = value::names(value, annotations)?;
            Ok(())
        },
    },
];

/// Finds an option by its name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
