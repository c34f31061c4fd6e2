//! What carries MQTT: plain sockets, TLS, WebSocket, and their combinations, made into one kind of [`Socket`].
//!
//! ```text
//! accept ─▶ the connection's own task ─▶ TLS handshake ─▶ WebSocket upgrade ─▶ Socket ─▶ CONNECT
//!           └──────────── all within CONNECT_TIMEOUT, counted as pending ──────────────┘
//! ```
//!
//! | limit | value |
//! | --- | --- |
//! | connections on the way to their CONNECT, per listener | [`PENDING_CONNECTS_MAX`](super::limits::PENDING_CONNECTS_MAX); the oldest goes |
//! | handshakes that compute at the same time | 1 (`turns`) |
//!
//! Whatever carries it, a connection reads no further than it is asked to, and a write is done when its bytes have left
//! the process (`whole_writes`), so that backpressure and the limits of slow clients hold as on a plain socket.
//! Nothing here outlives a crash.

mod certificate;
mod frames;
mod inspect;
mod origin;
mod tls;
mod tls_files;
mod tls_words;
mod turns;
pub(crate) mod unix;
mod upgrade;
mod watch;
mod websocket;
mod whole_writes;

use std::io;

use bytestring::ByteString;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

pub use self::{
    inspect::{CertificateFacts, inspect_certificate, inspect_certificates},
    tls::TlsRefused,
    tls_files::{TlsProblem, certificates_end, check_tls},
};
use self::{origin::Origins, websocket::WebSocket, whole_writes::WholeWrites};
pub(crate) use self::{tls::Tls, turns::Turns, watch::watch};
use super::{ListenerSettings, Transport};

/// A connection as it was accepted.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that carries MQTT.
pub(crate) struct Socket {
    pub(crate) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(crate) writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// The name in the client's certificate, where it has shown one.
    pub(crate) certificate_name: Option<ByteString>,
}

/// Why a connection does not carry MQTT.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The word for the metric.
    pub(crate) word: &'static str,
    pub(crate) cause: String,
}

impl Socket {
    fn new(reader: impl AsyncRead + Send + Unpin + 'static, writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { reader: Box::new(reader), writer: Box::new(writer), certificate_name: None }
    }

    /// A stream that keeps what is written to it for a while.
    fn buffered(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (reader, writer) = tokio::io::split(WholeWrites::new(stream));
        Self::new(reader, writer)
    }
}

/// Makes what was accepted carry MQTT. `Err(None)` where the client went without a word.
pub(crate) async fn open(
    accepted: Accepted,
    tls: Option<&Tls>,
    settings: &ListenerSettings,
) -> Result<Socket, Option<Refused>> {
    match (accepted, tls, settings.transport) {
        (Accepted::Tcp(stream), None, Transport::Tcp) => {
            let (reader, writer) = stream.into_split();
            Ok(Socket::new(reader, writer))
        }
        (Accepted::Tcp(stream), None, Transport::WebSocket) => web_socket(stream, settings).await,
        (Accepted::Tcp(stream), Some(tls), transport) => {
            let refused = |cause: Option<String>| cause.map(|cause| Refused { word: "tls", cause });
            let (stream, certificate_name) = tls.handshake(stream).await.map_err(refused)?;
            let socket = match transport {
                Transport::Tcp => Socket::buffered(stream),
                Transport::WebSocket => web_socket(stream, settings).await?,
            };
            Ok(Socket { certificate_name, ..socket })
        }
        (Accepted::Unix(stream), _, Transport::Tcp) => {
            let (reader, writer) = stream.into_split();
            Ok(Socket::new(reader, writer))
        }
        (Accepted::Unix(stream), _, Transport::WebSocket) => web_socket(stream, settings).await,
    }
}

async fn web_socket<S>(mut stream: S, settings: &ListenerSettings) -> Result<Socket, Option<Refused>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let input = upgrade::upgrade(&mut stream, Origins::of(settings)).await?;
    Ok(Socket::buffered(WebSocket::new(stream, input)))
}

/// The word for the metric where a connection failed because of what the client did to TLS or WebSocket; `None` where
/// networks and processes just end.
pub(crate) fn offence(error: &io::Error) -> Option<&'static str> {
    let cause = error.get_ref()?;
    if cause.is::<tokio_rustls::rustls::Error>() {
        Some("tls")
    } else {
        cause.is::<frames::Offence>().then_some("websocket")
    }
}

/// Who it is that speaks something else than MQTT, where its first bytes tell.
pub(crate) fn stranger(input: &[u8]) -> Option<&'static str> {
    let begins = |words: &[&[u8]]| words.iter().any(|word| input.starts_with(word));
    if begins(&[b"\x16\x03"]) {
        Some("a TLS handshake, on a listener without `tls`")
    } else if begins(&[b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"PRI * "]) {
        Some("an HTTP request, on a listener with `transport = \"tcp\"`")
    } else {
        None
    }
}
