//! Which containers share a daemon: those of one pod.

use std::collections::HashMap;

/// Annotations that name a group, in order of precedence: the pod's sandbox, then what runc's shim uses too.
const ANNOTATIONS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.containerd.runc.v2.group"];

/// Returns the name of the group that a container belongs to; its own id if nothing says otherwise.
pub(crate) fn group_of(id: &str, annotations: &HashMap<String, String>) -> String {
    let named = ANNOTATIONS.iter().filter_map(|name| annotations.get(*name)).find(|group| !group.is_empty());
    named.cloned().unwrap_or_else(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sandbox's id counts before any other group, and the container's own id stands in for none.
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
