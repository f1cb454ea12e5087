//! The integration tests: every behaviour that a user relies on, against real containerds. `docs/testing.md` says how to add one.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::Arguments;
use prewasi_test::trial::{Daemons, trials};

mod admin;
mod attributes;
mod big;
mod bootstrap;
mod busybox;
mod collection;
mod compiles;
mod confinement;
mod contract;
mod corpus;
mod cri;
mod damage;
mod deploy;
mod docker;
mod engines;
mod exec;
mod faults;
mod guard;
mod hostile;
mod labels;
mod layers;
mod limits;
mod local_run;
mod machines;
mod many;
mod mounts;
mod names;
mod options;
mod parity;
mod paths;
mod pins;
mod pods;
mod programs;
mod reference;
mod refusals;
mod replay;
mod run;
mod running;
mod signals;
mod streams;
mod survival;
mod task_api;
mod terminal;
mod tracing;
mod volumes;
mod wasi;
mod watch;
mod web;

fn main() -> ExitCode {
    if prewasi_test::calls::merged_as_asked() || contract::held_lock_as_asked() || survival::ran_until_killed_as_asked()
    {
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // A test waits for others most of the time.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(2 * cores);
    let daemons = Arc::new(Daemons::default());
    let cases = [
        run::cases(),
        volumes::cases(),
        paths::cases(),
        pins::cases(),
        labels::cases(),
        layers::cases(),
        local_run::cases(),
        machines::cases(),
        refusals::cases(),
        signals::cases(),
        task_api::cases(),
        replay::cases(),
        exec::cases(),
        terminal::cases(),
        streams::cases(),
        limits::cases(),
        confinement::cases(),
        hostile::cases(),
        guard::cases(),
        attributes::cases(),
        parity::cases(),
        mounts::cases(),
        pods::cases(),
        damage::cases(),
        survival::cases(),
        reference::cases(),
        big::cases(),
        many::cases(),
        options::cases(),
        admin::cases(),
        watch::cases(),
        cri::cases(),
        docker::cases(),
        compiles::cases(),
        collection::cases(),
        faults::cases(),
        contract::cases(),
        tracing::cases(),
        programs::cases(),
        wasi::cases(),
        web::cases(),
        names::cases(),
        engines::cases(),
    ];
    let cases: Vec<_> = cases.into_iter().flatten().collect();
    let mut trials = trials(&cases, &daemons);
    trials.extend(engines::trials(&cases, &daemons));
    trials.extend(contract::layout_trials());
    trials.extend(local_run::trials());
    trials.extend(machines::trials());
    trials.extend(bootstrap::trials());
    trials.extend(deploy::trials());
    trials.extend(corpus::trials());
    trials.extend(names::trials());
    let conclusion = libtest_mimic::run(&arguments, trials);
    let left = Arc::into_inner(daemons).map(Daemons::finish).unwrap_or_default();
    for leak in &left {
        eprintln!("left behind: {leak}");
    }
    if left.is_empty() { conclusion.exit_code() } else { ExitCode::FAILURE }
}
