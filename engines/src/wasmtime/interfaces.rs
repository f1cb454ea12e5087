//! The interfaces that components may import: the linker itself is asked, so that no list can go stale.
//!
//! A linker cannot list its names, but it refuses to define a name twice. It has each interface in one version, and provides it for
//! imports of any compatible version. So all compatible versions are tried in turn.

use wasmtime::component::Linker;

use super::form::Form;
use super::host::Host;
use super::link::for_components;
use super::options::Options;

/// The highest patch number that is tried.
const LAST: u64 = 63;

/// Returns the first interface that no component can import. If wasmtime cannot answer, it returns `None`: the compile checks all of them
/// again.
pub(super) fn first_unprovided(interfaces: &[String]) -> Option<&str> {
    // This form has all interfaces of the other components, and those for concurrent tasks.
    let engine = Options::host().engine(false, Form::Async).ok()?;
    let mut linker = for_components(&engine, Form::Async).ok()?;
    // The question defines a name that was free. That has no effect: the first missing interface ends the search.
    interfaces.iter().map(String::as_str).find(|name| !is_provided(&mut linker, name))
}

fn is_provided(linker: &mut Linker<Host>, name: &str) -> bool {
    // Defines a function, because an instance may be opened again.
    let mut has = |name: &str| linker.root().func_wrap(name, |_, ()| Ok(())).is_err();
    has(name) || may_be_types_alone(name) || compatible(name).iter().any(|other| other != name && has(other))
}

/// Returns whether an interface has the usual name of a type-only interface. A type-only interface needs no provider (the linker does not
/// have `wasi:cli/types` of preview 3 either), and only the wasm shows its content.
fn may_be_types_alone(name: &str) -> bool {
    name.split_once('@').map_or(name, |(interface, _)| interface).ends_with("/types")
}

/// Returns the names of an interface in all versions that are compatible with the requested one. Those have the same minor version before
/// 1.0, and the same major version from 1.0 on. A pre-release is compatible with no other version.
fn compatible(name: &str) -> Vec<String> {
    let Some((interface, version)) = name.split_once('@') else { return Vec::new() };
    let numbers: Vec<u64> = version.split('.').map_while(|number| number.parse().ok()).collect();
    let last = 0..=LAST;
    match (version.matches('.').count(), numbers.as_slice()) {
        (2, [0, 0, _]) => Vec::new(),
        (2, [0, minor, _]) => last.map(|patch| format!("{interface}@0.{minor}.{patch}")).collect(),
        (2, [major, _, _]) => last
            .flat_map(|minor| (0..=LAST).map(move |patch| (minor, patch)))
            .map(|(minor, patch)| format!("{interface}@{major}.{minor}.{patch}"))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unprovided(names: &[&str]) -> Option<String> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        first_unprovided(&names).map(str::to_owned)
    }

    /// A component's import is found in each compatible version, older or newer than wasmtime's own.
    #[test]
    fn compatible_versions_are_provided() {
        let names = [
            "wasi:cli/environment@0.2.0",
            "wasi:cli/environment@0.2.6",
            "wasi:cli/environment@0.2.99",
            "wasi:io/poll@0.2.3",
            "wasi:sockets/tcp@0.2.0",
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:http/types@0.2.0",
            "wasi:cli/stdout@0.3.0",
            "wasi:http/types@0.3.0",
            // These are, or may be, type-only interfaces.
            "wasi:cli/types@0.3.0",
            "example:greeting/types@1.0.0",
            // The second question finds it too: it is the linker's own.
            "wasi:cli/environment@0.2.0",
        ];
        assert_eq!(unprovided(&names), None);
        assert_eq!(unprovided(&[]), None);
    }

    /// The first missing interface is returned, whether it is unknown, of an incompatible version, or no interface at all.
    #[test]
    fn first_missing_interface_is_named() {
        for missing in [
            "example:greeting/words@1.0.0",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:cli/environment@0.1.0",
            "wasi:cli/environment@1.0.0",
            "wasi:cli/environment@0.2.0-rc",
            "wasi:cli/environment@0.2",
            "wasi:cli/environment",
            "wasi:cli/no-such@0.2.0",
            "log",
            "",
            "@",
            "a@0.2.x",
        ] {
            let names = ["wasi:io/poll@0.2.0", missing, "example:other/words@1.0.0"];
            assert_eq!(unprovided(&names).as_deref(), Some(missing));
        }
    }

    /// Before 1.0 the minor version counts, after it the major one.
    #[test]
    fn compatible_names() {
        assert!(compatible("a:b/c@1.0.0").contains(&"a:b/c@1.7.3".to_owned()));
        assert!(!compatible("a:b/c@0.1.0").contains(&"a:b/c@0.2.0".to_owned()));
        assert_eq!(compatible("a:b/c@0.0.1"), Vec::<String>::new());
    }
}
