//! Clients that send HTTP requests until they are told to stop, and count what they get.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use prewasi_test::http::Connection;

/// Time between two requests of a client.
const PAUSE: Duration = Duration::from_millis(20);

/// Running clients.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// The answers that the clients received.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Number of answers with status 200, by their bodies.
    pub(crate) answers: BTreeMap<String, usize>,
    /// Requests without such an answer.
    pub(crate) failures: Vec<Failure>,
}

/// The time from the connection, if there was one, to the failure of a request, and the reason.
pub(crate) type Failure = (Duration, String);

impl Load {
    /// Starts clients of a server: for each path two that open a connection for each request, and one that keeps its connection.
    pub(crate) fn start(address: &str, paths: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (address, paths) = (address.to_owned(), paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let clients = paths.iter().flat_map(|path| [false, false, true].map(|keeps| (path, keeps)));
                let clients = clients.map(|(path, keeps)| client(&address, path, keeps, &stop));
                let tallies = runtime.expect("a runtime can be made").block_on(join_all(clients));
                tallies.into_iter().fold(Tally::default(), Tally::plus)
            }
        });
        Self { stop, thread }
    }

    /// Stops the clients, each after its current request.
    pub(crate) fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the clients do not panic")
    }
}

impl Tally {
    fn plus(mut self, other: Self) -> Self {
        other.answers.into_iter().for_each(|(body, count)| *self.answers.entry(body).or_default() += count);
        self.failures.extend(other.failures);
        self
    }
}

async fn client(address: &str, path: &str, keeps: bool, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let answer = match kept.take().filter(|_| keeps) {
            None => ask(address, path).await,
            // A server may close a connection between two requests; then a client asks again on a new one.
            Some(connection) => match ask_on(connection, path).await {
                Ok(answer) => Ok(answer),
                Err(_) => ask(address, path).await,
            },
        };
        match answer {
            Ok((body, connection)) => {
                *tally.answers.entry(body).or_default() += 1;
                kept = Some(connection);
            }
            Err((after, reason)) => tally.failures.push((after, format!("{path}: {reason}"))),
        }
        tokio::time::sleep(PAUSE).await;
    }
    tally
}

async fn ask(address: &str, path: &str) -> Result<(String, Connection), Failure> {
    let connection = Connection::open(address).await.map_err(|reason| (Duration::ZERO, reason))?;
    ask_on(connection, path).await
}

async fn ask_on(mut connection: Connection, path: &str) -> Result<(String, Connection), Failure> {
    let start = Instant::now();
    let answer = connection.ask(path, b"").await.map_err(|reason| (start.elapsed(), reason))?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    match answer.status {
        200 => Ok((body, connection)),
        status => Err((start.elapsed(), format!("{status} {body}"))),
    }
}
