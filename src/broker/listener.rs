//! Listeners: sockets bound, connections accepted, how many there may be.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Bind, ListenerSettings, StartError, connection,
    hub::{Hub, Who},
    places::Places,
    transport::{Accepted, Tls, unix::UnixSocket},
};
use crate::stats::ListenerStats;

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: u32 = 1024;
/// First and longest wait after `accept` has failed (out of file descriptors, mostly).
const ACCEPT_RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// A TCP peer that vanished is noticed after about two minutes, whatever its keep alive.
const TCP_IDLE: Duration = Duration::from_secs(60);
const TCP_PROBE: Duration = Duration::from_secs(15);

/// One listener, as its connections see it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) settings: ListenerSettings,
    pub(crate) tls: Option<Arc<Tls>>,
    /// One for each connected client.
    pub(crate) places: Arc<Places>,
    pub(crate) connected: IntGauge,
    /// No new connections; the socket may have another listener then.
    pub(crate) closed: CancellationToken,
    /// Its connections finish what arrived and end.
    pub(crate) leaving: CancellationToken,
    /// The task that accepts.
    pub(crate) accepting: TaskTracker,
    /// Until it has listened long enough: connections outlive their listener, and must not keep its address.
    socket: Mutex<Option<Arc<Bound>>>,
    /// Its number: another one than that of any listener before.
    place: usize,
    bound: String,
}

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

impl Listener {
    pub(crate) fn new(
        hub: &Hub,
        settings: ListenerSettings,
        place: usize,
        tls: Option<Arc<Tls>>,
        socket: Arc<Bound>,
        connected: IntGauge,
    ) -> Self {
        let bound = match &*socket {
            Bound::Tcp(listener) => listener.local_addr().map_or_else(|e| e.to_string(), |address| address.to_string()),
            Bound::Unix(socket) => format!("unix:{}", socket.path().display()),
        };
        let places = Arc::new(Places::new(settings.max_connections));
        let (closed, leaving) = (hub.closed.child_token(), hub.stopping.child_token());
        let (accepting, socket) = (TaskTracker::new(), Mutex::new(Some(socket)));
        accepting.close();
        Self { settings, tls, places, connected, closed, leaving, accepting, socket, place, bound }
    }

    /// The same as the next after `before`: with its clients, and so with its places.
    pub(crate) fn succeeding(mut self, before: &Self) -> Self {
        self.places = Arc::clone(&before.places);
        self.leaving = before.leaving.clone();
        self
    }

    /// Its socket, while it has one.
    pub(crate) fn socket(&self) -> Option<Arc<Bound>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Accepts no more. The socket closes as soon as `accepting` is through, unless another listener has it too.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn stats(&self) -> ListenerStats {
        let connections = u64::try_from(self.connected.get()).unwrap_or(0);
        ListenerStats { name: self.settings.name.clone(), bind: self.bound.clone(), connections }
    }
}

/// Binds the socket of a listener.
pub(crate) fn bind(settings: &ListenerSettings) -> Result<Bound, StartError> {
    let (address, bound) = match &settings.bind {
        Bind::Tcp(address) => (address.to_string(), bind_tcp(*address).map(Bound::Tcp)),
        Bind::Unix(path) => {
            (format!("unix:{}", path.display()), UnixSocket::bind(path, settings.unix_mode).map(Bound::Unix))
        }
    };
    bound.map_err(|cause| StartError::Bind { listener: settings.name.clone(), address, cause })
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Without it a restart fails for minutes, while connections of the old process linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Bound {
    /// Gives the file of a unix socket another mode.
    pub(crate) fn set_mode(&self, mode: u32) {
        if let Self::Unix(socket) = self
            && let Err(error) = socket.set_mode(mode)
        {
            tracing::error!(path = %socket.path().display(), %error, "the mode of a socket cannot be changed");
        }
    }

    /// The next connection, and who is at its other end.
    async fn accept(&self) -> io::Result<(Accepted, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                prepare(&stream)?;
                Ok((Accepted::Tcp(stream), address.to_string()))
            }
            Self::Unix(socket) => socket.accept().await,
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(TCP_IDLE).with_interval(TCP_PROBE);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Accepts until the listener is closed.
pub(crate) async fn accept(hub: Arc<Hub>, listener: Arc<Listener>, socket: Arc<Bound>) {
    let mut wait = ACCEPT_RETRY.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = listener.closed.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((accepted, address)) => {
                wait = ACCEPT_RETRY.0;
                hub.metrics.sockets.inc();
                let place = hub.pending.enter(listener.place);
                let (hub, listener) = (Arc::clone(&hub), Arc::clone(&listener));
                let connections = hub.connections.clone();
                connections.spawn(connection::serve(hub, listener, (accepted, address), place));
            }
            // The client was gone before we came.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::InvalidInput) => {}
            Err(error) => {
                report(&hub, &listener, &error);
                // The connection stays in the kernel's queue, so without a pause this would spin.
                tokio::select! {
                    () = tokio::time::sleep(wait) => wait = (wait * 2).min(ACCEPT_RETRY.1),
                    () = listener.closed.cancelled() => break,
                }
            }
        }
    }
}

fn report(hub: &Hub, listener: &Listener, error: &io::Error) {
    let who = Who { listener: &listener.settings.name, address: "", client_id: "" };
    hub.refused(who, "accept", format_args!("cannot accept a connection: {error}"));
}
