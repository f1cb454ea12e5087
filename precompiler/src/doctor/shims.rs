//! The shims that containerd would find, and the code that they load.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use prewasi_engines::{Engine, version_label};

use super::Check;

/// The engines with shims of this project. A program with another name is not started.
const ENGINES: [&str; 4] = ["wasmtime", "wasmer", "wasmedge", "wamr"];
/// Time limit for a shim to print its version.
const LIMIT: Duration = Duration::from_secs(20);
const HINT: &str = "install it where containerd looks: the PATH of its service, e.g. /usr/local/bin";

/// Checks each shim in the folders of `path`, and that each engine of this binary has one.
pub(super) fn check(engines: &[&dyn Engine], path: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    for name in ENGINES {
        let engine = engines.iter().find(|engine| engine.name() == name);
        let shim = format!("containerd-shim-{name}-v1");
        match (find(&shim, path), engine) {
            (Some(found), engine) => checks.push(judge(&shim, &found, engine.copied())),
            (None, Some(_)) => checks.push(Check::failed(&shim, "not in PATH", HINT)),
            (None, None) => {}
        }
    }
    checks
}

fn find(shim: &str, path: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(shim)).find(|file| file.is_file())
}

/// Compares the code that a shim loads with the code that this binary compiles.
fn judge(name: &str, shim: &Path, engine: Option<&dyn Engine>) -> Check {
    let place = shim.display();
    let said = match ask(shim) {
        Ok(said) => said,
        Err(error) => return Check::failed(name, format!("cannot run {place}: {error}"), HINT),
    };
    let line = |label: &str| said.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let Some(artifact) = line("Artifact:") else {
        return Check::warn(name, format!("{place} is of another make"), "precompiled code is of no use to it");
    };
    let found = format!("{place}, version {}, loads {artifact}", line("Version:").unwrap_or("unknown"));
    match engine {
        Some(engine) if version_label(engine) != artifact => {
            let hint = format!(
                "this program compiles {}; install both of one release, or call `{name} precompile`",
                version_label(engine)
            );
            Check::warn(name, found, &hint)
        }
        _ => Check::ok(name, found),
    }
}

/// Runs a shim to get its version.
fn ask(shim: &Path) -> std::io::Result<String> {
    let mut child =
        Command::new(shim).arg("version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::other(format!("no answer within {} s", LIMIT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        // A version is a few lines.
        stdout.take(4096).read_to_string(&mut said)?;
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Health;
    use super::*;

    fn shim(script: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("containerd-shim-wasmer-v1");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        dir
    }

    fn checked(script: &str) -> Check {
        let dir = shim(script);
        let mut checks = check(&[], &dir.path().to_string_lossy());
        assert_eq!(checks.len(), 1, "{checks:?}");
        checks.remove(0)
    }

    /// A shim of this project reports which code it loads; a shim of another project is a warning, a broken one a failure.
    #[test]
    fn shims_are_asked() {
        let ours = checked("printf 'containerd-shim-wasmer-v1:\\n  Version:  0.1.0\\n  Artifact: 7.4-0123456789ab\\n'");
        assert_eq!(ours.health, Health::Ok);
        assert!(ours.found.ends_with("version 0.1.0, loads 7.4-0123456789ab"), "{}", ours.found);
        assert_eq!(checked("echo 'something else'").health, Health::Warn);
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("containerd-shim-wasmer-v1"), "no program").expect("write");
        assert_eq!(check(&[], &dir.path().to_string_lossy())[0].health, Health::Failed);
    }

    /// Without a shim, and without an engine that needs one, there is no finding.
    #[test]
    fn nothing_is_missed() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(check(&[], &dir.path().to_string_lossy()), []);
    }
}
