//! One query to one server: a datagram, and a TCP connection if the answer does not fit into one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::message::{Question, Reply};

/// Longest datagram that is read, in bytes. Without EDNS a server sends at most 512.
const DATAGRAM: usize = 4096;

/// Queries a server, and waits for its answer until the caller gives up.
///
/// # Errors
/// The system's error, for example that no process listens there. Over TCP also a malformed answer.
pub(crate) async fn ask(server: SocketAddr, question: &Question, tcp: bool) -> io::Result<Reply> {
    let message = question.encode().map_err(io::Error::other)?;
    if !tcp {
        let reply = by_datagram(server, question, &message).await?;
        if reply != Reply::Truncated {
            return Ok(reply);
        }
    }
    by_connection(server, question, &message).await
}

async fn by_datagram(server: SocketAddr, question: &Question, message: &[u8]) -> io::Result<Reply> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // The kernel chooses an unpredictable port, and a connected socket receives datagrams from this server alone.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(reply) = question.read(&buffer[..length]) {
            return Ok(reply);
        }
    }
}

async fn by_connection(server: SocketAddr, question: &Question, message: &[u8]) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    match question.read(&buffer) {
        Some(Reply::Truncated) | None => Err(io::ErrorKind::InvalidData.into()),
        Some(reply) => Ok(reply),
    }
}
