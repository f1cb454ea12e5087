//! Makes trials from cases: each case with each cgroup driver and each kind of process, compared with runc.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use prewasi_test::trial::timed;
use prewasi_test::{Series, home};

use crate::case::Case;
use crate::machine::{Machine, missing};
use crate::nodes::Nodes;

/// Time limit for a case with one runtime.
const LIMIT: Duration = Duration::from_secs(900);

/// The extent of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One boot, on the distribution's containerd.
    Short,
    /// Everything, on the newer containerd as well.
    Long,
}

/// A case's output with runc, or the reason of its failure; another trial may be about to produce it.
type Printed = OnceLock<Result<String, String>>;

/// The outputs of the first parts of cases with a reboot, by the words of [`words`].
type Before = OnceLock<Result<HashMap<String, Result<String, String>>, String>>;

/// State that the trials share.
struct Shared {
    form: Form,
    nodes: Nodes,
    /// All cases with a reboot, as subjects: their first parts come before one reboot of the node.
    rebooting: Vec<Subject>,
    before: Mutex<HashMap<Series, Arc<Before>>>,
    /// Outputs with runc, by series, case and driver.
    expected: Mutex<HashMap<(Series, String, String), Arc<Printed>>>,
}

/// One case in one combination under the shim.
#[derive(Clone)]
struct Subject {
    series: Series,
    case: Case,
    driver: String,
    kind: String,
}

/// Runs the cases whose names match the arguments.
pub(crate) fn run(form: Form, arguments: &Arguments) -> ExitCode {
    let cases = match Case::all() {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            return ExitCode::FAILURE;
        }
    };
    let series = if form == Form::Short { &[Series::V1_7][..] } else { &Series::USUAL };
    let subjects: Vec<Subject> = series.iter().flat_map(|series| subjects(*series, form, &cases)).collect();
    let shared = Arc::new(Shared {
        form,
        nodes: Nodes::default(),
        rebooting: subjects.iter().filter(|subject| subject.case.reboots).cloned().collect(),
        before: Mutex::default(),
        expected: Mutex::default(),
    });
    let trials = subjects.into_iter().map(|subject| trial(subject, &shared)).collect();
    let conclusion = libtest_mimic::run(arguments, trials);
    // The node ends before this program does.
    drop(shared);
    conclusion.exit_code()
}

fn subjects(series: Series, form: Form, cases: &[Case]) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for case in cases {
        for driver in &case.drivers {
            for kind in &case.kinds {
                if form == Form::Short && !case.is_in_short_form(driver, kind) {
                    continue;
                }
                let (driver, kind) = (driver.clone(), kind.clone());
                subjects.push(Subject { series, case: case.clone(), driver, kind });
            }
        }
    }
    subjects
}

fn trial(subject: Subject, shared: &Arc<Shared>) -> Trial {
    let Subject { series, case, driver, kind } = &subject;
    let name = format!("{series}::{}::{driver}::{kind}", case.name);
    let (title, shared) = (name.clone(), Arc::downgrade(shared));
    Trial::ignorable_test(name, move || match missing() {
        None => {
            let shared = shared.upgrade().ok_or("the trials are over")?;
            timed(&title, || subject.run(&shared)).map(|()| Completion::Completed).map_err(Failed::from)
        }
        Some(reason) if home::is_ci() => Err(Failed::from(format!("cannot run here: {reason}"))),
        Some(reason) => {
            eprintln!("not run: {title}: {reason}");
            Ok(Completion::ignored_with(reason.to_string()))
        }
    })
}

impl Subject {
    /// Runs the case with runc, if that has not been done, and under the shim.
    fn run(&self, shared: &Shared) -> Result<(), String> {
        let expected = self.case.compared.then(|| self.expected(shared)).transpose();
        let expected = expected.map_err(|reason| format!("runc itself fails: {reason}"))?;
        let printed = self.run_with("wasmtime", &self.kind, shared)?;
        match expected {
            Some(expected) if expected != printed => {
                Err(format!("not as with runc:\n{}", differences(&expected, &printed)))
            }
            _ => Ok(()),
        }
    }

    /// Returns the case's output with runc.
    fn expected(&self, shared: &Shared) -> Result<String, String> {
        let key = (self.series, self.case.name.clone(), self.driver.clone());
        let mut known = shared.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = known.entry(key).or_default().clone();
        drop(known);
        slot.get_or_init(|| self.run_with("runc", "native", shared)).clone()
    }

    /// Runs the case with a runtime, and returns its output.
    fn run_with(&self, runtime: &str, kind: &str, shared: &Shared) -> Result<String, String> {
        let run = |machine: &Machine, phase: &str| self.run_on(machine, runtime, kind, phase, shared.form);
        if self.case.reboots {
            let before = shared.before_reboot(self.series)?;
            let words = words(&self.case.name, runtime, kind, &self.driver);
            let before = before.get(&words).ok_or("it was not run before the reboot")?.clone()?;
            let after = shared.nodes.alone(self.series, |machine| run(machine, "after"))??;
            return Ok(before + &after);
        }
        if self.case.alone {
            return shared.nodes.alone(self.series, |machine| run(machine, ""))?;
        }
        shared.nodes.share(self.series, |machine| run(machine, ""))?
    }

    fn run_on(&self, machine: &Machine, runtime: &str, kind: &str, phase: &str, form: Form) -> Result<String, String> {
        let form = if form == Form::Short { "short" } else { "long" };
        let (case, driver) = (&self.case.name, &self.driver);
        let words = words(case, runtime, kind, driver);
        let command = format!("FORM={form} PHASE={phase} /opt/node/suite/run {words}");
        let output = machine.run(&command, LIMIT);
        if output.status.success() {
            return Ok(output.stdout);
        }
        let log = machine.run(
            &format!("journalctl -u containerd -n 400 -o cat | grep -F {case}-{runtime}-{kind}-{driver} | tail -n 20"),
            LIMIT,
        );
        Err(format!("{output}\n--- containerd's log\n{}", log.stdout))
    }
}

impl Shared {
    /// Runs the first parts of all cases with a reboot, with runc and under the shim, and reboots the node; once for a series.
    fn before_reboot(&self, series: Series) -> Result<HashMap<String, Result<String, String>>, String> {
        let mut known = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = known.entry(series).or_default().clone();
        drop(known);
        let all = || {
            self.nodes.alone(series, |machine| {
                let mut printed = HashMap::new();
                for subject in self.rebooting.iter().filter(|subject| subject.series == series) {
                    for (runtime, kind) in [("runc", "native"), ("wasmtime", &*subject.kind)] {
                        let words = words(&subject.case.name, runtime, kind, &subject.driver);
                        let run = || subject.run_on(machine, runtime, kind, "before", self.form);
                        printed.entry(words).or_insert_with(run);
                    }
                }
                machine.reboot().map_err(|error| error.chain())?;
                Ok(printed)
            })?
        };
        slot.get_or_init(all).clone()
    }
}

/// Returns the suite's arguments.
fn words(case: &str, runtime: &str, kind: &str, driver: &str) -> String {
    format!("{case} {runtime} {kind} {driver}")
}

/// Describes the differences of two texts, line by line.
fn differences(expected: &str, printed: &str) -> String {
    let (expected, printed): (Vec<_>, Vec<_>) = (expected.lines().collect(), printed.lines().collect());
    let line = |lines: &[&str], at: usize| lines.get(at).map_or("(nothing)".to_owned(), |line| (*line).to_owned());
    let lines = (0..expected.len().max(printed.len())).map(|at| (line(&expected, at), line(&printed, at)));
    lines.filter(|(a, b)| a != b).map(|(a, b)| format!("  runc: {a}\n  ours: {b}")).collect::<Vec<_>>().join("\n")
}
