//! From cases to trials: each with each driver of cgroups and each kind of process, compared with runc.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use prewasi_test::{Series, home};

use crate::case::Case;
use crate::machine::{Machine, missing};
use crate::nodes::Nodes;

/// How long a case may take with one runtime.
const LIMIT: Duration = Duration::from_secs(900);

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One boot, on the distribution's containerd.
    Short,
    /// Everything, on the newer containerd as well.
    Long,
}

/// What a case has printed with runc, or why it failed; another trial may be about to find out.
type Printed = OnceLock<Result<String, String>>;

/// What trials share.
struct Shared {
    form: Form,
    nodes: Nodes,
    /// What cases print with runc, by series, case and driver.
    expected: Mutex<HashMap<(Series, String, String), Arc<Printed>>>,
}

/// One case as it is run under our shim.
struct Subject {
    series: Series,
    case: Case,
    driver: String,
    kind: String,
}

/// Runs the cases whose names the arguments ask for.
pub(crate) fn run(form: Form, arguments: &Arguments) -> ExitCode {
    let cases = match Case::all() {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            return ExitCode::FAILURE;
        }
    };
    let shared = Arc::new(Shared { form, nodes: Nodes::default(), expected: Mutex::default() });
    let series = if form == Form::Short { &[Series::V1_7][..] } else { &Series::USUAL };
    let trials = series.iter().flat_map(|series| trials(*series, &cases, &shared)).collect();
    let conclusion = libtest_mimic::run(arguments, trials);
    // The node ends before this program says that it has.
    drop(shared);
    conclusion.exit_code()
}

fn trials(series: Series, cases: &[Case], shared: &Arc<Shared>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for case in cases {
        for driver in &case.drivers {
            for kind in &case.kinds {
                if shared.form == Form::Short && !case.is_in_short_form(driver, kind) {
                    continue;
                }
                let (driver, kind) = (driver.clone(), kind.clone());
                trials.push(trial(Subject { series, case: case.clone(), driver, kind }, shared));
            }
        }
    }
    trials
}

fn trial(subject: Subject, shared: &Arc<Shared>) -> Trial {
    let Subject { series, case, driver, kind } = &subject;
    let name = format!("{series}::{}::{driver}::{kind}", case.name);
    let (title, shared) = (name.clone(), Arc::downgrade(shared));
    Trial::ignorable_test(name, move || match missing() {
        None => {
            let shared = shared.upgrade().ok_or("the trials are over")?;
            subject.run(&shared).map(|()| Completion::Completed).map_err(Failed::from)
        }
        Some(reason) if home::is_ci() => Err(Failed::from(format!("cannot run here: {reason}"))),
        Some(reason) => {
            eprintln!("not run: {title}: {reason}");
            Ok(Completion::ignored_with(reason.to_string()))
        }
    })
}

impl Subject {
    /// Runs the case with runc, unless that was done, and under our shim.
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

    /// Returns what the case prints with runc.
    fn expected(&self, shared: &Shared) -> Result<String, String> {
        let key = (self.series, self.case.name.clone(), self.driver.clone());
        let mut known = shared.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = known.entry(key).or_default().clone();
        drop(known);
        slot.get_or_init(|| self.run_with("runc", "native", shared)).clone()
    }

    /// Runs the case with a runtime, and returns what it prints.
    fn run_with(&self, runtime: &str, kind: &str, shared: &Shared) -> Result<String, String> {
        let run = |machine: &Machine, phase: &str| self.run_on(machine, runtime, kind, phase, shared.form);
        if self.case.reboots {
            let done = shared.nodes.alone(self.series, |machine| {
                let before = run(machine, "before")?;
                machine.reboot().map_err(|error| error.chain())?;
                Ok(before + &run(machine, "after")?)
            });
            return done?;
        }
        if self.case.alone {
            return shared.nodes.alone(self.series, |machine| run(machine, ""))?;
        }
        shared.nodes.share(self.series, |machine| run(machine, ""))?
    }

    fn run_on(&self, machine: &Machine, runtime: &str, kind: &str, phase: &str, form: Form) -> Result<String, String> {
        let form = if form == Form::Short { "short" } else { "long" };
        let (case, driver) = (&self.case.name, &self.driver);
        let command = format!("FORM={form} PHASE={phase} /opt/node/suite/run {case} {runtime} {kind} {driver}");
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

/// Shows where two texts differ, line by line.
fn differences(expected: &str, printed: &str) -> String {
    let (expected, printed): (Vec<_>, Vec<_>) = (expected.lines().collect(), printed.lines().collect());
    let line = |lines: &[&str], at: usize| lines.get(at).map_or("(nothing)".to_owned(), |line| (*line).to_owned());
    let lines = (0..expected.len().max(printed.len())).map(|at| (line(&expected, at), line(&printed, at)));
    lines.filter(|(a, b)| a != b).map(|(a, b)| format!("  runc: {a}\n  ours: {b}")).collect::<Vec<_>>().join("\n")
}
