//! Connections: the acceptor accepts them and passes them to the workers in turn; each worker serves its own.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen as begin, socket_with, sockopt};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::answer::Server;
use super::processes::{First, Given, Other, Taker};
use super::{BACKLOG, HEAD, PAUSE};
use crate::RunError;
use crate::end::setup;

/// Opens the listening socket.
///
/// # Errors
/// The address cannot be listened on.
pub(super) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    begin(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections and passes them to the workers in turn. Ends when `stop` becomes readable and all workers have finished their
/// requests. Returns the exit code.
///
/// # Errors
/// [`RunError::Setup`].
pub(super) fn accept(first: First, stop: Option<Arc<OwnedFd>>) -> Result<u8, RunError> {
    in_runtime(async {
        let listener = TcpListener::from_std(first.listener)?;
        let others = first.others.into_iter().map(Other::ready).collect::<io::Result<Vec<_>>>()?;
        let stop = stop.map(|stop| pipe::Receiver::from_owned_fd(stop.try_clone()?)).transpose()?;
        let mut turn = 0;
        // A connection that no worker could take.
        let mut left = None;
        loop {
            left = tokio::select! {
                () = told(stop.as_ref()) => break,
                code = any_gone(&others) => {
                    super::tell("error: a process of the server is gone");
                    return Ok(code);
                }
                () = tokio::time::sleep(PAUSE), if left.is_some() => left.take(),
                accepted = listener.accept(), if left.is_none() => match accepted {
                    Ok((stream, _)) => Some(stream),
                    // No free descriptors: connections that end will free some.
                    Err(_) => {
                        tokio::time::sleep(PAUSE).await;
                        None
                    }
                },
            };
            for _ in 0..others.len() {
                let Some(stream) = left.take() else { break };
                left = others[turn].give(stream);
                turn = (turn + 1) % others.len();
            }
        }
        drop(listener);
        let others: Vec<_> = others.into_iter().map(Taker::stop).collect();
        Ok(others.iter().map(|other| other.code()).find(|code| *code != 0).unwrap_or(0))
    })
}

/// Serves the connections that a worker receives, until there are no more and all have ended.
///
/// # Errors
/// [`RunError::Setup`].
pub(super) fn take(server: Server, given: Given) -> Result<(), RunError> {
    let server = Arc::new(server);
    in_runtime(async {
        let given = given.ready()?;
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // Removes ended connections.
                Some(_) = connections.join_next() => {}
                stream = given.next() => match stream.map(TcpStream::from_std) {
                    Some(Ok(stream)) => drop(connections.spawn(connection(server.clone(), stream, stopped.clone()))),
                    // A client that is gone already is ignored.
                    Some(Err(_)) => {}
                    None => break,
                },
            }
        }
        finish(&server, connections, &stopping).await;
        Ok(())
    })
}

/// Runs `work` in a runtime on this thread.
fn in_runtime<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| setup(format!("cannot start the asynchronous runtime: {error}")))?;
    let served = runtime.block_on(work).map_err(|error| setup(format!("cannot wait for connections: {error}")));
    // A name look-up that still runs is not waited for.
    runtime.shutdown_background();
    served
}

/// Waits until the guest must stop.
async fn told(stop: Option<&pipe::Receiver>) {
    match stop {
        Some(stop) if stop.readable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

/// Waits for the end of any worker, and returns its exit code.
async fn any_gone(others: &[Taker]) -> u8 {
    let mut gone: Vec<_> = others.iter().map(|other| Box::pin(other.gone())).collect();
    std::future::poll_fn(|context| {
        let ready = gone.iter_mut().map(|gone| gone.as_mut().poll(context)).find(|poll| poll.is_ready());
        ready.unwrap_or(std::task::Poll::Pending)
    })
    .await
}

/// Tells connections to end after their current response, and waits for them and for guests that continue after their answers.
async fn finish(server: &Server, mut connections: JoinSet<()>, stopping: &watch::Sender<bool>) {
    // There may be no connection.
    let _ = stopping.send(true);
    while connections.join_next().await.is_some() {}
    server.finish().await;
}

/// Serves one connection: HTTP/1.1, or HTTP/2 if the client begins with it.
async fn connection(server: Arc<Server>, stream: TcpStream, mut stopping: watch::Receiver<bool>) {
    // Small pieces of a response are sent at once.
    let _ = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).pipeline_flush(true);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(server.concurrency());
    let answer = service_fn(|request| server.clone().answer(request));
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    // A client that disconnects, or does not speak HTTP, is no error of the server.
    let _ = tokio::select! {
        result = &mut connection => result,
        // A dropped sender also ends the wait.
        () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}
