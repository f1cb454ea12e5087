//! `/proc/PID/exe` of a container's process leads to the shim on the node, until the process executes a program of the container.
//! Nobody can write to the shim on that way: not while it runs, and not when nothing runs it any more.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use prewasi_test::guests::DEMO;
use prewasi_test::image::Program;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually, home};
use serde_json::json;

use crate::busybox;
use crate::confinement::{OURS, running, wasm};
use crate::survival::kill_daemons;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(shim_cannot_be_written_by_way_of_its_processes, needs Busybox),
        case!(root_of_a_container_cannot_write_the_shim, needs Busybox),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);

/// Opens a file for appending, and writes nothing.
fn append(path: &str) -> io::Result<File> {
    File::options().append(true).open(path)
}

/// A process that keeps `/proc/PID/exe` open cannot open it for writing, while the processes run and after the daemon and all of them were
/// killed.
async fn shim_cannot_be_written_by_way_of_its_processes(namespace: Namespace) {
    // A file of the test's own: the others' is run by their daemons, and busy.
    let shim = namespace.folder().join("containerd-shim-wasmtime-v1");
    home::copy_program("containerd-shim-wasmtime-v1", &shim);
    let before = fs::read(&shim).expect("the file is ours");
    assert!(append(&shim.to_string_lossy()).is_ok(), "the test would show nothing");
    let runtime = shim.to_string_lossy().into_owned();
    let (wasm, native) = (wasm(&namespace), busybox::image(&namespace));
    let guest = running(&namespace, &wasm, &runtime, &json!({})).await;
    let mut process = guest.exec(&["/demo.wasm", "sleep", "600"]).create().await;
    process.start().await;
    process.prints("sleeping").await;
    let created = namespace.container(&native.name).runtime(&runtime).args(&["sleep", "600"]).create().await;
    let pids = [guest.pid(), process.pid(), created.pid()];
    let mut kept = Vec::new();
    for pid in pids {
        let path = format!("/proc/{pid}/exe");
        let program = File::open(&path).expect("it runs");
        let metadata = |file: &File| std::os::unix::fs::MetadataExt::ino(&file.metadata().expect("it is open"));
        assert_eq!(metadata(&program), metadata(&File::open(&shim).expect("the file is ours")), "it is the shim");
        let error = append(&path).expect_err("the shim can be written to");
        assert!(matches!(error.raw_os_error(), Some(libc::EROFS | libc::ETXTBSY)), "{error}");
        kept.push(program);
    }
    kill_daemons(&namespace);
    eventually("the end of all processes", LIMIT, async || {
        let left = pids.iter().find(|pid| Path::new(&format!("/proc/{pid}")).exists());
        left.map_or(Ok(()), |pid| Err(format!("{pid} is there")))
    })
    .await;
    for program in kept {
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        eventually("the shim to be busy no more", LIMIT, async || match append(&path) {
            Ok(_) => panic!("the shim can be written to"),
            Err(error) if error.raw_os_error() == Some(libc::EROFS) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
        .await;
    }
    assert!(fs::read(&shim).expect("the file is ours") == before, "the shim has changed");
    for container in [process, guest, created] {
        container.try_delete().await;
    }
    namespace.clear().await;
}

/// Root of a container does not get at the shim at all, and with CAP_SYS_PTRACE not to write.
async fn root_of_a_container_cannot_write_the_shim(namespace: Namespace) {
    let program = Program::guest(&namespace, DEMO);
    let image = busybox::with_wasm(&namespace, &program, &program.bytes);
    let mut container = namespace.container(&image.name).runtime(OURS).args(&["sleep", "600"]).create().await;
    container.start().await;
    container.prints("sleeping").await;
    let script = "exec 9</proc/1/exe && echo held; : >>/proc/self/fd/9";
    let args = ["/bin/busybox", "sh", "-c", script];
    let exited = container.exec(&args).run().await;
    assert_eq!(exited.stdout, "");
    assert!(exited.stderr.contains("/proc/1/exe: Permission denied"), "{exited:?}");
    let sets = ["CAP_SYS_PTRACE", "CAP_KILL"];
    let tracer = json!({ "capabilities": { "bounding": sets, "permitted": sets, "effective": sets } });
    let exited = container.exec(&args).change(tracer).run().await;
    assert_eq!(exited.stdout, "held\n", "{exited:?}");
    let refused = ["Read-only file system", "Text file busy"].iter().any(|reason| exited.stderr.contains(reason));
    assert!(refused && exited.code != 0, "{exited:?}");
    container.end().await;
}
