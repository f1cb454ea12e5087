//! A collector of traces: receives spans over gRPC and HTTP, by OpenTelemetry's protocol, and keeps them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;

use crate::eventually;

/// Time limit for spans to arrive.
const LIMIT: Duration = Duration::from_secs(20);

/// A received span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Name of the service.
    pub service: String,
    /// Name of the span.
    pub name: String,
    /// Id of the trace, in hexadecimal digits.
    pub trace: String,
    /// Id of the span.
    pub id: String,
    /// Id of the parent span, or empty.
    pub parent: String,
    /// The `tracestate`.
    pub state: String,
    /// Nanoseconds between its start and its end; negative if the end comes first.
    pub length: i128,
    /// Its attributes, and those of its resource.
    pub attributes: BTreeMap<String, String>,
    /// The error of the failed operation, or empty.
    pub error: String,
    /// Value of the request's header `x-key`, or empty.
    pub key: String,
}

/// A running collector.
pub struct Collector {
    grpc: SocketAddr,
    http: SocketAddr,
    spans: Spans,
    _servers: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Received>>>);

impl Collector {
    /// Starts a collector on two ports of the loopback interface.
    ///
    /// # Panics
    /// If no ports are free.
    pub async fn start() -> Self {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let (grpc, http) = (listen().await, listen().await);
        let addresses = (address(&grpc), address(&http));
        let (spans, mut servers) = (Spans::default(), JoinSet::new());
        let service = tonic::transport::Server::builder().add_service(TraceServiceServer::new(spans.clone()));
        servers.spawn(async move {
            service.serve_with_incoming(TcpIncoming::from(grpc)).await.expect("a collector serves");
        });
        servers.spawn(serve(http, spans.clone()));
        Self { grpc: addresses.0, http: addresses.1, spans, _servers: servers }
    }

    /// Returns the address for spans over gRPC.
    pub fn grpc(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Returns the address for spans over HTTP.
    pub fn http(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Returns the received spans of a container.
    pub fn of(&self, container: &str) -> Vec<Received> {
        let is_of = |span: &&Received| span.attributes.get("container").is_some_and(|id| id == container);
        self.all().iter().filter(is_of).cloned().collect()
    }

    /// Returns all received spans.
    pub fn all(&self) -> Vec<Received> {
        self.spans.0.lock().expect("no holder panics").clone()
    }

    /// Waits until all named spans of a container have arrived, and returns all its spans.
    ///
    /// # Panics
    /// If they do not arrive in time.
    pub async fn wait_for(&self, container: &str, names: &[&str]) -> Vec<Received> {
        eventually(&format!("spans {names:?} of {container}"), LIMIT, async || {
            let spans = self.of(container);
            let missing = names.iter().any(|name| !spans.iter().any(|span| span.name == *name));
            if missing { Err(format!("{:?}", self.all())) } else { Ok(spans) }
        })
        .await
    }
}

impl Spans {
    fn add(&self, request: ExportTraceServiceRequest, key: &str) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut all = self.0.lock().expect("no holder panics");
        for resource in request.resource_spans {
            let of_resource = texts(&resource.resource.unwrap_or_default().attributes);
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let mut attributes = of_resource.clone();
                attributes.extend(texts(&span.attributes));
                all.push(Received {
                    service: of_resource.get("service.name").cloned().unwrap_or_default(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name,
                    state: span.trace_state,
                    length: i128::from(span.end_time_unix_nano) - i128::from(span.start_time_unix_nano),
                    attributes,
                    error: span.status.map(|status| status.message).unwrap_or_default(),
                    key: key.to_owned(),
                });
            }
        }
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let key = request.metadata().get("x-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
        self.add(request.into_inner(), &key);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn serve(listener: TcpListener, spans: Spans) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a collector takes connections");
        let spans = spans.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| take(request, spans.clone()));
            // How a client disconnects does not matter.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Handles one request; a request that violates the protocol gets an error status.
async fn take(request: hyper::Request<Incoming>, spans: Spans) -> Result<Response<Empty<Bytes>>, Infallible> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (kind, key) = (header("content-type").to_owned(), header("x-key").to_owned());
    let status = if request.uri().path() != "/v1/traces" {
        StatusCode::NOT_FOUND
    } else if request.method() != Method::POST || kind != "application/x-protobuf" || header("host").is_empty() {
        StatusCode::BAD_REQUEST
    } else {
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        match ExportTraceServiceRequest::decode(body) {
            Ok(message) => {
                spans.add(message, &key);
                StatusCode::OK
            }
            Err(_) => StatusCode::BAD_REQUEST,
        }
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some((attribute.key.clone(), text.clone())),
        _ => None,
    };
    attributes.iter().filter_map(text).collect()
}
