//! Dialling: host name to TCP connection to TLS, each step with the time that is left, each failure with its name.

use std::{future::Future, io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;

use super::{Error, Settings, Step, Url, tls};

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

/// Connects as far as TLS. The name is looked up on the runtime's blocking threads, so a dead resolver holds up nobody.
pub(super) async fn dial(settings: &Settings, url: &Url, patience: Patience) -> Result<Box<dyn Wire>, Error> {
    let tls = if url.tls { Some(patience.wait(url, Step::Tls, tls::prepare(settings, url)).await?) } else { None };
    let tcp = dial_tcp(url, patience).await?;
    match tls {
        None => Ok(Box::new(tcp)),
        Some(tls) => Ok(Box::new(patience.wait(url, Step::Tls, tls.handshake(tcp, url)).await?)),
    }
}

async fn dial_tcp(url: &Url, patience: Patience) -> Result<TcpStream, Error> {
    let dns = |cause: String| Error::Dns { url: url.to_string(), cause };
    let look_up = async {
        let found = lookup_host((url.host.as_str(), url.port)).await.map_err(|error| dns(error.to_string()))?;
        Ok(found.take(MAX_ADDRESSES).collect::<Vec<_>>())
    };
    let addresses = patience.wait(url, Step::Dns, look_up).await?;
    let tcp = |cause: io::Error| Error::Tcp { url: url.to_string(), cause };
    let mut last = dns("the host name has no address".to_owned());
    for (index, address) in addresses.iter().enumerate() {
        // A black hole gets its share of the time that is left and no more, so that the other addresses get their turn.
        let left = patience.deadline.saturating_duration_since(Instant::now());
        let shares = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = Patience { limit: patience.limit, deadline: Instant::now() + left / shares };
        let connect = async { TcpStream::connect(address).await.map_err(tcp) };
        match share.wait(url, Step::Tcp, connect).await {
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
