//! Clients that send HTTP requests until they are told to stop, and count what they get.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use prewasi_test::http::{self, Connection};

/// Time between two requests of a client.
const PAUSE: Duration = Duration::from_millis(20);

/// Running clients.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// What the clients got.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How often each body came with status 200.
    pub(crate) answers: BTreeMap<String, usize>,
    /// Requests without such an answer: how long each took, and what it was.
    pub(crate) failures: Vec<(Duration, String)>,
}

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
        let start = Instant::now();
        let answer = match kept.take().filter(|_| keeps) {
            None => ask(address, path).await,
            // A server may close a connection between two requests; then a client asks again on a new one.
            Some(connection) => match ask_on(connection, path).await {
                Ok(answer) => Ok(answer),
                Err(_) => ask(address, path).await,
            },
        };
        let mut fail = |reason: String| {
            let kind = if keeps { "on a kept connection" } else { "on a new connection" };
            tally.failures.push((start.elapsed(), format!("{path} {kind}: {reason}")));
        };
        match answer {
            Ok((200, body, connection)) => {
                *tally.answers.entry(body).or_default() += 1;
                kept = Some(connection);
            }
            Ok((status, body, _)) => fail(format!("{status} {body}")),
            Err(error) => fail(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    tally
}

async fn ask(address: &str, path: &str) -> Result<(u16, String, Connection), String> {
    ask_on(Connection::open(address).await?, path).await
}

async fn ask_on(mut connection: Connection, path: &str) -> Result<(u16, String, Connection), String> {
    let http::Answer { status, body, .. } = connection.ask(path, b"").await?;
    Ok((status, String::from_utf8_lossy(&body).into_owned(), connection))
}
