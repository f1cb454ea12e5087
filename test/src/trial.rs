//! Makes trials of one test binary from async test functions: each test with each containerd.

use std::any::Any;
use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};

use crate::home;
use crate::namespace::DEFAULT_ENGINE;
use crate::{Containerd, Namespace, Series};

/// Time limit for each test: the compile of a big module on a busy machine fits in.
const LIMIT: Duration = Duration::from_secs(300);

type Body = fn(Namespace) -> Pin<Box<dyn Future<Output = ()>>>;

/// A test without a containerd yet. [`case!`](crate::case) makes it.
pub struct Case {
    /// Module and function.
    pub name: &'static str,
    /// The test function.
    pub body: Body,
    /// Requirements beyond containerd.
    pub needs: &'static [Need],
}

/// A part that a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The big wasm module.
    BigModule,
    /// The solver.
    Solver,
    /// The component of JavaScript.
    JavaScript,
    /// The programs in `guests/compilers`, as other compilers compile them.
    Compilers,
    /// A native runtime: `runc`.
    Runc,
    /// A shell without libraries: `busybox`.
    Busybox,
    /// A kernel with Landlock.
    Landlock,
    /// A tracer of system calls: `strace`.
    Strace,
    /// The Docker that goes with the containerd.
    Docker,
    /// The requirements of pods besides containerd: network plugins, a registry, and a program to fill it.
    Cni,
    /// containerd 2.1 or newer. On an older one the test is not run, with `CI=true` too.
    Containerd2_1,
    /// containerd 2.2 or newer. On an older one the test is not run, with `CI=true` too.
    Containerd2_2,
    /// The programs of a Kubernetes.
    Kubernetes,
}

/// Makes a [`Case`] of an `async fn(Namespace)`: `case!(name)`, `case!(name, needs BigModule)`.
#[macro_export]
macro_rules! case {
    ($body:ident $(, needs $($need:ident)+)?) => {
        $crate::trial::Case {
            name: concat!(module_path!(), "::", stringify!($body)),
            body: |namespace| Box::pin($body(namespace)),
            needs: &[$($($crate::trial::Need::$need),+)?],
        }
    };
}

/// Makes trials from functions that need no containerd, under `local::` and the name of their module.
#[macro_export]
macro_rules! local_trials {
    ($($body:ident),* $(,)?) => {
        vec![$(libtest_mimic::Trial::test($crate::trial::local_name(module_path!(), stringify!($body)), || {
            $body();
            Ok(())
        })),*]
    };
}
pub use local_trials;

/// Returns the name of a test that needs no containerd.
pub fn local_name(module: &str, body: &str) -> String {
    format!("local::{}::{body}", module.split_once("::").map_or(module, |(_, module)| module))
}

impl Need {
    /// Returns the name of a missing requirement, if it is missing.
    fn missing(self, series: Series) -> Option<String> {
        let program = |name: &str| {
            let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
            let found = folders.iter().any(|folder| std::path::Path::new(folder).join(name).exists());
            (!found).then(|| format!("there is no {name}"))
        };
        let part = |name: &str| {
            let path = home::part(name);
            (!path.exists()).then(|| format!("there is no {}", path.display()))
        };
        match self {
            Self::BigModule => part(crate::image::BIG_MODULE),
            Self::Solver => part(crate::image::SOLVER),
            Self::JavaScript => part(crate::image::JAVASCRIPT),
            Self::Compilers => crate::image::COMPILED.into_iter().find_map(part),
            Self::Runc => program("runc"),
            Self::Busybox => program("busybox"),
            Self::Landlock => (!has_landlock()).then(|| "the kernel has no Landlock".to_owned()),
            Self::Strace => program("strace"),
            Self::Docker => {
                let daemon = crate::docker::part(series).join("bin/dockerd");
                (!daemon.exists()).then(|| format!("there is no {}", daemon.display()))
            }
            Self::Kubernetes => {
                let version = home::home().join("k8s/version");
                let missing = (!version.exists()).then(|| format!("there is no {}", version.display()));
                missing.or_else(|| ["ip", "unshare", "openssl"].into_iter().find_map(program))
            }
            Self::Cni => {
                let plugins = ["ptp", "host-local", "portmap"].map(|name| format!("/usr/lib/cni/{name}"));
                let plugin = plugins.into_iter().find(|path| !std::path::Path::new(path).exists());
                let plugin = plugin.map(|path| format!("there is no {path}"));
                plugin.or_else(|| ["docker-registry", "skopeo", "iptables"].into_iter().find_map(program))
            }
            Self::Containerd2_1 | Self::Containerd2_2 => None,
        }
    }

    /// Returns the requirement as a text, if this containerd is too old for it.
    fn newer(self, series: Series) -> Option<&'static str> {
        match self {
            Self::Containerd2_1 if !series.is_at_least(2, 1) => Some("it needs containerd 2.1"),
            Self::Containerd2_2 if !series.is_at_least(2, 2) => Some("it needs containerd 2.2"),
            _ => None,
        }
    }
}

/// Returns whether the kernel has Landlock.
fn has_landlock() -> bool {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call reads and writes no memory.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    version > 0
}

/// Returns the reason why this machine cannot run containers at all, or not with this containerd or engine.
pub fn obstacle(series: Series, engine: &str, needs: &[Need]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("containers need root".to_owned());
    }
    let daemon = series.programs().join("containerd");
    if !daemon.exists() {
        return Some(format!("there is no {}", daemon.display()));
    }
    let shim = home::program(&format!("containerd-shim-{engine}-v1"));
    if !shim.exists() {
        return Some(format!(
            "the shim of {engine} is not built; make setup-wasmedge gets what that of WasmEdge wants"
        ));
    }
    needs.iter().find_map(|need| need.missing(series))
}

/// The daemons that the tests share, each started when it is first asked for and ended with the last reference.
#[derive(Debug)]
pub struct Daemons {
    /// One place for each series, in their order.
    running: Vec<tokio::sync::Mutex<Option<Arc<Containerd>>>>,
}

impl Default for Daemons {
    fn default() -> Self {
        Self { running: Series::all().iter().map(|_| tokio::sync::Mutex::default()).collect() }
    }
}

impl Daemons {
    async fn get(&self, series: Series) -> Arc<Containerd> {
        let mut slot = self.running[series.place()].lock().await;
        if slot.is_none() {
            *slot = Some(Arc::new(Containerd::start(series).await));
        }
        slot.clone().expect("it has just been filled")
    }

    /// Ends all daemons and returns the list of leaks.
    pub fn finish(self) -> Vec<String> {
        let daemons = self.running.into_iter().filter_map(tokio::sync::Mutex::into_inner);
        daemons.flat_map(|daemon| crate::leaks::of_daemon(&daemon)).collect()
    }
}

/// Makes a trial of each case with each containerd, with the default engine.
pub fn trials(cases: &[Case], daemons: &Arc<Daemons>) -> Vec<Trial> {
    let bind = |series: Series| {
        move |case: &Case| trial(format!("{series}::{}", case.short_name()), series, DEFAULT_ENGINE, case, daemons)
    };
    Series::all().into_iter().flat_map(|series| cases.iter().map(bind(series))).collect()
}

/// Makes trials of cases with another engine, under its name, with the newest containerd.
pub fn engine_trials<'a>(
    engine: &'static str,
    cases: impl Iterator<Item = &'a Case>,
    daemons: &Arc<Daemons>,
) -> Vec<Trial> {
    cases.map(|case| trial(format!("{engine}::{}", case.short_name()), Series::V2_1, engine, case, daemons)).collect()
}

fn trial(name: String, series: Series, engine: &'static str, case: &Case, daemons: &Arc<Daemons>) -> Trial {
    let (body, needs, daemons) = (case.body, case.needs, Arc::downgrade(daemons));
    let title = name.clone();
    let newer = needs.iter().find_map(|need| need.newer(series));
    Trial::ignorable_test(name, move || match newer.map(str::to_owned).or_else(|| obstacle(series, engine, needs)) {
        None => timed(&title, || run(series, engine, body, &daemons)).map(|()| Completion::Completed),
        Some(reason) if home::is_ci() && newer.is_none() => Err(Failed::from(format!("cannot run here: {reason}"))),
        Some(reason) => {
            eprintln!("not run: {title}: {reason}");
            Ok(Completion::ignored_with(reason))
        }
    })
}

/// Variable with the path of a file to which each test adds a line: its seconds and its name.
const TIMES: &str = "PREWASI_TEST_TIMES";

/// Runs `action`, and records its time if the environment asks for it.
pub fn timed<R>(title: &str, action: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let done = action();
    if let Some(path) = std::env::var_os(TIMES) {
        let line = format!("{:.1} {title}\n", start.elapsed().as_secs_f64());
        let file = File::options().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file for times can be written");
    }
    done
}

impl Case {
    /// Returns the name of the module and of the function.
    pub fn short_name(&self) -> &'static str {
        self.name.split_once("::").map_or(self.name, |(_, name)| name)
    }
}

/// Runs a test in a fresh namespace. The namespace is emptied after any result, and must then be empty.
fn run(series: Series, engine: &'static str, body: Body, daemons: &Weak<Daemons>) -> Result<(), Failed> {
    let daemons = daemons.upgrade().expect("the daemons outlive the trials");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let daemon = runtime.block_on(daemons.get(series));
    let start = daemon.log_length();
    let namespace = runtime.block_on(Namespace::create(daemon.clone())).with_engine(engine);
    let caught = |part: Pin<Box<dyn Future<Output = ()>>>| catch_unwind(AssertUnwindSafe(|| runtime.block_on(part)));
    let outcome = caught(Box::pin({
        let test = body(namespace.clone());
        async { tokio::time::timeout(LIMIT, test).await.expect("the test ends in time") }
    }));
    // A failed test is cleaned up as well, but its leaks are not a further failure.
    let cleared = caught(Box::pin({
        let (namespace, passed) = (namespace.clone(), outcome.is_ok());
        async move {
            namespace.clear().await;
            if passed {
                namespace.assert_clean().await;
                namespace.remove().await;
            }
        }
    }));
    outcome.and(cleared).map_err(|panic| {
        let tail = daemon.log_since(start, 60);
        Failed::from(format!(
            "{} (namespace {})\n--- end of {series}'s log\n{tail}",
            message(panic.as_ref()),
            namespace.name()
        ))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the test panicked")
}
