//! Sends spans to a collector: one connection, one request, in a separate helper.

use std::io;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Message, Status};
use prewasi_names::LookupError;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tower::service_fn;

use super::config::{Config, Protocol};
use super::span::Span;
use crate::failure::{Failure, Kind};

/// Send spans.
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
    #[error("cannot reach the collector")]
    Channel(#[source] tonic::transport::Error),
    #[error("the collector answers with gRPC status {:?}: {}", .0.code(), .0.message())]
    Grpc(Box<tonic::Status>),
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
        let host = endpoint.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = endpoint.port_u16().unwrap_or(80);
        match self.config.protocol {
            Protocol::Http => {
                let stream = connect(&host, port).await?;
                let (mut sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(ExportError::Http)?;
                tokio::spawn(connection);
                let response = sender.send_request(self.request()?).await.map_err(ExportError::Http)?;
                let status = response.status();
                if status.is_success() { Ok(()) } else { Err(ExportError::Status(status)) }
            }
            Protocol::Grpc => {
                // Names are looked up as everywhere in a shim: without the C library.
                let connect = service_fn(move |_| {
                    let host = host.clone();
                    async move { connect(&host, port).await.map(TokioIo::new) }
                });
                let channel = Endpoint::from(endpoint.clone()).connect_with_connector(connect).await;
                let mut client = TraceServiceClient::new(channel.map_err(ExportError::Channel)?);
                let mut request = tonic::Request::new(self.message());
                let headers = std::mem::take(request.metadata_mut()).into_headers();
                *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(self.with_own(headers));
                client.export(request).await.map(drop).map_err(|status| ExportError::Grpc(Box::new(status)))
            }
        }
    }

    /// Makes the request of OTLP over HTTP.
    fn request(&self) -> Result<Request<Full<Bytes>>, ExportError> {
        let endpoint = &self.config.endpoint;
        let target = endpoint.path_and_query().map_or("/", |target| target.as_str());
        let host = endpoint.authority().map_or("", |authority| authority.as_str());
        let request = Request::post(target).header(HOST, host).header(CONTENT_TYPE, "application/x-protobuf");
        let body = Full::new(Bytes::from(self.message().encode_to_vec()));
        let mut request = request.body(body).map_err(ExportError::Request)?;
        *request.headers_mut() = self.with_own(std::mem::take(request.headers_mut()));
        Ok(request)
    }

    /// Adds the headers that the configuration names.
    fn with_own(&self, mut headers: HeaderMap) -> HeaderMap {
        for (name, value) in &self.config.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                headers.insert(name, value);
            }
        }
        headers
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
