//! Points at which a test lets this process die. The tests show that no step depends on the next one being reached.
//!
//! Only debug builds have them. The environment variable [`VARIABLE`] names the point; the process then ends as with `kill -9`: it runs
//! no destructor and sends no message to the store.

/// Environment variable with the name of the point at which to die.
pub const VARIABLE: &str = "PREWASI_FAULT";

/// All points, in the order in which a compiled and stored miss passes them.
pub const POINTS: [&str; 8] = ["locked", "compiled", "leased", "written", "kept", "labelled", "checked", "released"];

/// Kills this process if the environment names this point.
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == name) {
        debug_assert!(POINTS.contains(&name), "{name} is not listed");
        // The result does not matter: a process can always send a signal to itself.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
