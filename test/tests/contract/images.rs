//! Clauses on image records.

use containerd_client::services::v1::{CreateImageRequest, Image};
use containerd_client::types::Descriptor;
use prewasi_cache::{Digest, ImageRecord};
use serde_json::json;

use super::{Subject, owned, unique};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Makes two image records, in the way of people who do not know this store.
async fn make_images(subject: &Subject, target: &Digest) {
    let names = ["localhost/a:v1", "localhost/b:v1"];
    if let Some(path) = subject.index_path() {
        let descriptor = |name| {
            let annotations = json!({"io.containerd.image.name": name});
            json!({"mediaType": MANIFEST, "digest": target, "size": 1, "annotations": annotations})
        };
        let index = json!({"schemaVersion": 2, "manifests": names.map(descriptor)});
        std::fs::write(path, index.to_string()).expect("the layout is writable");
    }
    let Some(namespace) = subject.namespace() else { return };
    for name in names {
        let (media_type, digest) = (MANIFEST.to_owned(), target.to_string());
        let target = Descriptor { media_type, digest, size: 1, ..Default::default() };
        let image = Image { name: name.to_owned(), target: Some(target), ..Default::default() };
        let request = namespace.request(CreateImageRequest { image: Some(image), ..Default::default() });
        namespace.client().images().create(request).await.expect("an image can be made");
    }
}

/// Image records are found by name and listed, with digest and type of their targets.
pub(super) async fn images_are_listed(subject: Subject) {
    let target = subject.put(&unique("manifest")).await;
    assert_eq!(subject.store.images().await.expect("the store answers"), []);
    make_images(&subject, &target).await;
    let mut images = subject.store.images().await.expect("the store answers");
    images.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["localhost/a:v1", "localhost/b:v1"]);
    let image = subject.store.image("localhost/b:v1").await.expect("the store answers").expect("it is there");
    let ImageRecord { target: named, media_type, .. } = &image;
    assert_eq!((named, media_type.as_str()), (&target, MANIFEST));
    assert_eq!(image, images[1]);
    assert_eq!(subject.store.image("localhost/c:v1").await.expect("the store answers"), None);
    subject.finish().await;
}

/// A label of an image record is set and removed without touching any other or the target.
pub(super) async fn image_labels_are_set_one_by_one(subject: Subject) {
    let target = subject.put(&unique("manifest")).await;
    make_images(&subject, &target).await;
    let name = "localhost/a:v1";
    let before = subject.store.image(name).await.expect("the store answers").expect("it is there");
    for (key, value) in [("a.b/c", "1"), ("d", "2"), ("a.b/c", "3"), ("d", "")] {
        subject.store.set_image_label(name, key, value).await.expect("a label is set");
    }
    let after = subject.store.image(name).await.expect("the store answers").expect("it is there");
    let labels = before.labels.clone().into_iter().chain(owned(&[("a.b/c", "3")])).collect();
    assert_eq!(after, ImageRecord { labels, ..before });
    subject.finish().await;
}
