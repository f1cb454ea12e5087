//! Makes trials from the cases. Each has a namespace of the one cluster; those that disturb others have the cluster to themselves.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use prewasi_test::home;
use prewasi_test::trial::timed;

use crate::cases;
use crate::cluster::Cluster;
use crate::space::Space;

/// Time limit for a case.
const LIMIT: Duration = Duration::from_secs(900);

/// Cases at the same time: they wait most of the time.
const THREADS: usize = 4;

type Body = for<'a> fn(&'a Space) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A case. [`case!`] makes it.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// Module and function.
    pub(crate) name: &'static str,
    /// The function.
    pub(crate) body: Body,
    /// Whether it disturbs others, or others disturb it.
    pub(crate) alone: bool,
}

/// Makes a [`Case`] of an `async fn(&Space)`: `case!(name)`, `case!(name, alone)`.
macro_rules! case {
    ($body:ident) => {
        case!($body, false)
    };
    ($body:ident, alone) => {
        case!($body, true)
    };
    ($body:ident, $alone:expr) => {
        $crate::trials::Case {
            name: concat!(module_path!(), "::", stringify!($body)),
            body: |space| Box::pin($body(space)),
            alone: $alone,
        }
    };
}
pub(crate) use case;

impl Case {
    /// Returns the names of the module and of the function, without those above them.
    fn short_name(&self) -> &'static str {
        self.name.split_once("cases::").map_or(self.name, |(_, name)| name)
    }
}

/// Reports every case as not run.
pub(crate) fn skip(arguments: &Arguments, reason: &str) -> ExitCode {
    let trial = |case: Case| {
        let reason = reason.to_owned();
        Trial::ignorable_test(case.short_name(), move || {
            if home::is_ci() {
                return Err(Failed::from(format!("cannot run here: {reason}")));
            }
            Ok(Completion::ignored_with(reason))
        })
    };
    eprintln!("not run: {reason}");
    libtest_mimic::run(arguments, cases::all().into_iter().map(trial).collect()).exit_code()
}

/// Starts the cluster, runs the cases whose names match the arguments, and checks that nothing is left of them.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if arguments.list {
        let trial = |case: Case| Trial::test(case.short_name(), || Ok(()));
        return libtest_mimic::run(arguments, cases::all().into_iter().map(trial).collect()).exit_code();
    }
    let mut arguments = arguments.clone();
    arguments.test_threads.get_or_insert(THREADS);
    let runtime = runtime();
    let cluster = Arc::new(RwLock::new(runtime.block_on(Cluster::start())));
    let conclusion =
        libtest_mimic::run(&arguments, cases::all().into_iter().map(|case| trial(case, &cluster)).collect());
    let cluster = Arc::into_inner(cluster).expect("the trials have ended");
    let cluster = cluster.into_inner().unwrap_or_else(PoisonError::into_inner);
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(cluster.finish())));
    if ended.is_err() || conclusion.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

fn trial(case: Case, cluster: &Arc<RwLock<Cluster>>) -> Trial {
    let cluster = Arc::downgrade(cluster);
    Trial::test(case.short_name(), move || {
        let cluster = cluster.upgrade().expect("the cluster outlives the trials");
        if case.alone {
            let cluster = cluster.write().unwrap_or_else(PoisonError::into_inner);
            timed(case.short_name(), || run_case(case, &cluster))
        } else {
            let cluster = cluster.read().unwrap_or_else(PoisonError::into_inner);
            timed(case.short_name(), || run_case(case, &cluster))
        }
    })
}

/// Runs a case in a new namespace, which is deleted after any result.
fn run_case(case: Case, cluster: &Cluster) -> Result<(), Failed> {
    let runtime = runtime();
    let name = case.short_name().replace("::", "-").replace('_', "-");
    let caught =
        |part: Pin<Box<dyn Future<Output = ()> + '_>>| catch_unwind(AssertUnwindSafe(|| runtime.block_on(part)));
    let space = catch_unwind(AssertUnwindSafe(|| runtime.block_on(Space::create(cluster, &name))));
    let space = space.map_err(|panic| Failed::from(message(panic.as_ref())))?;
    let outcome = caught(Box::pin(async {
        tokio::time::timeout(LIMIT, (case.body)(&space)).await.expect("the case ends in time");
    }));
    let described = outcome.is_err().then(|| space.describe());
    let cleared = caught(Box::pin(space.clear()));
    outcome
        .and(cleared)
        .map_err(|panic| Failed::from(format!("{}\n{}", message(panic.as_ref()), described.unwrap_or_default())))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the case panicked")
}
