#!/usr/bin/env bash
# oci-spec 0.10.0 (crate): a set of capabilities that is not named is empty when it is read from JSON, and is not empty when the
# builder makes it. `LinuxCapabilitiesBuilder` puts CAP_AUDIT_WRITE, CAP_KILL and CAP_NET_BIND_SERVICE into each set that nobody
# has set, the ambient and the inheritable one among them; so a program that only narrows the bounding set hands out ambient
# capabilities. The JSON document `{}` gives five absent sets.
#
# Seen on 2026-11-30, Rust 1.95:
#   from the builder, with an empty bounding set:
#     bounding: 0, effective: 3, permitted: 3, inheritable: 3, ambient: 3
#   from the JSON document {}:
#     bounding: absent, effective: absent, permitted: absent, inheritable: absent, ambient: absent
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "sets"
version = "0.0.0"
edition = "2021"

[dependencies]
oci-spec = { version = "=0.10.0", default-features = false, features = ["runtime"] }
serde_json = "=1.0.154"
TOML
cat >"$folder/src/main.rs" <<'RUST'
use oci_spec::runtime::{Capabilities, LinuxCapabilities, LinuxCapabilitiesBuilder};

fn show(sets: &LinuxCapabilities) -> String {
    let size = |name: &str, set: &Option<Capabilities>| match set {
        Some(set) => format!("{name}: {}", set.len()),
        None => format!("{name}: absent"),
    };
    [
        size("bounding", sets.bounding()),
        size("effective", sets.effective()),
        size("permitted", sets.permitted()),
        size("inheritable", sets.inheritable()),
        size("ambient", sets.ambient()),
    ]
    .join(", ")
}

fn main() {
    let built = LinuxCapabilitiesBuilder::default().bounding(Capabilities::new()).build().unwrap();
    let read: LinuxCapabilities = serde_json::from_str("{}").unwrap();
    println!("from the builder, with an empty bounding set:\n  {}", show(&built));
    println!("from the JSON document {{}}:\n  {}", show(&read));
}
RUST
expected='from the builder, with an empty bounding set:
  bounding: 0, effective: 3, permitted: 3, inheritable: 3, ambient: 3
from the JSON document {}:
  bounding: absent, effective: absent, permitted: absent, inheritable: absent, ambient: absent'
seen=$(CARGO_TARGET_DIR="$folder/target" cargo run -q --manifest-path "$folder/Cargo.toml" 2>/dev/null)
printf '%s\n' "$seen"
[ "$seen" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
