//! The shims' imports from the C library: no function that would load a library by itself.

use std::process::Command;

use libtest_mimic::Trial;
use prewasi_test::home;
use prewasi_test::trial::local_trials;

pub(crate) fn trials() -> Vec<Trial> {
    local_trials!(shims_import_nothing_that_loads_libraries)
}

/// Functions that load libraries which `/etc/nsswitch.conf`, a locale or a list of conversions names, or run programs, and the beginnings
/// of such names.
const LOADERS: [&str; 29] = [
    "getaddrinfo",
    "getnameinfo",
    "gethostby",
    "gethostent",
    "getpw",
    "getgrent",
    "getgrgid",
    "getgrnam",
    "getgrouplist",
    "getsp",
    "getserv",
    "getproto",
    "getnet",
    "getrpc",
    "getalias",
    "getethers",
    "innetgr",
    "setnetgrent",
    "initgroups",
    "iconv",
    "setlocale",
    "newlocale",
    "bindtextdomain",
    "catopen",
    "wordexp",
    "system",
    "popen",
    "pam_",
    "pthread_cancel",
];

/// No shim imports a function that would load a library that an image names, not even for linked libraries. The unwinder of threads is
/// loaded with the program, so nothing looks for it again. A library that asks for hosts finds the program's own function.
fn shims_import_nothing_that_loads_libraries() {
    for engine in ["wasmtime", "wamr", "wasmer", "wasmedge"] {
        let shim = home::program(&format!("containerd-shim-{engine}-v1"));
        if !shim.exists() {
            assert!(!home::is_ci(), "there is no {}", shim.display());
            continue;
        }
        let symbols = |which: &str| -> Vec<String> {
            let listed = printed(Command::new("nm").args(["--dynamic", which, "--format=just-symbols"]).arg(&shim));
            listed.lines().map(|name| name.split('@').next().unwrap_or_default().to_owned()).collect()
        };
        let imports = symbols("--undefined-only");
        assert!(imports.iter().any(|name| name == "memcpy"), "{engine}: {imports:?}");
        let loaders: Vec<_> =
            imports.iter().filter(|name| LOADERS.iter().any(|loader| name.starts_with(loader))).collect();
        assert!(loaders.is_empty(), "{engine}: {loaders:?}");
        let own = symbols("--defined-only");
        for function in ["getaddrinfo", "getpwuid_r"] {
            assert!(own.iter().any(|name| name == function), "{engine} has no {function} of its own");
        }
        let needed = printed(Command::new("readelf").arg("--dynamic").arg(&shim));
        assert!(needed.contains("(NEEDED)") && needed.contains("[libgcc_s.so.1]"), "{engine}: {needed}");
    }
}

fn printed(command: &mut Command) -> String {
    let output = command.output().expect("binutils come with the compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
