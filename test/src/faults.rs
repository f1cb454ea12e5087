//! A proxy between a containerd and its clients, which answers some calls with an error.
//!
//! containerd's socket is moved aside and replaced; every new connection passes through the proxy, call by call. It is for faults that a
//! real containerd shows only when another part is broken as well.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tonic::Code;

use crate::Containerd;

type Body = BoxBody<Bytes, hyper::Error>;

/// Faults between a containerd and its clients, as long as this value lives.
#[derive(Debug)]
pub struct Faults {
    planned: Arc<Mutex<Vec<Fault>>>,
    socket: PathBuf,
    aside: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Calls that are answered with an error.
#[derive(Debug, Clone)]
struct Fault {
    method: String,
    about: Option<String>,
    code: Code,
    left: usize,
    met: usize,
}

impl Faults {
    /// Inserts the proxy; no call fails yet. Existing connections bypass it.
    ///
    /// # Panics
    /// If the socket cannot be moved.
    pub fn between(daemon: &Containerd) -> Self {
        let socket = daemon.address();
        let aside = socket.with_extension("real");
        fs::rename(&socket, &aside).expect("the socket is there");
        let planned = Arc::<Mutex<Vec<Fault>>>::default();
        let (stop, stopped) = oneshot::channel();
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("the place is free");
        let thread = std::thread::spawn({
            let (planned, aside) = (planned.clone(), aside.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, &aside, &planned) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        Self { planned, socket, aside, stop: Some(stop), thread: Some(thread) }
    }

    /// Answers the next `times` calls of `method` (`Content/Info`) with `code`; with `about` only calls whose message contains that text.
    ///
    /// # Panics
    /// Never.
    pub fn inject(&self, method: &str, about: Option<&str>, code: Code, times: usize) {
        let fault = Fault { method: method.to_owned(), about: about.map(str::to_owned), code, left: times, met: 0 };
        self.planned.lock().expect("no holder panics").push(fault);
    }

    /// Ends all faults, and returns the number of calls that met one.
    ///
    /// # Panics
    /// Never.
    pub fn clear(&self) -> usize {
        self.planned.lock().expect("no holder panics").drain(..).map(|fault| fault.met).sum()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
        // The folder is removed with the daemon in any case.
        let _ = fs::rename(&self.aside, &self.socket);
    }
}

async fn accept(listener: std::os::unix::net::UnixListener, aside: &Path, planned: &Arc<Mutex<Vec<Fault>>>) {
    listener.set_nonblocking(true).expect("it is a socket");
    let listener = UnixListener::from_std(listener).expect("it is a socket");
    while let Ok((stream, _)) = listener.accept().await {
        let (aside, planned) = (aside.to_owned(), planned.clone());
        tokio::spawn(async move {
            // A containerd that is down is left for the client to notice.
            let Ok(real) = UnixStream::connect(&aside).await else { return };
            let Ok((sender, connection)) =
                client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(real)).await
            else {
                return;
            };
            tokio::spawn(connection);
            let service = service_fn(move |request| pass(request, sender.clone(), planned.clone()));
            let server = server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn pass(
    request: Request<Incoming>,
    mut sender: client::conn::http2::SendRequest<Body>,
    planned: Arc<Mutex<Vec<Fault>>>,
) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let looks_inside = {
        let planned = planned.lock().expect("no holder panics");
        planned.iter().any(|fault| fault.about.is_some() && path.ends_with(&fault.method))
    };
    let (head, body) = request.into_parts();
    let (bytes, body) = if looks_inside {
        let bytes = body.collect().await?.to_bytes();
        (bytes.clone(), Full::new(bytes).map_err(never).boxed())
    } else {
        (Bytes::new(), body.boxed())
    };
    match met(&planned, &path, &bytes) {
        Some(code) => Ok(refusal(code)),
        None => Ok(sender.send_request(Request::from_parts(head, body)).await?.map(|body| body.boxed())),
    }
}

/// Finds the fault for a call, and counts it.
fn met(planned: &Mutex<Vec<Fault>>, path: &str, message: &[u8]) -> Option<Code> {
    let mut planned = planned.lock().expect("no holder panics");
    let is_about = |about: &Option<String>| {
        about.as_ref().is_none_or(|about| message.windows(about.len()).any(|window| window == about.as_bytes()))
    };
    let fault =
        planned.iter_mut().find(|fault| fault.left > 0 && path.ends_with(&fault.method) && is_about(&fault.about))?;
    fault.left -= 1;
    fault.met += 1;
    Some(fault.code)
}

/// Makes an answer that contains only an error.
fn refusal(code: Code) -> Response<Body> {
    let answer = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", i32::from(code).to_string())
        .header("grpc-message", "injected");
    answer.body(Empty::new().map_err(never).boxed()).expect("the headers are plain")
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}
