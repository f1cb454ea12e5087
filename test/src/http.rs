//! HTTP requests, like those of a probe.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// Finds a free port of this machine.
///
/// # Panics
/// If none is free.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port can be had").port()
}

/// Time limit for a response.
const LIMIT: Duration = Duration::from_secs(5);

/// Requests a page; returns the status code and the body.
///
/// # Errors
/// No server responds, or the response is not HTTP.
pub fn get(address: &str, path: &str) -> Result<(u16, String), String> {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        // A body of HTTP/1.0 is never in chunks.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: prewasi\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| format!("no status: {head:?}"))?, body.to_owned()))
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: hyper::HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

/// A connection to a server.
pub enum Connection {
    /// HTTP/1.1.
    One(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    /// HTTP/2 without TLS.
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Connects with HTTP/1.1.
    ///
    /// # Errors
    /// No process listens at the address.
    pub async fn open(address: &str) -> Result<Self, String> {
        let stream = connect(address).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(text)?;
        tokio::spawn(connection);
        Ok(Self::One(sender))
    }

    /// Connects with HTTP/2.
    ///
    /// # Errors
    /// No process listens at the address.
    pub async fn open_two(address: &str) -> Result<Self, String> {
        let stream = connect(address).await?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (sender, connection) = handshake.await.map_err(text)?;
        tokio::spawn(connection);
        Ok(Self::Two(sender))
    }

    /// Sends a request and reads the response.
    ///
    /// # Errors
    /// The connection ends before the response does.
    pub async fn ask(&mut self, path: &str, body: &[u8]) -> Result<Answer, String> {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let body = Full::new(Bytes::copy_from_slice(body));
        let request = hyper::Request::builder().method(method).uri(format!("http://prewasi{path}"));
        let request = request.header("host", "prewasi");
        let request = request.body(body).map_err(text)?;
        let response = match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        };
        let (head, body) = response.map_err(text)?.into_parts();
        let body = body.collect().await.map_err(text)?.to_bytes().to_vec();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// Sends one request on a new connection.
///
/// # Errors
/// No server responds.
pub async fn ask(address: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
    Connection::open(address).await?.ask(path, body).await
}

async fn connect(address: &str) -> Result<TokioIo<tokio::net::TcpStream>, String> {
    tokio::net::TcpStream::connect(address).await.map(TokioIo::new).map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Waits until a server on this machine has read all that `connections` clients, or more, have sent to it.
///
/// # Panics
/// If it does not.
pub async fn requests_are_read(address: &str, connections: usize) {
    requests_are_read_by(std::process::id(), address, connections).await;
}

/// As [`requests_are_read`], in the network of a process.
///
/// # Panics
/// If the server does not read.
pub async fn requests_are_read_by(pid: u32, address: &str, connections: usize) {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an address has a port");
    // Tasks of this thread that are about to send have sent when a timer fires.
    tokio::time::sleep(Duration::from_millis(1)).await;
    crate::eventually("requests that are read", LIMIT, async || {
        let (queued, unread) = (queued(port), unread(pid, port));
        if queued == 0 && unread.len() >= connections && unread.iter().all(|unread| *unread == Some(0)) {
            Ok(())
        } else {
            Err(format!("{queued} bytes of clients have not arrived; {unread:?}"))
        }
    })
    .await;
}

/// One end of an established connection, as the kernel lists it.
struct Socket {
    /// Addresses of this end and of the other, as `/proc` writes them.
    ends: [String; 2],
    /// Bytes that have not arrived, and bytes that nobody has read.
    queues: [u32; 2],
    /// Zero for a connection that still waits to be accepted.
    inode: String,
}

/// Returns the ends of connections in the network of a process.
fn sockets(process: &str) -> Vec<Socket> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, from, to, ESTABLISHED, queues, ..] = fields[..] else { return None };
        let (sent, received) = queues.split_once(':')?;
        let bytes = |number| u32::from_str_radix(number, 16).ok();
        let inode = (*fields.get(9)?).to_owned();
        Some(Socket { ends: [from.to_owned(), to.to_owned()], queues: [bytes(sent)?, bytes(received)?], inode })
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

/// Returns how many bytes of clients in this network, sent to a port, have not arrived.
fn queued(port: u16) -> u32 {
    let port = format!(":{port:04X}");
    sockets("self").iter().filter(|one| one.ends[1].ends_with(&port)).map(|one| one.queues[0]).sum()
}

/// Returns for each connection to a port, in the network of a process, how many bytes the server has not read; none for one that was not accepted.
fn unread(pid: u32, port: u16) -> Vec<Option<u32>> {
    let port = format!(":{port:04X}");
    let list = sockets(&pid.to_string()).into_iter().filter(|one| one.ends[0].ends_with(&port));
    list.map(|one| (one.inode != "0").then_some(one.queues[1])).collect()
}
