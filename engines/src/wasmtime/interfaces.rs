//! Which interfaces components may import: asked of the linker itself, so that no list of them can go stale.
//!
//! A linker cannot be asked what it has, but it refuses to define a name twice. It knows each interface under one version,
//! and gives it to whoever imports a compatible one. So the versions that are compatible are tried one after the other.

use wasmtime::component::Linker;

use super::form::Form;
use super::host::Host;
use super::link::for_components;
use super::options::Options;

/// The highest last number of a version that is tried.
const LAST: u64 = 63;

/// Returns the first interface that no component is given. Without an answer of wasmtime's nothing is said against any: the
/// compile checks them all again.
pub(super) fn first_unprovided(interfaces: &[String]) -> Option<&str> {
    // What is for components with several tasks at once is there besides all else.
    let engine = Options::host().engine(false, Form::Async).ok()?;
    let mut linker = for_components(&engine, Form::Async).ok()?;
    // Asking defines a name that was free. That is of no consequence: the first one that is not provided ends the search.
    interfaces.iter().map(String::as_str).find(|name| !is_provided(&mut linker, name))
}

fn is_provided(linker: &mut Linker<Host>, name: &str) -> bool {
    // Something else than an instance, because an instance may be opened again.
    let mut has = |name: &str| linker.root().func_wrap(name, |_, ()| Ok(())).is_err();
    has(name) || may_be_types_alone(name) || compatible(name).iter().any(|other| other != name && has(other))
}

/// Says whether an interface is called as those are that have types and nothing else. Nobody has to give these (`wasi:cli/types` of
/// preview 3 is none of the linker's either), and only the wasm tells what is in one.
fn may_be_types_alone(name: &str) -> bool {
    name.split_once('@').map_or(name, |(interface, _)| interface).ends_with("/types")
}

/// Returns the names of an interface in the versions that are compatible with the one it is named with: those of the same
/// minor version before 1.0, those of the same major version after it. Pre-releases are compatible with nothing.
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

    /// What a component may import is found in each compatible version, older or newer than wasmtime's own.
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
            // They have types alone, or might.
            "wasi:cli/types@0.3.0",
            "example:greeting/types@1.0.0",
            // Named twice, it is still the linker's own.
            "wasi:cli/environment@0.2.0",
        ];
        assert_eq!(unprovided(&names), None);
        assert_eq!(unprovided(&[]), None);
    }

    /// The first interface that is not there is named, be it unknown, of an incompatible version, or no interface at all.
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
