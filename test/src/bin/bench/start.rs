//! Cold and warm `ctr run` of a tiny and a big program, beside runc with a program that does nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use prewasi_test::Namespace;
use prewasi_test::guests;
use prewasi_test::home;
use prewasi_test::image::{self, BIG_MODULE, Imported, Program, files};

use crate::table::{Samples, machine, milliseconds};

/// A wasm image that is started cold and warm.
struct Subject {
    name: &'static str,
    program: Program,
    args: &'static [&'static str],
    cold: Samples,
    warm: Samples,
}

impl Subject {
    fn new(namespace: &Namespace, name: &'static str, path: &Path, args: &'static [&'static str]) -> Self {
        let program = Program::file(namespace, path);
        Self { name, program, args, cold: Samples::default(), warm: Samples::default() }
    }

    fn import(&self, namespace: &Namespace) -> Imported {
        image::import(namespace, self.name, |image| image.layer(self.program.layer("program.wasm")))
    }

    /// Forgets image and native code, imports the image again, and starts it.
    async fn start_cold(&mut self, namespace: &Namespace) {
        let name = self.import(namespace).name;
        namespace.remove_image(&name).await;
        self.import(namespace);
        self.cold.add(run(namespace, &name, self.args));
    }

    fn start_warm(&mut self, namespace: &Namespace) {
        self.warm.add(run(namespace, &format!("localhost/{}:latest", self.name), self.args));
    }
}

/// Measures in turns; returns the section of the document.
pub(crate) async fn measure(namespace: &Namespace, warm: usize, cold: usize) -> String {
    let mut tiny = Subject::new(namespace, "tiny", &guests::path(guests::DEMO), &["echo"]);
    let mut big = Subject::new(namespace, "big", &home::part(BIG_MODULE), &["-V"]);
    let mut runc = Samples::default();
    let busybox = busybox(namespace);
    for _ in 0..cold {
        tiny.start_cold(namespace).await;
        big.start_cold(namespace).await;
    }
    // One start of each that does not count: caches are as warm as they get.
    for round in 0..=warm {
        let before = [runc.clone(), tiny.warm.clone(), big.warm.clone()];
        runc.add(run_with(namespace, "io.containerd.runc.v2", &busybox, &["/bin/busybox", "true"]));
        tiny.start_warm(namespace);
        big.start_warm(namespace);
        if round == 0 {
            [runc, tiny.warm, big.warm] = before;
        }
    }
    section(&runc, &tiny, &big)
}

fn section(runc: &Samples, tiny: &Subject, big: &Subject) -> String {
    let mut text = format!(
        "## Starts\n\n`ctr run --rm` as a whole, from the command to its end, on containerd 2.1 ({}).\n\n\
         | what | median, ms | 10 % to 90 %, ms | samples |\n|---|---|---|---|\n",
        machine()
    );
    text += &runc.row("runc, `busybox true`");
    for subject in [tiny, big] {
        let kib = subject.program.bytes.len() >> 10;
        text += &subject.cold.row(&format!("wasmtime, {} ({kib} KiB of wasm), cold", subject.name));
        text += &subject.warm.row(&format!("wasmtime, {}, warm", subject.name));
    }
    let above = big.warm.median().saturating_sub(tiny.warm.median());
    text + &format!("\nA warm start of the big program takes {} ms more than one of the tiny.\n", milliseconds(above))
}

fn busybox(namespace: &Namespace) -> String {
    let bytes = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok());
    let bytes = bytes.expect("busybox-static is installed by `test/setup test`");
    let layer = files(&[("bin/busybox", &bytes, 0o755)]);
    image::import(namespace, "busybox", |image| image.os("linux").layer(layer)).name
}

fn run(namespace: &Namespace, image: &str, args: &[&str]) -> Duration {
    run_with(namespace, "io.containerd.wasmtime.v1", image, &[&["/program.wasm"], args].concat())
}

fn run_with(namespace: &Namespace, runtime: &str, image: &str, args: &[&str]) -> Duration {
    let id = namespace.fresh_id("bench");
    let args = [&["run", "--rm", "--runtime", runtime, image, &id], args].concat();
    let started = Instant::now();
    let output = namespace.ctr(&args);
    let elapsed = started.elapsed();
    output.success();
    elapsed
}
