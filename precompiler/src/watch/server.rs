//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1, for every client that can reach the address. Only the head of a request is read,
//! with limits of size and time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::metrics::Metrics;

/// Maximum number of concurrent clients; further ones are refused.
const MOST_CLIENTS: usize = 32;
/// Time limit for a client, from its first byte to the last byte of the response.
const LIMIT: Duration = Duration::from_secs(10);
/// Media type of the text format of OpenMetrics, as Prometheus requests it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Serves until the task is aborted.
pub(super) async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let room = Arc::new(Semaphore::new(MOST_CLIENTS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Probably no descriptor is free: that passes.
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(LIMIT, talk(stream, &metrics)).await.is_err() {
                tracing::debug!("a client of the metrics was too slow");
            }
            drop(place);
        });
    }
}

async fn talk(stream: TcpStream, metrics: &Metrics) {
    let service = service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(answer(&request, metrics)));
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(LIMIT).keep_alive(false);
    if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a client of the metrics went away");
    }
}

fn answer(request: &Request<impl Sized>, metrics: &Metrics) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => match metrics.text() {
            Ok(text) => response(StatusCode::OK, OPEN_METRICS, text),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        // The service has one thread: a response proves that it is alive.
        "/healthz" => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" if metrics.is_ready() => response(StatusCode::OK, TEXT, "ready\n".to_owned()),
        "/readyz" => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the images are being listed\n".to_owned()),
        _ => response(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /readyz\n".to_owned()),
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, path: &str, metrics: &Metrics) -> StatusCode {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        answer(&request, metrics).status()
    }

    /// There are three pages; `/readyz` answers "not yet" until all images have been listed.
    #[test]
    fn pages() {
        let metrics = Metrics::new(std::iter::empty());
        assert_eq!(ask(Method::GET, "/metrics", &metrics), StatusCode::OK);
        assert_eq!(ask(Method::HEAD, "/healthz", &metrics), StatusCode::OK);
        assert_eq!(ask(Method::GET, "/readyz", &metrics), StatusCode::SERVICE_UNAVAILABLE);
        metrics.set_ready();
        assert_eq!(ask(Method::GET, "/readyz", &metrics), StatusCode::OK);
        assert_eq!(ask(Method::GET, "/", &metrics), StatusCode::NOT_FOUND);
        assert_eq!(ask(Method::POST, "/metrics", &metrics), StatusCode::METHOD_NOT_ALLOWED);
    }
}
