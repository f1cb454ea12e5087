//! One big real module, from packing to running.

use std::time::Duration;

use prewasi_test::home;
use prewasi_test::image::{BIG_MODULE, Program};
use prewasi_test::process::run;
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(big_module_packs_precompiles_and_runs, needs BigModule)]
}

/// A module of more than 10 MB is packed by `oci-tar-builder`, precompiled by `prewasi`, and run without a compile.
async fn big_module_packs_precompiles_and_runs(namespace: Namespace) {
    let program = Program::file(&namespace, &home::part(BIG_MODULE));
    assert!(program.bytes.len() > 10 << 20, "{} bytes are not big", program.bytes.len());
    let module = namespace.folder().join("yosys.wasm");
    std::fs::write(&module, &program.bytes).expect("the folder is ours");
    let tar = namespace.folder().join("yosys.tar");
    let mut pack = namespace.daemon().command(home::program("oci-tar-builder"));
    pack.args(["--name", "yosys", "--repo", "localhost", "--tag", "v1"])
        .arg("--module")
        .arg(&module)
        .arg("-o")
        .arg(&tar);
    run(&mut pack, Duration::from_secs(60)).success();
    namespace.import(&tar, "wasip1");

    namespace.prewasi("precompile", &["localhost/yosys:v1"]).success();
    let exited = namespace.container("localhost/yosys:v1").args(&["-V"]).run().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""));
    assert!(exited.stdout.starts_with("Yosys 0.17 "), "{}", exited.stdout);
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
}
