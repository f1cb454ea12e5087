//! The other engines: their shims pass every test of the shim of wasmtime, except the cases listed here with a reason. Also the features of
//! each engine, which `docs/engines.md` has as a table.

use std::fs;
use std::sync::Arc;

use libtest_mimic::Trial;
use prewasi_test::guests::{DEMO, DEMO_COMPONENT, WEB};
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::service::Service;
use prewasi_test::trial::{self, Case, Daemons};
use prewasi_test::{Namespace, case, eventually};
use rustix::process::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(features_are_as_documented), case!(service_of_an_engine_compiles_for_it)]
}

/// An engine, and the cases that it cannot pass.
struct Engine {
    name: &'static str,
    /// Names of cases, and why.
    lacks: &'static [(&'static str, &'static str)],
}

/// The modules of tests that run with every engine.
const MODULES: [&str; 18] = [
    "guard", "run", "layers", "programs", "signals", "streams", "refusals", "options", "exec", "engines", "wasi",
    "labels", "damage", "many", "names", "volumes", "pins", "paths",
];

/// Cases of components: none of the other engines runs them.
const COMPONENTS: [&str; 18] = [
    "paths::paths_of_components_do_as_native_ones",
    "guard::server_may_have_processes",
    "run::component_image_runs",
    "labels::precompile_leaves_the_labels_of_the_contract",
    "signals::sigterm_ends_a_component",
    "signals::sigkill_ends_a_component",
    "signals::component_that_can_hear_ends_by_itself",
    "exec::component_runs_again_in_a_wasm_container",
    "options::network_is_inherited_or_none",
    "names::names_are_found",
    "names::names_without_servers",
    "names::look_up_ends_with_the_guest",
    "names::servers_look_names_up",
    "names::hostile::look_up_runs_nothing_of_the_image",
    "layers::data_is_read_and_cannot_be_written",
    "layers::programs::entry_layer_of_an_artifact_is_chosen_by_title",
    "layers::programs::composed_component_runs",
    "layers::programs::import_that_the_config_names_is_refused_before_compiling",
];
const INTERPRETS: &str = "it interprets: there is no code to be shaped, and no fuel";
const NO_FUEL: &str = "it has no fuel";
const GREEDY: &str = "for 22 MB of wasm its compiler needs more memory than a compile may take by default";

const ENGINES: [Engine; 3] = [
    Engine {
        name: "wamr",
        lacks: &[
            ("exec::ordinary_image_runs_wasm_and_native_programs", INTERPRETS),
            ("options::fuel_ends_the_guest", INTERPRETS),
            ("options::code_ahead_of_time_is_that_of_the_runtime_class", INTERPRETS),
            ("options::image_says_how_it_is_compiled", INTERPRETS),
            ("options::options_that_cannot_be_had_are_named", INTERPRETS),
            ("layers::commands_know_data", INTERPRETS),
            ("labels::first_run_leaves_the_labels_of_the_contract", INTERPRETS),
            ("labels::shim_binary_precompiles_like_prewasi", INTERPRETS),
            ("labels::second_run_compiles_nothing", INTERPRETS),
            ("labels::second_run_writes_nothing", INTERPRETS),
            ("labels::run_after_precompile_compiles_nothing", INTERPRETS),
            ("labels::file_in_an_ordinary_image_is_compiled_once", INTERPRETS),
            ("labels::unrelated_removal_keeps_the_artifact", INTERPRETS),
            ("labels::removing_the_image_frees_the_artifact", INTERPRETS),
            ("labels::shared_layer_shares_the_artifact", INTERPRETS),
            ("labels::pulled_labels_are_left_alone", INTERPRETS),
            ("damage::changed_byte_is_a_miss", INTERPRETS),
            ("damage::truncated_artifact_is_a_miss", INTERPRETS),
            ("damage::dangling_label_is_a_miss", INTERPRETS),
            ("damage::malformed_label_is_a_miss", INTERPRETS),
            ("damage::foreign_artifact_is_a_miss", INTERPRETS),
            ("many::twenty_tasks_at_once_compile_once", INTERPRETS),
            ("many::killed_compiler_is_replaced_by_one_waiter", INTERPRETS),
            ("many::command_line_and_shims_share_one_compile", INTERPRETS),
            ("many::death_between_two_steps_is_a_plain_miss", INTERPRETS),
        ],
    },
    // Its cases are not run, with a reason, where its shim was not built for want of its library.
    Engine {
        name: "wasmedge",
        lacks: &[
            ("programs::synthesis_writes_a_netlist", GREEDY),
            ("many::twenty_tasks_at_once_compile_once", GREEDY),
            ("many::killed_compiler_is_replaced_by_one_waiter", GREEDY),
            ("many::command_line_and_shims_share_one_compile", GREEDY),
        ],
    },
    Engine { name: "wasmer", lacks: &[("options::fuel_ends_the_guest", NO_FUEL)] },
];

/// Binds the cases to each engine.
///
/// # Panics
/// If something is listed that is no case.
pub(crate) fn trials(cases: &[Case], daemons: &Arc<Daemons>) -> Vec<Trial> {
    let of_engine = |engine: &Engine| {
        let lacks: Vec<&str> = engine.lacks.iter().map(|(name, _)| *name).chain(COMPONENTS).collect();
        for name in &lacks {
            assert!(cases.iter().any(|case| case.short_name() == *name), "{name} is no case");
        }
        let shown = cases.iter().filter(|case| {
            let (module, _) = case.short_name().split_once("::").unwrap_or_default();
            MODULES.contains(&module) && !lacks.contains(&case.short_name())
        });
        trial::engine_trials(engine.name, shown, daemons)
    };
    ENGINES.iter().flat_map(of_engine).collect()
}

const WORKS: &str = "works";
const REFUSED: &str = "refused";

/// Programs that use one thing each, and end with 0.
const PROGRAMS: [(&str, &str); 10] = [
    ("modules", r#"(module (memory (export "memory") 1) (func (export "_start")))"#),
    (
        "components",
        r#"(component
            (core module $code (func (export "run") (result i32) (i32.const 0)))
            (core instance $code (instantiate $code))
            (func $run (result (result)) (canon lift (core func $code "run")))
            (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#,
    ),
    (
        "WASI preview 3",
        r#"(component
            (core func $return (canon task.return (result (result))))
            (core module $code
                (import "task" "return" (func $return (param i32)))
                (func (export "run") (result i32) (call $return (i32.const 0)) (i32.const 0))
                (func (export "again") (param i32 i32 i32) (result i32) unreachable))
            (core instance $code (instantiate $code (with "task" (instance (export "return" (func $return))))))
            (func $run async (result (result)) (canon lift (core func $code "run")
                async (callback (core func $code "again"))))
            (instance (export "wasi:cli/run@0.3.0") (export "run" (func $run))))"#,
    ),
    ("SIMD", r#"(module (memory (export "memory") 1) (func (export "_start") (drop (v128.const i32x4 0 0 0 0))))"#),
    (
        "exceptions",
        r#"(module (memory (export "memory") 1) (tag $t) (func (export "_start") (block $caught (try_table (catch $t $caught) (throw $t)))))"#,
    ),
    (
        "garbage collection",
        r#"(module (memory (export "memory") 1) (type $pair (struct (field i32) (field i32)))
            (func (export "_start") (drop (struct.new $pair (i32.const 1) (i32.const 2)))))"#,
    ),
    ("tail calls", r#"(module (memory (export "memory") 1) (func $end) (func (export "_start") (return_call $end)))"#),
    (
        "64-bit memories",
        r#"(module (memory (export "memory") i64 1) (func (export "_start") (drop (i32.load (i64.const 0)))))"#,
    ),
    (
        "several memories",
        r#"(module (memory (export "memory") 1) (memory $b 1) (func (export "_start") (drop (i32.load $b (i32.const 0)))))"#,
    ),
    (
        "shared memories",
        r#"(module (memory (export "memory") 1 1 shared) (func (export "_start") (drop (i32.atomic.load (i32.const 0)))))"#,
    ),
];

/// Runs an image; a refusal comes at the creation of the container, with an error.
async fn verdict(namespace: &Namespace, image: &Imported, options: &str, args: &[&str], code: u32) -> &'static str {
    let container = namespace.container(&image.name).options(options).args(args).try_create().await;
    let Ok(mut container) = container else { return REFUSED };
    container.start().await;
    let exited = container.finish().await;
    assert_eq!(exited.code, code, "{}: {}", image.name, exited.stderr);
    WORKS
}

fn guest(namespace: &Namespace, name: &str) -> Imported {
    let program = Program::guest(namespace, name);
    image::import(namespace, &name.replace('.', "-"), |image| image.layer(program.layer("guest.wasm")))
}

/// The features of each engine match the table in the documentation: each cell is tried, in a container.
async fn features_are_as_documented(namespace: Namespace) {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for (name, text) in PROGRAMS {
        let program = Program::new(wat::parse_str(text).unwrap_or_else(|error| panic!("{name}: {error}")));
        let image = image::import(&namespace, "feature", |image| image.layer(program.layer("feature.wasm")));
        found.push((name, verdict(&namespace, &image, "", &[], 0).await));
    }
    let (demo, component) = (guest(&namespace, DEMO), guest(&namespace, DEMO_COMPONENT));
    found.push(("WASI preview 1", verdict(&namespace, &demo, "", &["exit", "7"], 7).await));
    found.push(("WASI preview 2", verdict(&namespace, &component, "", &["exit", "7"], 7).await));
    found.push(("HTTP", serves(&namespace).await));
    found.push(("memory limit", verdict(&namespace, &demo, "memory_limit = \"1MiB\"", &["allocate", "16"], 1).await));
    found.push(("time limit", verdict(&namespace, &demo, "timeout = \"500ms\"", &["spin"], 134).await));
    found.push(("fuel", verdict(&namespace, &demo, "fuel = 1000000", &["spin"], 134).await));
    let said = namespace.prewasi("precompile", &[&demo.name]).success().stdout;
    let compiles = !said.contains("nothing to compile");
    found.push(("compiling ahead of time", if compiles { WORKS } else { "nothing to compile" }));
    found.push(("native code mapped from the content store", maps(&namespace, &demo).await));
    let other = namespace.prewasi("precompile", &["--cpu", "baseline", &demo.name]);
    // The engine could; the store of a node is not the place for such code.
    let could = other.stderr.contains("cannot keep native code for another machine");
    found.push(("compiling for other machines", if could { WORKS } else { REFUSED }));

    let page =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/engines.md")).expect("the page is there");
    let documented = column(&page, namespace.engine());
    let found: Vec<String> = found.iter().map(|(name, verdict)| format!("{name}: {verdict}")).collect();
    assert_eq!(found, documented, "the table of docs/engines.md, column {}", namespace.engine());
}

/// The shim's own `watch` compiles imported images for its engine; it has nothing to do for an engine that interprets.
async fn service_of_an_engine_compiles_for_it(namespace: Namespace) {
    let service = Service::start(&namespace, &["--namespace", namespace.name()]).await;
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "watched", |image| image.layer(program.layer("demo.wasm")));
    let compiles = || namespace.daemon().journal().compiles(&program.digest);
    if namespace.engine() != "wamr" {
        service.reaches("prewasi_compiles_total", 1.0).await;
    }
    service.is_idle().await;
    assert!(compiles().iter().all(|compile| compile.engine == namespace.engine()), "{:?}", compiles());
    let before = compiles().len();
    assert_eq!(namespace.container(&image.name).args(&["exit", "7"]).run().await.code, 7);
    assert_eq!(compiles().len(), before, "the container compiles nothing");
    let (code, said) = service.end(Signal::TERM).await;
    assert_eq!(code, Some(0), "{said}");
    namespace.assert_clean().await;
}

/// Says whether a component serves.
async fn serves(namespace: &Namespace) -> &'static str {
    let web = guest(namespace, WEB);
    let Ok(mut container) = namespace.container(&web.name).try_create().await else { return REFUSED };
    container.start().await;
    eventually("a server", std::time::Duration::from_secs(20), async || match container.stderr() {
        said if said.contains("listening on http://0.0.0.0:8080") => Ok(()),
        said => Err(said),
    })
    .await;
    container.kill(Signal::TERM).await.expect("it runs");
    assert_eq!(container.wait().await, 0);
    container.delete().await;
    WORKS
}

/// Says whether a container's code is pages of the content store's file.
async fn maps(namespace: &Namespace, image: &Imported) -> &'static str {
    let mut container = namespace.container(&image.name).create().await;
    container.start().await;
    container.prints("tick 1\n").await;
    let maps = fs::read_to_string(format!("/proc/{}/maps", container.pid())).expect("it runs");
    container.end().await;
    if maps.contains("/io.containerd.content.v1.content/blobs/sha256/") { WORKS } else { "no native code" }
}

/// Reads one engine's column of the table: `feature: verdict`.
fn column(page: &str, engine: &str) -> Vec<String> {
    let rows =
        page.lines().skip_while(|line| !line.starts_with("| feature |")).take_while(|line| line.starts_with('|'));
    let mut rows = rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let head = rows.next().unwrap_or_default();
    let Some(column) = head.iter().position(|name| *name == engine) else { return Vec::new() };
    rows.skip(1).map(|row| format!("{}: {}", row[0], row.get(column).unwrap_or(&"missing"))).collect()
}
