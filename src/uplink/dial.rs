//! Dialling: host name to TCP connection to TLS, each step with the time that is left, each failure with its name.

use std::{
    future::Future,
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;

use super::{Error, Settings, Step, Url, probe::Seen, tls};

/// Most addresses of one host name that are tried.
const MAX_ADDRESSES: usize = 8;

/// A connection, encrypted or not.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {
    /// The TCP connection beneath.
    fn tcp(&self) -> &TcpStream;

    /// Acknowledges on the TCP level what came, at once.
    ///
    /// An upstream with Nagle's algorithm on (Mosquitto, by default) holds back its next acknowledgements until the last one is
    /// acknowledged by TCP, which the kernel puts off for 40 ms where there is nothing to send: 500 messages a second with
    /// Mosquitto's default window of 20.
    fn acknowledge_now(&self) {
        #[cfg(target_os = "linux")]
        // Only speed depends on it.
        let _ = rustix::net::sockopt::set_tcp_quickack(self.tcp(), true);
    }
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// The time that the steps of one connection share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    limit: Duration,
    deadline: Instant,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, deadline: Instant::now() + limit }
    }

    /// Waits for one step, but no longer than is left.
    pub(super) async fn wait<T>(
        self,
        url: &Url,
        step: Step,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match timeout_at(self.deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { url: url.to_string(), step, limit: self.limit }),
        }
    }
}

/// Looks up host names, one at a time for each uplink.
///
/// The system's resolver blocks its thread and cannot be told to stop. A look-up whose time is up goes on in the background; where the next ones did not wait
/// for it, a dead resolver would take one of the runtime's blocking threads after the other, and in the end those of the store's and the admin room's work.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    free: Arc<Semaphore>,
}

impl Resolver {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(1)) }
    }

    /// Asks `resolver`, off the runtime's threads, once the last look-up has ended. Cancel safe; what was begun goes on.
    async fn ask<T: Send + 'static>(&self, resolver: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let turn = Arc::clone(&self.free).acquire_owned().await.map_err(io::Error::other)?;
        let work = move || {
            let found = resolver();
            drop(turn);
            found
        };
        spawn_blocking(work).await.map_err(io::Error::other)?
    }

    async fn look_up(&self, url: &Url) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = (url.host.clone(), url.port);
        self.ask(move || Ok((host.as_str(), port).to_socket_addrs()?.take(MAX_ADDRESSES).collect())).await
    }
}

/// Connects as far as TLS. The name is looked up on the runtime's blocking threads, so a dead resolver holds up nobody.
pub(super) async fn dial(
    settings: &Settings,
    url: &Url,
    resolver: &Resolver,
    patience: Patience,
) -> Result<Box<dyn Wire>, Error> {
    let tls = if url.tls { Some(patience.wait(url, Step::Tls, tls::prepare(settings, url)).await?) } else { None };
    let tcp = dial_tcp(url, resolver, patience, &mut |_| {}).await?;
    match tls {
        None => Ok(Box::new(tcp)),
        Some(tls) => Ok(Box::new(patience.wait(url, Step::Tls, tls.handshake(tcp, url)).await?)),
    }
}

/// Connects as far as TCP, and tells `watcher` of every step.
pub(super) async fn dial_tcp(
    url: &Url,
    resolver: &Resolver,
    patience: Patience,
    watcher: &mut (dyn FnMut(Seen<'_>) + Send),
) -> Result<TcpStream, Error> {
    let dns = |cause: String| Error::Dns { url: url.to_string(), cause };
    let look_up = async { resolver.look_up(url).await.map_err(|error| dns(error.to_string())) };
    let began = Instant::now();
    let addresses = patience.wait(url, Step::Dns, look_up).await?;
    watcher(Seen::Resolved(&addresses, began.elapsed()));
    let tcp = |cause: io::Error| Error::Tcp { url: url.to_string(), cause };
    let mut last = dns("the host name has no address".to_owned());
    for (index, address) in addresses.iter().enumerate() {
        // A black hole gets its share of the time that is left and no more, so that the other addresses get their turn.
        let left = patience.deadline.saturating_duration_since(Instant::now());
        let shares = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = Patience { limit: patience.limit, deadline: Instant::now() + left / shares };
        let connect = async { TcpStream::connect(address).await.map_err(tcp) };
        let began = Instant::now();
        let connected = share.wait(url, Step::Tcp, connect).await;
        watcher(Seen::Tried(*address, connected.as_ref().map(|_| began.elapsed())));
        match connected {
            Ok(stream) => {
                // Batches are made here, so Nagle's algorithm would only add delay.
                stream.set_nodelay(true).map_err(tcp)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    #[tokio::test]
    async fn a_resolver_that_hangs_takes_one_thread_and_no_more() {
        let (resolver, begun) = (Resolver::new(), Arc::new(AtomicUsize::new(0)));
        let (release, released) = mpsc::sync_channel::<()>(1);
        let released = Arc::new(std::sync::Mutex::new(released));
        let ask = || {
            let (begun, released) = (Arc::clone(&begun), Arc::clone(&released));
            let hangs = move || {
                begun.fetch_add(1, Ordering::SeqCst);
                released.lock().unwrap().recv().map_err(io::Error::other)
            };
            tokio::time::timeout(Duration::from_millis(20), resolver.ask(hangs))
        };
        for _ in 0..20 {
            assert!(ask().await.is_err(), "it hangs");
        }
        assert!(begun.load(Ordering::SeqCst) <= 1);
        release.send(()).unwrap();
        // The one that hung is over; the next one is answered.
        assert_eq!(resolver.ask(|| Ok(7)).await.unwrap(), 7);
    }
}
