//! HTTP requests that a guest makes: over TCP, or over TLS by rustls, with the certificates that the container trusts.

use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::http::uri::Scheme;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use prewasi_names::LookupError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use wasmtime_wasi::runtime::spawn;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::{Guest, Network};

/// Time limit for each step, unless the guest sets one.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The variable with the path of a file with certificates, as in programs that use OpenSSL.
const CERTIFICATES: &str = "SSL_CERT_FILE";
/// Paths of distributions' certificate files.
const CERTIFICATE_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A response, and the future that drives its connection.
type Sent = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// Sends a guest's requests.
#[derive(Clone)]
pub(super) struct Outgoing {
    network: Network,
    tls: Arc<Tls>,
}

/// The TLS settings, made by the first request that uses TLS.
struct Tls {
    /// The certificate file that the guest's environment names.
    file: Option<String>,
    config: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Outgoing {
    pub(super) fn new(guest: &Guest) -> Self {
        let file = guest.env.iter().rfind(|(name, _)| name == CERTIFICATES).map(|(_, file)| file.clone());
        Self { network: guest.network, tls: Arc::new(Tls { file, config: OnceLock::new() }) }
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        if self.network == Network::None {
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        Box::new(send(self.tls.clone(), request, options.unwrap_or_default()))
    }
}

async fn send(tls: Arc<Tls>, request: Request<WasiBody>, options: RequestOptions) -> Result<Sent, Error> {
    let connecting = options.connect_timeout.unwrap_or(TIMEOUT);
    let is_tls = request.uri().scheme() == Some(&Scheme::HTTPS);
    let host = request.uri().host().ok_or(Error::HttpRequestUriInvalid)?.to_owned();
    let port = request.uri().port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    // Only in a URI is an IPv6 address in brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let connected = timeout(connecting, async {
        let stream = connect(&host, port).await?;
        // A guest writes whole messages.
        let _ = stream.set_nodelay(true);
        if !is_tls {
            return Ok::<_, Error>(Box::new(stream) as Box<dyn Stream>);
        }
        let config = tls.config().map_err(|reason| Error::InternalError(Some(reason)))?;
        let name = ServerName::try_from(host.clone())?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(Error::Tls)?;
        Ok(Box::new(stream) as Box<dyn Stream>)
    });
    let stream = connected.await.map_err(|_| Error::ConnectionTimeout)??;
    exchange(stream, request, options).await
}

/// Connects to the first address of a host that accepts the connection.
async fn connect(host: &str, port: u16) -> Result<TcpStream, Error> {
    let mut failed = Error::DestinationNotFound;
    for address in prewasi_names::lookup(host).await.map_err(|error| lookup_error(&error))? {
        match TcpStream::connect((address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = connect_error(error),
        }
    }
    Err(failed)
}

/// Sends a request and waits for the head of its response.
async fn exchange(
    stream: Box<dyn Stream>,
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<Sent, Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The request line has only the path; the rest of the URI is in the header `host`.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| Error::HttpRequestUriInvalid)?;
    // The guest may read its response slowly; the connection continues meanwhile.
    let connection = spawn(connection);
    let response = timeout(options.first_byte_timeout.unwrap_or(TIMEOUT), sender.send_request(request));
    let response = response.await.map_err(|_| Error::ConnectionReadTimeout)??;
    let idle = options.between_bytes_timeout.unwrap_or(TIMEOUT);
    let response = response.map(|body| {
        let body: UnsyncBoxBody<Bytes, Error> =
            Impatient { body, idle, deadline: Box::pin(sleep(idle)) }.boxed_unsync();
        body
    });
    Ok((response, Box::new(async move { Ok(connection.await?) })))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn connect_error(error: std::io::Error) -> Error {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Error::DestinationUnavailable,
        _ => Error::Connect(error),
    }
}

fn lookup_error(error: &LookupError) -> Error {
    Error::DnsError { rcode: Some(error.to_string()), info_code: None }
}

impl Tls {
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        self.config.get_or_init(|| configure(self.file.as_deref())).clone()
    }
}

fn configure(file: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match file.or_else(|| CERTIFICATE_FILES.into_iter().find(|file| Path::new(file).exists())) {
        Some(file) => {
            let text = fs::read(file).map_err(|error| format!("cannot read certificates {file:?}: {error}"))?;
            let found = CertificateDer::pem_slice_iter(&text).flatten();
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(format!("cannot find a certificate in {file:?}"));
            }
        }
        // A container without certificates trusts those that browsers trust.
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// A body with a time limit between its frames.
struct Impatient {
    body: Incoming,
    idle: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl Body for Impatient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let next = tokio::time::Instant::now() + self.idle;
                self.deadline.as_mut().reset(next);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => {
                ready!(self.deadline.as_mut().poll(context));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
