//! Assigns containers to daemons: the containers of one pod share a daemon.

use std::collections::HashMap;

/// Annotations that name a group, in order of precedence: the sandbox of the pod, then the annotation that runc's shim also reads.
const ANNOTATIONS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.containerd.runc.v2.group"];

/// Returns the name of the group that a container belongs to: without an annotation, the container's own id.
pub(crate) fn group_of(id: &str, annotations: &HashMap<String, String>) -> String {
    let named = ANNOTATIONS.iter().filter_map(|name| annotations.get(*name)).find(|group| !group.is_empty());
    named.cloned().unwrap_or_else(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sandbox's id has precedence; without any annotation the container's own id is the group.
    #[test]
    fn precedence() {
        let mut annotations = HashMap::new();
        assert_eq!(group_of("a", &annotations), "a");
        annotations.insert(ANNOTATIONS[1].to_owned(), "runc".to_owned());
        assert_eq!(group_of("a", &annotations), "runc");
        annotations.insert(ANNOTATIONS[0].to_owned(), String::new());
        assert_eq!(group_of("a", &annotations), "runc");
        annotations.insert(ANNOTATIONS[0].to_owned(), "pod".to_owned());
        assert_eq!(group_of("a", &annotations), "pod");
    }
}
