//! The HTTP server: accepts connections, bounds them, ends them.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    HEADER_TIMEOUT, MAX_CONNECTIONS, MAX_HEAD_BYTES, MAX_HEADERS, STOP_GRACE,
    guests::{Guest, Guests},
};

/// How long to wait after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// What the kernel may hold of an answer that its reader does not read.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// How long a reader may take nothing of what is sent to it before its connection is given up.
const SEND_PATIENCE: Duration = Duration::from_secs(30);

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time.
    pub(super) connections: usize,
    /// Silence, or headers that trickle in.
    pub(super) header_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: MAX_CONNECTIONS, header_timeout: HEADER_TIMEOUT }
    }
}

/// Serves until `stop`, then lets answers in the making finish.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let guests = Guests::new(limits.connections);
    let connections = TaskTracker::new();
    // Cancelled when this future ends in whatever way: an abort of the room is the end of its connections.
    let end = CancellationToken::new();
    let _end_with_us = end.clone().drop_guard();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                if let Some(guest) = guests.welcome() {
                    let (stop, end) = (stop.clone(), end.clone());
                    connections.spawn(converse(stream, guest, router.clone(), limits.header_timeout, stop, end));
                }
            }
            Err(e) if is_of_one_connection(&e) => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "admin cannot accept connections; trying on");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(STOP_GRACE, connections.wait()).await.is_err() {
        tracing::debug!(left = connections.len(), "admin stops with answers in the making");
    }
}

/// A reader that is slow or gone may hold up [`SEND_BUFFER_BYTES`] in the kernel, and for [`SEND_PATIENCE`].
fn bound_sending(stream: &TcpStream) {
    let patience = u32::try_from(SEND_PATIENCE.as_millis()).unwrap_or(u32::MAX);
    // A kernel that does not want to leaves its own bounds in place.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER_BYTES);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, patience);
}

/// Errors that a client causes by going away before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind())
}

/// One connection from its first byte to its last.
///
/// `stop` lets the answer in the making finish; `end` does not.
async fn converse(
    stream: TcpStream,
    guest: Guest,
    router: Router,
    header_timeout: Duration,
    stop: CancellationToken,
    end: CancellationToken,
) {
    let guest = Arc::new(guest);
    let answering = Arc::clone(&guest);
    bound_sending(&stream);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(answering.hang_up());
        let busy = answering.busy();
        request.extensions_mut().insert(Arc::clone(&answering));
        let answer = TowerToHyperService::new(router.clone()).call(request);
        async move {
            let answer = answer.await;
            drop(busy);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    // Garbage, a time limit, a client that went away: its business, and anybody can do it at will.
                    tracing::debug!(%error, "admin connection ended early");
                }
                return;
            }
            () = guest.asked_to_leave() => return,
            () = end.cancelled() => return,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn started(limits: Limits) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "done"
        };
        let router = Router::new().route("/", get(|| async { "hello" })).route("/slow", get(slow));
        (address, stop.clone(), tokio::spawn(serve(listener, router, limits, stop)))
    }

    async fn read_to_end(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        // A reset is an end too.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn silence_trickle_and_idle_keep_alive_are_ended() {
        let limits = Limits { header_timeout: Duration::from_millis(100), ..Limits::default() };
        let (address, _stop, _server) = started(limits).await;
        for first in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(first.as_bytes()).await.unwrap();
            let answer = read_to_end(&mut stream).await;
            assert_eq!(answer.contains("hello"), first.ends_with("\r\n\r\n"), "{first:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn stopping_finishes_the_answer_in_the_making() {
        let (address, stop, server) = started(Limits::default()).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(
            read_to_end(&mut first).await.ends_with("hello"),
            "accepted in order, so the slow one has been taken in"
        );
        stop.cancel();
        assert!(read_to_end(&mut stream).await.ends_with("done"));
        assert_eq!(read_to_end(&mut idle).await, "");
        tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
