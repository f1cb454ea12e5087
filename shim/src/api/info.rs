//! `-info` and `-v`: the description of this shim, for programs and for people.

mod features;

use std::io::{self, Write as _};

use containerd_shim_protos::protobuf::{Message as _, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use prewasi_engines::{Engine, version_label};

/// Prints containerd's `RuntimeInfo`.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn print_info(engine: &dyn Engine) -> io::Result<()> {
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..RuntimeVersion::default() };
    let info = RuntimeInfo {
        name: format!("io.containerd.{}.v1", engine.name()),
        version: MessageField::some(version),
        features: MessageField::some(features::packed().map_err(io::Error::other)?),
        annotations: [(format!("prewasi.engine.{}", engine.name()), version_label(engine))].into(),
        ..RuntimeInfo::default()
    };
    io::stdout().write_all(&info.write_to_bytes().map_err(io::Error::other)?)
}

/// Prints names and versions of the shim and its engine.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn print_version(engine: &dyn Engine) -> io::Result<()> {
    writeln!(
        io::stdout(),
        "containerd-shim-{}-v1:\n  Version:  {}\n  Engine:   {} {}\n  Artifact: {}",
        engine.name(),
        env!("CARGO_PKG_VERSION"),
        engine.name(),
        engine.version(),
        version_label(engine)
    )
}
