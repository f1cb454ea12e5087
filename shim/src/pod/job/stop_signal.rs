//! The signal that stops a container. The task API does not name it: the shim gets the number of each signal, and only the client knows
//! which one means "stop".
//!
//! The signal is looked up in these places, in this order:
//!
//! 1. CRI's record of a container: the pod's `stopSignal` for it, from containerd 2.2 on, else that of the image.
//! 2. A label of the container, which `ctr task kill` and `nerdctl stop` use: that of `nerdctl run --stop-signal`, else that of the image.
//! 3. dockerd's notes about its container: the signal of `docker run --stop-signal`, else that of the image.
//! 4. The image's config.

use prewasi_precompiler::{ContainerRecord, Image};
use serde::Deserialize;

use crate::pod::docker::Noted;

/// The name under which CRI keeps its record of a container.
const CRI_METADATA: &str = "io.cri-containerd.container.metadata";
/// Label of a container with the name of the signal.
const LABEL: &str = "io.containerd.image.config.stop-signal";
/// The lowest and the highest real-time signal, as the C library numbers them for programs.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The part of CRI's metadata that is read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioned {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Metadata {
    stop_signal: String,
}

/// Finds the signal that stops a container. One that is not known is as none.
pub(super) fn of_container(record: &ContainerRecord, docker: Option<&Noted>, image: Option<&Image>) -> Option<i32> {
    let of_cri = || {
        let metadata = record.extensions.get(CRI_METADATA)?;
        let metadata: Versioned = serde_json::from_slice(&metadata.value).ok()?;
        Some(metadata.metadata.stop_signal)
    };
    let said = |signal: &String| !signal.is_empty();
    let named = of_cri().filter(said).or_else(|| record.labels.get(LABEL).filter(|signal| said(signal)).cloned());
    let named = named.or_else(|| docker.map(|docker| docker.stop_signal.clone()).filter(said));
    let named = named.or_else(|| image.and_then(|image| image.stop_signal.clone()))?;
    let number = number(&named);
    if number.is_none() {
        tracing::warn!(signal = named, "the image names an unknown signal to stop the container");
    }
    number
}

/// Reads the name of a signal, with or without `SIG`, or its number, as containerd does.
fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let steps = |text: &str, most| text.parse::<i32>().ok().filter(|steps| (0..=most).contains(steps));
    match name {
        "RTMIN" => Some(RTMIN),
        "RTMAX" => Some(RTMAX),
        // Synonyms of SIGABRT, SIGIO and SIGCHLD.
        "IOT" => Some(nix::libc::SIGABRT),
        "POLL" => Some(nix::libc::SIGIO),
        "CLD" => Some(nix::libc::SIGCHLD),
        name => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(text), _) => Some(RTMIN + steps(text, 15)?),
            (_, Some(text)) => Some(RTMAX - steps(text, 14)?),
            _ => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32),
        },
    }
}

#[cfg(test)]
mod tests {
    use prewasi_precompiler::Extension;

    use super::*;

    /// Names with and without `SIG`, in any case, and numbers are parsed; any other text is `None`.
    #[test]
    fn names() {
        for (name, expected) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("SigInt", 2),
            ("10", 10),
            ("WINCH", 28),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("SIGRTMAX-14", 50),
            ("rtmax", 64),
            ("POLL", 29),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        for name in ["", "0", "65", "-1", "SIG", "SIGSIGTERM", "RTMIN+16", "RTMAX-15", "RTMIN+-1", "TERM "] {
            assert_eq!(number(name), None, "{name:?}");
        }
    }

    /// CRI's metadata has precedence, then the label; a source without a signal is skipped.
    #[test]
    fn sources() {
        let record = |cri: &str, label: &str| ContainerRecord {
            extensions: [(CRI_METADATA.to_owned(), Extension { value: cri.into(), ..Extension::default() })].into(),
            labels: [(LABEL.to_owned(), label.to_owned())].into(),
            ..ContainerRecord::default()
        };
        let cri = |signal: &str| format!(r#"{{"Version":"v1","Metadata":{{"ID":"a","StopSignal":"{signal}"}}}}"#);
        assert_eq!(of_container(&record(&cri("SIGUSR1"), "SIGINT"), None, None), Some(10));
        assert_eq!(of_container(&record(&cri(""), "SIGINT"), None, None), Some(2));
        assert_eq!(of_container(&record(r#"{"Version":"v1","Metadata":{}}"#, "SIGINT"), None, None), Some(2));
        assert_eq!(of_container(&record("[1]", ""), None, None), None);
        assert_eq!(of_container(&ContainerRecord::default(), None, None), None);
        let docker = Noted {
            id: prewasi_precompiler::Digest::of(b"image"),
            manifest: None,
            name: String::new(),
            stop_signal: "SIGQUIT".to_owned(),
        };
        assert_eq!(of_container(&ContainerRecord::default(), Some(&docker), None), Some(3));
        assert_eq!(of_container(&record(&cri("SIGUSR1"), ""), Some(&docker), None), Some(10));
    }
}
