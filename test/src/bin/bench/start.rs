//! Measures cold and warm `ctr run` of a tiny and a big program, compared to runc with a program that does nothing.

use std::fs;

use prewasi_test::Namespace;
use prewasi_test::guests;
use prewasi_test::image::{self, files};

use crate::Counts;
use crate::subject::{self, Subject};
use crate::table::{Samples, Section, Table, Target};

/// Allowed difference between a warm start of the big program and of the tiny one, in milliseconds.
const BIG_ABOVE_TINY: f64 = 50.0;

/// Takes the measurements in turns.
pub(crate) async fn measure(namespace: &Namespace, counts: Counts) -> Section {
    let subjects = [Subject::new(namespace, "tiny", &guests::path(guests::DEMO), &["echo"]), Subject::big(namespace)];
    let busybox = busybox(namespace);
    let mut cold = [Samples::default(), Samples::default()];
    for _ in 0..counts.cold {
        for (subject, samples) in subjects.iter().zip(&mut cold) {
            subject.import_anew(namespace).await;
            samples.add_time(subject.time(namespace));
        }
    }
    let (mut runc, mut warm) = (Samples::default(), [Samples::default(), Samples::default()]);
    // The first start of each is not counted: it warms the caches.
    for round in 0..=counts.warm {
        let output = subject::run(namespace, "io.containerd.runc.v2", &busybox, &["/bin/busybox", "true"]).success();
        let times = [subjects[0].time(namespace), subjects[1].time(namespace)];
        if round > 0 {
            runc.add_time(output.elapsed);
            warm.iter_mut().zip(times).for_each(|(samples, time)| samples.add_time(time));
        }
    }
    let [tiny, big] = [0, 1].map(|index: usize| warm[index].median());
    let above = Target::above(big, tiny, BIG_ABOVE_TINY, "ms", " above tiny");
    let mut table = Table::new("ms");
    table.row("runc, `busybox true`", &runc, None);
    for ((subject, cold), (warm, target)) in subjects.iter().zip(&cold).zip(warm.iter().zip([None, Some(above)])) {
        table.row(&format!("wasmtime, {}, cold", subject.size()), cold, None);
        table.row(&format!("wasmtime, {}, warm", subject.name), warm, target);
    }
    Section::new("Starts", "`ctr run --rm` as a whole, from the command to its end.", &[table])
}

fn busybox(namespace: &Namespace) -> String {
    let bytes = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok());
    let bytes = bytes.expect("busybox-static is installed by `test/setup test`");
    let layer = files(&[("bin/busybox", &bytes, 0o755)]);
    image::import(namespace, "busybox", |image| image.os("linux").layer(layer)).name
}
