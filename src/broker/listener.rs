//! Listeners: sockets bound at start, connections accepted, how many there may be.

use std::{
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytestring::ByteString;
use prometheus::IntGauge;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
};

use super::{
    Bind, ListenerSettings, StartError, connection,
    hub::{Hub, Who},
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
    /// One permit per connected client.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) connected: IntGauge,
    /// Its place in the configuration.
    place: usize,
    bound: String,
}

/// A socket of any kind, and who is at its other end.
pub(crate) struct Socket {
    pub(crate) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(crate) writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub(crate) address: String,
    /// The name in the client's certificate, where it has shown one.
    pub(crate) certificate_name: Option<ByteString>,
}

/// A bound socket, not yet accepting.
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(crate) fn new(settings: ListenerSettings, place: usize, bound: &Bound, connected: IntGauge) -> Self {
        let bound = match bound {
            Bound::Tcp(listener) => listener.local_addr().map_or_else(|e| e.to_string(), |address| address.to_string()),
            Bound::Unix(_, path) => format!("unix:{}", path.display()),
        };
        let places = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
        Self { settings, places, connected, place, bound }
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
            let bound = bind_unix(path).map(|listener| Bound::Unix(listener, path.clone()));
            (format!("unix:{}", path.display()), bound)
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

/// A socket file that nobody answers on was left by a crash and is replaced; anything else is not ours to remove.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            let answers = std::os::unix::net::UnixStream::connect(path);
            let stale = answers.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            if !(is_socket && stale) {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

impl Bound {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.accept().await.and_then(|(stream, address)| tcp(stream, address)),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| unix(stream)),
        }
    }
}

fn tcp(stream: TcpStream, address: std::net::SocketAddr) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(TCP_IDLE).with_interval(TCP_PROBE);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let (reader, writer) = stream.into_split();
    Ok(Socket {
        reader: Box::new(reader),
        writer: Box::new(writer),
        address: address.to_string(),
        certificate_name: None,
    })
}

fn unix(stream: UnixStream) -> Socket {
    let process = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
    let address = process.map_or_else(|| "unix".to_owned(), |process| format!("unix:pid {process}"));
    let (reader, writer) = stream.into_split();
    Socket { reader: Box::new(reader), writer: Box::new(writer), address, certificate_name: None }
}

/// Accepts until the listeners are closed.
pub(crate) async fn accept(hub: Arc<Hub>, listener: Arc<Listener>, bound: Bound) {
    let mut wait = ACCEPT_RETRY.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = hub.closed.cancelled() => break,
            accepted = bound.accept() => accepted,
        };
        match accepted {
            Ok(socket) => {
                wait = ACCEPT_RETRY.0;
                hub.metrics.sockets.inc();
                let place = hub.pending.enter(listener.place);
                let (hub, listener) = (Arc::clone(&hub), Arc::clone(&listener));
                let connections = hub.connections.clone();
                connections.spawn(connection::serve(hub, listener, socket, place));
            }
            // The client was gone before we came.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::InvalidInput) => {}
            Err(error) => {
                report(&hub, &listener, &error);
                // The connection stays in the kernel's queue, so without a pause this would spin.
                tokio::select! {
                    () = tokio::time::sleep(wait) => wait = (wait * 2).min(ACCEPT_RETRY.1),
                    () = hub.closed.cancelled() => break,
                }
            }
        }
    }
    if let Bound::Unix(_, path) = &bound {
        // Gone already is as good.
        let _ = std::fs::remove_file(path);
    }
}

fn report(hub: &Hub, listener: &Listener, error: &io::Error) {
    let who = Who { listener: &listener.settings.name, address: "", client_id: "" };
    hub.refused(who, "accept", format_args!("cannot accept a connection: {error}"));
}
