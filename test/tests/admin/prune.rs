//! `prune`: the artifacts that it removes, the artifacts that it keeps, and its result on a damaged store.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(prune_frees_superseded_code_and_keeps_one_for_a_rollback),
        case!(prune_finishes_what_was_interrupted),
        case!(prune_copes_with_damage_of_each_kind),
    ]
}

/// both report the bytes that go.
async fn prune_frees_superseded_code_and_keeps_one_for_a_rollback(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    let mut old = Vec::new();
    for version in OLD {
        old.push(subject.superseded(version).await);
    }
    let mut freed = 0;
    for digest in &old[..2] {
        freed += namespace.blob(digest.as_str()).await.expect("it is there").size;
    }
    let dry = subject.json("prune", &["--dry-run"]);
    assert_eq!((&dry["dry_run"], &dry["bytes_freed"]), (&json!(true), &json!(freed)));
    assert_eq!(subject.states(), ["current", "superseded", "superseded", "superseded"]);
    let young = namespace.prewasi("prune", &["--keep", "0", "--older-than", "1h"]).success();
    assert_eq!(young.stdout, "0 artifacts removed, 0 B freed\n");
    let pruned = subject.json("prune", &[]);
    assert_eq!((&pruned["bytes_freed"], pruned["removed"].as_array().map(Vec::len)), (&json!(freed), Some(2)));
    assert_eq!(subject.states(), ["current", "superseded"]);
    for (digest, stays) in [(&old[0], false), (&old[1], false), (&old[2], true), (&subject.artifact().await, true)] {
        assert_eq!(subject.is_there(digest).await, stays, "{digest}");
    }
    let labels = namespace.labels(subject.layer.as_str()).await;
    for version in &OLD[..2] {
        assert!(labels.keys().all(|label| !label.contains(version)), "{labels:?}");
    }
    // The engine of before looks up its code, as after a rollback.
    let cache = ArtifactCache::new(subject.store.clone(), namespace.folder().join("stamps"));
    let found = cache.lookup(&key(&subject.layer, OLD[2])).await.expect("containerd answers");
    assert!(matches!(found, prewasi_cache::Lookup::Hit(artifact) if artifact.digest == old[2]));
    namespace.prewasi("prune", &["--keep", "0"]).success();
    assert!(!subject.is_there(&old[2]).await);
    let before = namespace.daemon().journal().compiles(subject.layer.as_str()).len();
    let exited = namespace.container(&subject.image).args(&["exit", "7"]).run().await;
    assert_eq!((exited.code, namespace.daemon().journal().compiles(subject.layer.as_str()).len()), (7, before));
}

/// An artifact whose leading label an interrupted `prune` has removed goes with the next call.
async fn prune_finishes_what_was_interrupted(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    let old = subject.superseded(OLD[0]).await;
    namespace.set_label(subject.layer.as_str(), &key(&subject.layer, OLD[0]).anchor_label(), "").await;
    namespace.collect_garbage().await;
    assert!(subject.is_there(&old).await);
    namespace.prewasi("prune", &["--keep", "0"]).success();
    assert!(!subject.is_there(&old).await);
    let labels = namespace.labels(subject.layer.as_str()).await;
    assert!(labels.keys().all(|label| !label.contains(OLD[0])), "{labels:?}");
}

/// `verify --repair` has nothing left to repair, except content that no longer proves to be ours. It leaves that content alone, and the
/// content goes with the image.
async fn prune_copes_with_damage_of_each_kind(namespace: Namespace) {
    let subject = Subject::new(&namespace).await;
    let layer = subject.layer.as_str();
    for kind in ["changed byte", "deleted blob", "missing reference", "changed label"] {
        let old = subject.superseded(OLD[0]).await;
        let key = key(&subject.layer, OLD[0]);
        match kind {
            "changed byte" => damage(&namespace, &old),
            "deleted blob" => namespace.delete_blob(old.as_str()).await,
            "missing reference" => namespace.set_label(layer, &key.keep_label(), "").await,
            _ => namespace.set_label(old.as_str(), &key.label(), &"0".repeat(64)).await,
        }
        namespace.prewasi("prune", &["--keep", "0"]).success();
        assert!(subject.is_there(&subject.artifact().await).await, "{kind}");
        let before = namespace.daemon().journal().compiles(layer).len();
        let exited = namespace.container(&subject.image).args(&["exit", "7"]).run().await;
        assert_eq!((exited.code, namespace.daemon().journal().compiles(layer).len()), (7, before), "{kind}");
        namespace.prewasi("verify", &["--repair"]).success();
        namespace.collect_garbage().await;
        if kind == "changed label" {
            assert_eq!(subject.states(), ["current", "foreign"]);
            namespace.remove_image(&subject.image).await;
            assert!(!subject.is_there(&old).await);
            continue;
        }
        assert!(!subject.is_there(&old).await, "{kind}");
        assert_eq!(subject.states(), ["current"], "{kind}");
        let labels = namespace.labels(layer).await;
        assert!(labels.keys().all(|label| !label.contains(OLD[0])), "{kind}: {labels:?}");
    }
}
