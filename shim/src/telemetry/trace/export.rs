//! Sends spans to a collector: one connection, one request, in a separate helper.

use std::io;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Message, Status};
use prewasi_names::LookupError;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::config::{Config, Protocol};
use super::span::Span;
use crate::failure::{Failure, Kind};

/// Longest response, in bytes; its content is ignored.
const ANSWER_MAX: usize = 64 << 10;

/// A job: send spans.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Export {
    pub(crate) config: Config,
    pub(crate) spans: Vec<Span>,
}

/// The reason why spans were not sent.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("cannot set up a runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot find the collector")]
    LookUp(#[source] LookupError),
    #[error("cannot reach the collector")]
    Connect(#[source] io::Error),
    #[error("cannot speak to the collector")]
    Http(#[source] hyper::Error),
    #[error("cannot make a request")]
    Request(#[source] hyper::http::Error),
    #[error("the collector answers with HTTP status {0}")]
    Status(StatusCode),
    #[error("the collector answers with gRPC status {0}")]
    Grpc(String),
    #[error("the collector does not answer as it should")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the collector takes longer than {0:?}")]
    Timeout(std::time::Duration),
}

impl Export {
    /// Sends the spans, without retries.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        self.send().map_err(|error| Failure::new(Kind::Unavailable, &error))
    }

    fn send(&self) -> Result<(), ExportError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ExportError::Runtime)?;
        let timeout = self.config.timeout;
        let sent = runtime.block_on(async { tokio::time::timeout(timeout, self.exchange()).await });
        runtime.shutdown_background();
        sent.unwrap_or(Err(ExportError::Timeout(timeout)))
    }

    async fn exchange(&self) -> Result<(), ExportError> {
        let endpoint = &self.config.endpoint;
        let host = endpoint.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = endpoint.port_u16().unwrap_or(80);
        let stream = connect(host, port).await?;
        let stream = TokioIo::new(stream);
        let request = self.request()?;
        match self.config.protocol {
            Protocol::Http => {
                let (mut sender, connection) = http1::handshake(stream).await.map_err(ExportError::Http)?;
                tokio::spawn(connection);
                let response = sender.send_request(request).await.map_err(ExportError::Http)?;
                accepted(&response)
            }
            Protocol::Grpc => {
                let executor = TokioExecutor::new();
                let (mut sender, connection) = http2::handshake(executor, stream).await.map_err(ExportError::Http)?;
                tokio::spawn(connection);
                let response = sender.send_request(request).await.map_err(ExportError::Http)?;
                accepted(&response)?;
                grpc_status(response).await
            }
        }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, ExportError> {
        let message = self.message().encode_to_vec();
        let endpoint = &self.config.endpoint;
        let request = match self.config.protocol {
            Protocol::Http => {
                let target = endpoint.path_and_query().map_or("/", |target| target.as_str());
                let host = endpoint.authority().map_or("", |authority| authority.as_str());
                Request::post(target).header(HOST, host).header(CONTENT_TYPE, "application/x-protobuf")
            }
            Protocol::Grpc => {
                Request::post(endpoint.clone()).header(CONTENT_TYPE, "application/grpc").header(TE, "trailers")
            }
        };
        let body = match self.config.protocol {
            Protocol::Http => message,
            Protocol::Grpc => framed(&message),
        };
        let mut request = request.body(Full::new(Bytes::from(body))).map_err(ExportError::Request)?;
        for (name, value) in &self.config.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                request.headers_mut().insert(name, value);
            }
        }
        Ok(request)
    }

    fn message(&self) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let spans = self.spans.iter().map(encode).collect();
        let resource = Resource { attributes: attributes(&self.config.resource), ..Resource::default() };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(resource),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
                ..ResourceSpans::default()
            }],
        }
    }
}

/// Connects to the first address of a host that accepts the connection.
async fn connect(host: &str, port: u16) -> Result<TcpStream, ExportError> {
    let mut failed = io::ErrorKind::NotFound.into();
    for address in prewasi_names::lookup(host).await.map_err(ExportError::LookUp)? {
        match TcpStream::connect((address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(ExportError::Connect(failed))
}

/// Wraps a message in gRPC's frame: uncompressed, with its length.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat()
}

fn accepted(response: &Response<Incoming>) -> Result<(), ExportError> {
    if response.status().is_success() { Ok(()) } else { Err(ExportError::Status(response.status())) }
}

/// Reads the status of a gRPC call: from the trailers or, without a message, from the headers.
async fn grpc_status(response: Response<Incoming>) -> Result<(), ExportError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(ExportError::Answer)?;
    let status =
        |headers: &HeaderMap| headers.get("grpc-status").map(|status| status.to_str().unwrap_or("?").to_owned());
    match body.trailers().and_then(status).or_else(|| status(&head.headers)) {
        Some(status) if status == "0" => Ok(()),
        status => Err(ExportError::Grpc(status.unwrap_or_else(|| "none".to_owned()))),
    }
}

fn encode(span: &Span) -> Message {
    let status = span.error.as_ref().map(|error| Status { message: error.clone(), code: SpanStatus::Error as i32 });
    Message {
        trace_id: span.trace.to_vec(),
        span_id: span.id.to_vec(),
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        trace_state: span.state.clone(),
        name: span.name.clone(),
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: span.begun,
        end_time_unix_nano: span.ended,
        attributes: attributes(&span.attributes),
        status,
        ..Message::default()
    }
}

fn attributes(pairs: &[(String, String)]) -> Vec<KeyValue> {
    let value = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    pairs.iter().map(|(name, text)| KeyValue { key: name.clone(), value: value(text), ..KeyValue::default() }).collect()
}
