//! `prewasi watch` for a containerd: starting it, requests over HTTP, ending it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Containerd, Namespace, eventually, http};

/// Time limit for the service to reach a state; it may compile a big module meanwhile.
const LIMIT: Duration = Duration::from_secs(120);

/// A running service; dropping it kills it.
#[derive(Debug)]
pub struct Service {
    child: Child,
    said: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts `prewasi watch` on the containerd of a namespace, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn start(namespace: &Namespace, args: &[&str]) -> Self {
        Self::start_on(namespace.daemon(), &namespace.administrator(), args).await
    }

    /// Starts a program's `watch` on a containerd, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn start_on(daemon: &Containerd, program: &Path, args: &[&str]) -> Self {
        let mut command = daemon.command(program);
        command.arg("watch").arg("--address").arg(daemon.address()).args(["--metrics", "127.0.0.1:0"]);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program was built");
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("it is piped");
        let reader = std::thread::spawn({
            let said = said.clone();
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    said.lock().expect("no holder panics").push_str(&(line + "\n"));
                }
            }
        });
        let this = Self { child, said, reader: Some(reader) };
        eventually("the service to be ready", LIMIT, async || match this.get("/readyz") {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}\n{}", this.said())),
        })
        .await;
        this
    }

    /// Returns the pid.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Returns its standard error so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("no holder panics").clone()
    }

    /// Requests a page; returns the status code and the body.
    ///
    /// # Errors
    /// The service does not respond.
    pub fn get(&self, path: &str) -> Result<(u16, String), String> {
        let said = self.said();
        let address = said.lines().find_map(|line| line.split_once("address=")?.1.split_whitespace().next());
        let address = address.ok_or("it has not said where it listens")?;
        http::get(address, path)
    }

    /// Returns a metric, summed over all its labels; 0 if there is none of that name.
    ///
    /// # Panics
    /// If the service does not respond.
    pub fn figure(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").expect("the service answers");
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.sum()
    }

    /// Waits until a metric is at least `least`.
    ///
    /// # Panics
    /// If it does not reach that value in time.
    pub async fn reaches(&self, name: &str, least: f64) {
        eventually(&format!("{name} to be {least}"), LIMIT, async || match self.figure(name) {
            value if value >= least => Ok(()),
            value => Err(format!("{value}\n{}", self.said())),
        })
        .await;
    }

    /// Waits until the service has no work.
    ///
    /// # Panics
    /// If it has work for too long.
    pub async fn is_idle(&self) {
        eventually("an empty queue", LIMIT, async || match self.figure("prewasi_queue_length") {
            0.0 => Ok(()),
            length => Err(format!("{length}\n{}", self.said())),
        })
        .await;
    }

    /// Ends the service with a signal and returns its exit code and its standard error.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(self.pid(), signal).expect("it runs");
        let status = eventually("the end of the service", Duration::from_secs(10), async || {
            self.child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned())
        })
        .await;
        self.reader.take().map(JoinHandle::join);
        (status.code(), self.said())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The service may have ended; a failed kill cannot be reported.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
