//! Points at which a test has this process die, to show that nothing depends on the next step being reached.
//!
//! Only debug builds have them. The environment variable [`VARIABLE`] names the point; the process then ends as if by
//! `kill -9`, without a destructor or a goodbye to the store.

/// Names the point at which to die.
pub const VARIABLE: &str = "PREWASI_FAULT";

/// All points, in the order in which a miss that is compiled and stored passes them.
pub const POINTS: [&str; 8] = ["locked", "compiled", "leased", "written", "kept", "labelled", "checked", "released"];

/// Dies here if this is the point that the environment names.
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == name) {
        debug_assert!(POINTS.contains(&name), "{name} is not listed");
        // There is no answer to a failure: the signal cannot fail for a process of one's own.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
