//! The reason why libcontainer could not build: its error, completed by the log of its processes.

use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Spec;
use nix::errno::Errno;
use prewasi_precompiler::chain;

use super::build::BuildError;
use crate::pod::spec;
use crate::telemetry::reasons::{self, Note};

/// Prefixes that libcontainer's processes add when they pass an error to each other.
const HANDED_ON: [&str; 6] = [
    "failed to create container: ",
    "exec process failed with error ",
    "error in executing process : ",
    "intermediate process error ",
    "executor failed: ",
    "failed to execute workload: ",
];
/// Highest error number of Linux.
const ERRNO_MAX: i32 = 133;

/// The spec of the container or process that could not be built.
pub(super) struct Specs<'a> {
    /// The client's spec.
    pub(super) original: &'a Spec,
    /// The spec that libcontainer got.
    pub(super) adapted: &'a Spec,
}

/// Makes the error of a container or process that libcontainer could not build, from libcontainer's error and the notes of its processes.
pub(super) fn build_error(what: &'static str, error: &LibcontainerError, specs: &Specs<'_>) -> BuildError {
    // The error of an executed process comes in pieces of three bytes, the last one padded with zeros.
    let text = chain(error).replace('\0', "");
    BuildError::Build { what, reason: reason(&text, &reasons::take(), specs) }
}

fn reason(text: &str, notes: &[Note], specs: &Specs<'_>) -> String {
    if let Some(note) = notes.iter().find(|note| note.complete) {
        return note.message.clone();
    }
    let mut reason = text;
    while let Some(rest) = HANDED_ON.iter().find_map(|before| reason.strip_prefix(before)) {
        reason = rest;
    }
    // The innermost process logs first.
    let Some(detail) = notes.first().map(|note| detail(note, specs)) else { return reason.to_owned() };
    let cause = notes.iter().find_map(cause);
    let mut parts = vec![reason.to_owned()];
    for part in [Some(detail), cause].into_iter().flatten() {
        if !parts.iter().any(|known| known.contains(&part)) {
            parts.retain(|known| !part.contains(known.as_str()));
            parts.push(part);
        }
    }
    parts.join(": ")
}

/// Explains a note of libcontainer.
fn detail(note: &Note, specs: &Specs<'_>) -> String {
    if note.message == "failed to chdir" {
        return format!("cannot use working directory {}", spec::cwd(specs.original).display());
    }
    let list = |spec: &Spec| spec.mounts().clone().unwrap_or_default();
    let failed = list(specs.adapted).iter().position(|mount| note.message.contains(&format!("{mount:?}")));
    if let Some(mount) = failed.and_then(|index| list(specs.original).into_iter().nth(index)) {
        let source = mount.source().clone().unwrap_or_default();
        let options = mount.options().clone().unwrap_or_default();
        let kind = mount.typ().clone().filter(|kind| kind != "bind").map(|kind| format!("{kind} ")).unwrap_or_default();
        let (source, destination) = (source.display().to_string(), mount.destination().display().to_string());
        let options = if options.is_empty() { String::new() } else { format!(" with options {}", options.join(",")) };
        let subject = format!("{kind}{source}");
        return format!("cannot mount {} on {destination}{options}", subject.trim_end());
    }
    let fields = note.fields.iter().filter(|(name, _)| !is_error(name));
    let fields: Vec<String> = fields.map(|(name, value)| format!("{name} {value}")).collect();
    if fields.is_empty() { note.message.clone() } else { format!("{} ({})", note.message, fields.join(", ")) }
}

/// Finds the system's error among the fields of a note.
fn cause(note: &Note) -> Option<String> {
    let errors = note.fields.iter().filter(|(name, _)| is_error(name)).map(|(_, value)| value.as_str());
    errors.chain([note.message.as_str()]).find_map(|text| {
        let code = text.split_once("Os { code: ").and_then(|(_, rest)| rest.split(',').next()?.trim().parse().ok());
        let named = || {
            let words: Vec<&str> = text.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
            (1..=ERRNO_MAX).map(Errno::from_raw).find(|errno| words.contains(&&*format!("{errno:?}")))
        };
        code.map(Errno::from_raw).or_else(named).map(|errno| errno.desc().to_owned())
    })
}

fn is_error(field: &str) -> bool {
    ["err", "e", "error", "ret"].contains(&field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        serde_json::from_value(serde_json::json!({ "ociVersion": "1.1.0", "mounts": [
            { "destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["odd=1"] }],
            "process": { "cwd": "/w", "user": { "uid": 0, "gid": 0 } } }))
        .unwrap()
    }

    fn told(text: &str, notes: &[Note]) -> String {
        let spec = spec();
        reason(text, notes, &Specs { original: &spec, adapted: &spec })
    }

    fn note(message: &str, fields: &[(&str, &str)]) -> Note {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Note { message: message.to_owned(), fields, complete: false }
    }

    /// The message is the reason, without the path it took through libcontainer's processes.
    #[test]
    fn reasons_are_plain() {
        let text = "exec process failed with error error in executing process : cannot execute \"/x\"";
        assert_eq!(told(text, &[]), "cannot execute \"/x\"");
    }

    /// The first note names the failed step, and one of the notes has the system's error.
    #[test]
    fn reasons_are_complete() {
        let mounts = spec().mounts().clone().unwrap();
        let notes = [
            note(&format!("failed to mount {:?}: syscall", mounts[0]), &[]),
            note("failed to prepare rootfs", &[("err", "Mount(Syscall(Nix(EINVAL)))")]),
        ];
        assert_eq!(
            told("exec process failed with error failed to prepare rootfs", &notes),
            "failed to prepare rootfs: cannot mount tmpfs tmpfs on /x with options odd=1: Invalid argument"
        );
        let notes = [note("failed to chdir", &[("e", "ENOENT")])];
        assert_eq!(
            told("failed to unix syscall", &notes),
            "failed to unix syscall: cannot use working directory /w: No such file or directory"
        );
        let os = "Io(Os { code: 13, kind: PermissionDenied, message: \"Permission denied\" })";
        let notes = [note("failed to set readonly path", &[("path", "\"/p\""), ("err", os)])];
        assert_eq!(told("io error", &notes), "io error: failed to set readonly path (path \"/p\"): Permission denied");
    }

    /// A hook's own message is not wrapped in any other text.
    #[test]
    fn hooks_say_all() {
        let notes =
            [note("failed to run create container hooks", &[]), Note::complete("hook /h has failed".to_owned())];
        assert_eq!(told("failed hooks", &notes), "hook /h has failed");
    }
}
