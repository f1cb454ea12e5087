//! One request: from its head to the guest's response, or to the reason why there is none.
//!
//! wasmtime's `ProxyHandler` serves components of preview 3 ([`super::concurrent`]). It could serve those of preview 2, but it drives each
//! instance by `Store::run_concurrent`, which refuses code without support for concurrent tasks (wasmtime 48). Code with that support is
//! slower in each call between guest and host. So components of preview 2 are compiled without it, and this module serves them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HOST, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time::timeout;
use wasmtime::component::Resource;
use wasmtime_wasi_http::handler::ProxyPre as Handler;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::types::HostResponseOutparam;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView as _};

use super::super::host::Host;
use super::Service;
use super::body::Answer;
use super::concurrent::Concurrent;
use super::instances::{Instance, Instances};
use super::semaphore::{Permit, Semaphore};
use super::ticker::Ticker;
use super::unanswered::Unanswered;
use super::work::{Guard, Unfinished, Work};
use crate::end::setup;
use crate::{Http, RunError};

/// The `retry-after` header of a refused request, in seconds.
const RETRY: &str = "1";
/// The error of a guest that returns without an answer.
const NO_ANSWER: &str = "the guest gave no answer";

/// The part of a server that answers requests in one worker.
pub(super) struct Server {
    way: Way,
    http: Http,
    limits: RequestLimits,
    unfinished: Arc<Unfinished>,
    ticker: Ticker,
}

/// The limits of requests for all workers of a server.
#[derive(Clone)]
pub(super) struct RequestLimits {
    answered: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl RequestLimits {
    /// Allows `concurrency` requests at the same time, and as many waiting ones.
    ///
    /// # Errors
    /// A semaphore cannot be made.
    pub(super) fn new(concurrency: u32) -> io::Result<Self> {
        Ok(Self { answered: Arc::new(Semaphore::new(concurrency)?), waiting: Arc::new(Semaphore::new(concurrency)?) })
    }

    /// Waits for a permit; `None` if too many requests wait already or the time limit has passed.
    async fn admit(&self, patience: Duration) -> Option<Permit> {
        if let Some(permit) = self.answered.try_take() {
            return Some(permit);
        }
        let _place = self.waiting.try_take()?;
        timeout(patience, self.answered.take()).await.ok()?.ok()
    }
}

/// The way to call the component.
enum Way {
    /// An instance answers one request at a time.
    One(Arc<ProxyPre<Host>>, Arc<Instances>),
    /// An instance may answer several requests concurrently.
    Concurrent(Concurrent),
}

impl Server {
    /// Makes the server of one worker, with its clock's thread.
    ///
    /// # Errors
    /// [`RunError::Setup`].
    pub(super) fn new(
        service: &Service,
        http: &Http,
        instances: Arc<Instances>,
        limits: RequestLimits,
    ) -> Result<Self, RunError> {
        let engine = service.engine();
        let ticker = Ticker::start(engine.clone());
        let way = match &service.handler {
            Handler::P2(proxy) => Way::One(Arc::new(proxy.clone()), instances),
            Handler::P3(pre) => Way::Concurrent(Concurrent::new(Handler::P3(pre.clone()), engine, instances, http)),
        };
        Ok(Self {
            way,
            http: http.clone(),
            limits,
            unfinished: Unfinished::new(http.timeout),
            ticker: ticker.map_err(|error| setup(format!("cannot start a thread: {error}")))?,
        })
    }

    /// Waits for guests that continue after their answers.
    pub(super) async fn finish(&self) {
        self.unfinished.finish().await;
    }

    /// Returns the maximum number of concurrent requests.
    pub(super) fn concurrency(&self) -> u32 {
        self.http.concurrency
    }

    /// Answers a request; a failure becomes an HTTP error.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        if request.body().size_hint().lower() > self.http.body_limit {
            return Ok(refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"));
        }
        let Some(permit) = self.limits.admit(self.http.timeout).await.map(Arc::new) else {
            let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests are being answered\n");
            response.headers_mut().insert(RETRY_AFTER, hyper::header::HeaderValue::from_static(RETRY));
            return Ok(response);
        };
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let guard = Guard { method, uri, _permit: permit.clone(), _ticking: self.ticker.begin() };
        Ok(match timeout(self.http.timeout, self.ask(request, permit)).await {
            Ok(Ok((response, work))) => Answer::of_guest(response, work, guard, &self.unfinished),
            Ok(Err(Unanswered::Bad)) => refuse(StatusCode::BAD_REQUEST, "the request names no host\n"),
            Ok(Err(Unanswered::Failed(error))) => {
                guard.failed(&error);
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "the program failed\n")
            }
            Ok(Err(Unanswered::Late)) | Err(_) => {
                guard.tell(&format!("no answer within {:?}, the limit set by `http_timeout`", self.http.timeout));
                refuse(StatusCode::GATEWAY_TIMEOUT, "the program has not answered in time\n")
            }
        })
    }

    /// Passes a request to the guest, and waits until it begins to answer.
    async fn ask(
        &self,
        request: Request<Incoming>,
        permit: Arc<Permit>,
    ) -> Result<(Response<WasiBody>, Option<Work>), Unanswered> {
        let limit = self.http.body_limit;
        if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
            return Err(Unanswered::Bad);
        }
        let request = request.map(|body| {
            let body = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
            body.map_err(move |error| body_error(error, limit)).boxed_unsync()
        });
        match &self.way {
            Way::One(proxy, instances) => ask_one(proxy, instances, request, permit).await,
            Way::Concurrent(concurrent) => Ok((concurrent.ask(request).await?, None)),
        }
    }
}

/// Calls a guest that answers one request at a time. Polling for the answer runs the guest. If the guest continues after the head of its
/// answer, it is returned too.
async fn ask_one(
    proxy: &Arc<ProxyPre<Host>>,
    instances: &Arc<Instances>,
    request: Request<WasiBody>,
    permit: Arc<Permit>,
) -> Result<(Response<WasiBody>, Option<Work>), Unanswered> {
    let mut instance = instances.take(proxy).await.map_err(Unanswered::Failed)?;
    let (sender, mut answer) = oneshot::channel();
    let mut host = instance.store.data_mut().http();
    let incoming = host.new_incoming_request(Scheme::Http, request).map_err(|_| Unanswered::Bad)?;
    let outgoing = host.new_response_outparam(sender).map_err(Unanswered::Failed)?;
    let (instances, pre) = (instances.clone(), proxy.clone());
    let mut work: Work = Box::pin(async move {
        let Instance { store, proxy, .. } = &mut instance;
        let place = Resource::<HostResponseOutparam>::new_borrow(outgoing.rep());
        proxy.wasi_http_incoming_handler().call_handle(&mut *store, incoming, outgoing).await?;
        if store.data_mut().http().table.get(&place).is_ok() {
            // The guest returned, but kept the outparam of its answer. Its instance is not used again.
            return Err(wasmtime::Error::msg(NO_ANSWER));
        }
        instances.give_back(instance, permit, &pre);
        Ok(())
    });
    let mut done = false;
    let answered = std::future::poll_fn(|context| {
        if !done && let Poll::Ready(result) = work.as_mut().poll(context) {
            done = true;
            if let Err(error) = result {
                return Poll::Ready(Err(error));
            }
        }
        std::pin::Pin::new(&mut answer).poll(context).map(Ok)
    });
    match answered.await {
        Ok(Ok(Ok(response))) => Ok((response, (!done).then_some(work))),
        Ok(Ok(Err(code))) => {
            Err(Unanswered::Failed(wasmtime::Error::msg(format!("the guest answered with an error: {code:?}"))))
        }
        Ok(Err(_)) => Err(Unanswered::Failed(wasmtime::Error::msg(NO_ANSWER))),
        Err(error) => Err(Unanswered::Failed(error)),
    }
}

fn body_error(error: Box<dyn std::error::Error + Send + Sync>, limit: u64) -> Error {
    if error.is::<LengthLimitError>() {
        return Error::HttpRequestBodySize(Some(limit));
    }
    match error.downcast::<hyper::Error>() {
        Ok(error) => Error::Hyper(*error),
        Err(error) => Error::InternalError(Some(error.to_string())),
    }
}

fn refuse(status: StatusCode, text: &'static str) -> Response<Answer> {
    let mut response = Response::new(Answer::text(text));
    *response.status_mut() = status;
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        // The rest of the request's body is not read.
        response.headers_mut().insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
    }
    response
}
