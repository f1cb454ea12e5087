//! Programs that others built for WebAssembly, at their ordinary work.

use std::fs;

use prewasi_test::image::{self, BIG_MODULE, Program, SOLVER};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, home};
use serde_json::{Value, json};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(solver_finds_a_number, needs Solver), case!(synthesis_writes_a_netlist, needs BigModule)]
}

/// Runs a program with a folder of the node as `/work`; returns its exit code and its output.
async fn run(namespace: &Namespace, part: &str, files: &[(&str, &str)], args: &[&str]) -> (u32, String) {
    let program = Program::file(namespace, &home::part(part));
    let image = image::import(namespace, "program", |image| image.layer(program.layer("program.wasm")));
    for (name, text) in files {
        fs::write(namespace.folder().join(name), text).expect("the folder is ours");
    }
    let mount = json!({
        "destination": "/work", "type": "bind", "source": namespace.folder(), "options": ["rbind", "rw"],
    });
    let exited = namespace.container(&image.name).mount(mount).args(args).run().await;
    assert_eq!(exited.stderr, "");
    (exited.code, exited.stdout)
}

/// A solver (Boolector) reads a formula from a file and finds the only number below 200 whose square is 9409.
async fn solver_finds_a_number(namespace: Namespace) {
    let formula = "(set-logic QF_BV) (declare-const x (_ BitVec 16)) (assert (= (bvmul x x) (_ bv9409 16)))
        (assert (bvult x (_ bv200 16))) (check-sat) (get-value (x))";
    let (code, stdout) = run(&namespace, SOLVER, &[("square.smt2", formula)], &["-m", "/work/square.smt2"]).await;
    // 10 is its way to say that there is a solution; 97 is 1100001.
    assert_eq!(code, 10, "{stdout}");
    assert!(stdout.starts_with("sat\n((x #b0000000001100001))"), "{stdout}");
}

/// A synthesis program (Yosys) reads a circuit and writes a netlist of it: a register of four bits and an adder.
async fn synthesis_writes_a_netlist(namespace: Namespace) {
    let circuit = "module counter(input clk, output reg [3:0] n); always @(posedge clk) n <= n + 1; endmodule\n";
    let script = "read_verilog /work/counter.v; proc; opt; write_json /work/counter.json";
    let (code, stdout) = run(&namespace, BIG_MODULE, &[("counter.v", circuit)], &["-q", "-p", script]).await;
    assert_eq!((code, &*stdout), (0, ""));
    let netlist = fs::read_to_string(namespace.folder().join("counter.json")).expect("it was written");
    let netlist: Value = serde_json::from_str(&netlist).expect("it is JSON");
    let cells = netlist["modules"]["counter"]["cells"].as_object().expect("there are cells");
    let mut kinds: Vec<&str> = cells.values().filter_map(|cell| cell["type"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["$add", "$dff"]);
    assert_eq!(netlist["modules"]["counter"]["ports"]["n"]["bits"].as_array().map(Vec::len), Some(4));
}
