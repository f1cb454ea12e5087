//! Components of WASI preview 3 that answer HTTP requests.

use prewasi_test::guests::WEB3;
use prewasi_test::http::{self, Connection};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case};
use rustix::process::Signal;

use super::{connections_to_one_process, cores, ok, says, serve_guest};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(requests_are_answered),
        case!(instance_answers_requests_side_by_side),
        case!(failures_are_answers_and_log_lines),
        case!(stop_finishes_what_has_begun),
    ]
}

async fn serve(namespace: &Namespace, options: &str) -> (Container, String) {
    serve_guest(namespace, WEB3, options).await
}

/// A component of preview 3 is a server as well: each request has its own instance, and long bodies come whole.
async fn requests_are_answered(namespace: Namespace) {
    let (container, address) = serve(&namespace, "").await;
    for _ in 0..3 {
        assert_eq!(says(&address, "/").await, ok("hello\n"));
        assert_eq!(says(&address, "/count").await, ok("1\n"));
    }
    assert_eq!(says(&address, "/big").await.1.len(), 1_000_000);
    assert_eq!(says(&address, "/no-such").await.0, 404);
    let mut connection = Connection::open_two(&address).await.expect("a connection");
    assert_eq!(connection.ask("/", b"").await.expect("an answer").body, b"hello\n");
    container.end().await;
}

/// An instance that may answer several requests does so at the same time, and then makes place for another one.
async fn instance_answers_requests_side_by_side(namespace: Namespace) {
    let (container, address) = serve(&namespace, "http_instance_requests = 3").await;
    // The instance has answered one request already.
    let [mut one, mut other] = connections_to_one_process(&address, cores()).await;
    let (first, second) = tokio::join!(one.ask("/wait", b""), other.ask("/wait", b""));
    for answer in [first, second] {
        assert_eq!(answer.expect("an answer").body, b"together\n");
    }
    assert_eq!(one.ask("/count", b"").await.expect("an answer").body, b"1\n");
    container.end().await;
}

/// A trap is a 500 and a line, an answer that does not come a 504 and a line, and the server goes on.
async fn failures_are_answers_and_log_lines(namespace: Namespace) {
    let (container, address) = serve(&namespace, "http_timeout = \"500ms\"").await;
    for (path, status, reason) in [
        ("/trap", 500, "its instance has failed"),
        ("/spin", 504, "no answer within 500ms, the limit set by `http_timeout`"),
        ("/wait", 504, "no answer within 500ms, the limit set by `http_timeout`"),
    ] {
        assert_eq!(says(&address, path).await.0, status, "{path}: {}", container.stderr());
        let line = format!("error: GET {path}: {reason}");
        assert!(container.stderr().contains(&line), "{line:?} in {}", container.stderr());
        assert_eq!(says(&address, "/").await, ok("hello\n"));
    }
    let stderr = container.stderr();
    let trap = "error: an instance has failed: the guest trapped: wasm trap: wasm `unreachable` instruction executed";
    assert!(
        stderr.contains(trap) && stderr.lines().filter(|line| line.starts_with("error: an")).count() == 1,
        "{stderr}"
    );
    container.end().await;
}

/// SIGTERM lets requests that have begun be answered, and ends the server with 0.
async fn stop_finishes_what_has_begun(namespace: Namespace) {
    let (mut container, address) = serve(&namespace, "").await;
    let begun = {
        let address = address.clone();
        tokio::spawn(async move { says(&address, "/late").await })
    };
    http::requests_are_read(&address, 1).await;
    container.kill(Signal::TERM).await.expect("it runs");
    assert_eq!(begun.await.expect("the task ends"), ok("hello\n"));
    assert_eq!(container.wait().await, 0);
    container.delete().await;
}
