//! The options by name. This table is the only place that knows them all: what a file, a runtime or an annotation may
//! say, and the table in `docs/configuration.md`, which a test compares with it.

use toml::Value;
use tracing::Level;

use super::Options;
use super::value::{self, Preopens};
use prewasi_engines::Network;

/// An option. What is said for people is in the documentation, which a test compares.
#[cfg_attr(not(test), expect(dead_code, reason = "some fields are for the documentation"))]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What it may be, for people.
    pub(super) values: &'static str,
    pub(super) default: &'static str,
    /// Whether an annotation may set it.
    pub(super) annotation: bool,
    /// What it does, for people.
    pub(super) meaning: &'static str,
    /// Sets it, or says what is expected instead.
    pub(super) set: fn(&mut Options, &Value) -> Result<(), String>,
}

/// All options, in the order of the documentation.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "preopens",
        values: "`root`, `read-only`, `mounts`, `none`",
        default: "`root`",
        annotation: true,
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
        meaning: "what a wasm program has of the container's network: all, or no sockets and no name lookup",
        set: |options, value| {
            options.network = value::choice(value, &[("inherit", Network::Inherit), ("none", Network::None)])?;
            Ok(())
        },
    },
    Key {
        name: "memory_limit",
        values: "size, or `none`",
        default: "`none`",
        annotation: true,
        meaning: "most memory that a wasm program may take for itself: linear memories, tables and collected objects together",
        set: |options, value| {
            options.memory_limit = value::or_none(value, value::size)?;
            Ok(())
        },
    },
    Key {
        name: "timeout",
        values: "duration, or `none`",
        default: "`none`",
        annotation: true,
        meaning: "how long a wasm program may run, wall clock; then it is ended, with exit code 134",
        set: |options, value| {
            options.timeout = value::or_none(value, value::time)?;
            Ok(())
        },
    },
    Key {
        name: "compile_memory",
        values: "size",
        default: "`2GiB`",
        annotation: false,
        meaning: "most memory of a compile",
        set: |options, value| {
            options.compile_memory = Some(value::size(value)?);
            Ok(())
        },
    },
    Key {
        name: "compile_timeout",
        values: "duration",
        default: "`300s`",
        annotation: false,
        meaning: "how long a compile may take, wall clock",
        set: |options, value| {
            options.compile_timeout = Some(value::time(value)?);
            Ok(())
        },
    },
    Key {
        name: "compile_cpu_time",
        values: "duration",
        default: "`900s`",
        annotation: false,
        meaning: "how much processor time a compile may take, all its threads together; whole seconds",
        set: |options, value| {
            options.compile_cpu_time = Some(value::time(value)?);
            Ok(())
        },
    },
    Key {
        name: "compile_slots",
        values: "whole number",
        default: "cores of the node",
        annotation: false,
        meaning: "how many layers the node compiles at the same time",
        set: |options, value| {
            options.compile_slots = Some(value::count(value)?);
            Ok(())
        },
    },
    Key {
        name: "lock_deadline",
        values: "duration",
        default: "`120s`",
        annotation: false,
        meaning: "how long to wait for somebody else who compiles the same, before compiling without the lock",
        set: |options, value| {
            options.lock_deadline = Some(value::time(value)?);
            Ok(())
        },
    },
    Key {
        name: "log_level",
        values: "`error`, `warn`, `info`, `debug`, `trace`",
        default: "`info`",
        annotation: false,
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
        meaning: "which options annotations may set; `[]` for none",
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

/// Returns the name that `name` was probably meant to be.
pub(super) fn nearest(name: &str, names: impl Iterator<Item = &'static str>) -> &'static str {
    // What begins alike counts most: a word is more often cut short than begun wrongly.
    let likeness = |known: &&str| strsim::jaro_winkler(known, &name.to_lowercase());
    names.max_by(|one, other| likeness(one).total_cmp(&likeness(other))).unwrap_or_default()
}
