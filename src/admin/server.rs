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

/// Serves until `stop`, then lets answers in the making finish.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let guests = Guests::new(MAX_CONNECTIONS);
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
                    connections.spawn(converse(stream, Arc::new(guest), router.clone(), stop.clone(), end.clone()));
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
    guest: Arc<Guest>,
    router: Router,
    stop: CancellationToken,
    end: CancellationToken,
) {
    let answering = Arc::clone(&guest);
    let service = service_fn(move |request| {
        let busy = answering.busy();
        let answer = TowerToHyperService::new(router.clone()).call(request);
        async move {
            let answer = answer.await;
            drop(busy);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
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
