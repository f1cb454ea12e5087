//! Measures the resident memory of a shim whose container was compiled, compared to one that found the artifact.

use std::fs;

use prewasi_test::{Container, Namespace};

use crate::Counts;
use crate::subject::Subject;
use crate::table::{Samples, Section, Table, Target};

/// Allowed additional memory of the shim that compiled, in MiB.
const ABOVE: f64 = 2.0;

/// Takes the measurements in turns: the first container of an image compiles, the second one does not.
pub(crate) async fn measure(namespace: &Namespace, counts: Counts) -> Section {
    let big = Subject::big(namespace);
    let (mut compiled, mut found) = (Samples::default(), Samples::default());
    let compiles = || namespace.daemon().journal().compiles(&big.program.digest).len();
    for _ in 0..counts.cold {
        big.import_anew(namespace).await;
        let before = compiles();
        let first = namespace.container(&big.image()).args(&["-V"]).create().await;
        assert_eq!(compiles(), before + 1, "the first container compiles");
        let second = namespace.container(&big.image()).args(&["-V"]).create().await;
        assert_eq!(compiles(), before + 1, "the second one does not");
        compiled.add_bytes(resident(&first));
        found.add_bytes(resident(&second));
        namespace.clear().await;
    }
    let target = Target::above(compiled.median(), found.median(), ABOVE, "MiB", " above");
    let mut table = Table::new("MiB");
    table.row("shim that found native code", &found, None);
    table.row("shim that compiled", &compiled, Some(target));
    let intro = format!(
        "Resident memory (`VmRSS`) of the shim's daemon when it has created a container of {}. Most of it are pages of the \
         shim's binary, which all shims share.",
        big.size()
    );
    Section::new("Memory of a shim", &intro, &[table])
}

/// Returns the resident memory of the shim, which is the parent of the container's first process.
fn resident(container: &Container) -> u64 {
    let shim = field(container.pid(), "PPid:");
    field(u32::try_from(shim).expect("it is a process id"), "VmRSS:") << 10
}

pub(crate) fn field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("process {pid} has no {name}"))
}
