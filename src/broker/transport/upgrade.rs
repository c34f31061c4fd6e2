//! From an HTTP request to a WebSocket that carries MQTT, or an HTTP answer that says why not.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tungstenite::{
    Error,
    error::ProtocolError,
    handshake::{
        machine::TryParse as _,
        server::{Request, create_response},
    },
    http::HeaderValue,
};

use super::{Refused, origin::Origins};

/// Largest request: cookies and tokens that browsers and proxies add fit in, as they do with other servers.
const REQUEST_MAX: usize = 8 << 10;
/// The sub-protocol (MQTT 5, section 6: [MQTT-6.0.0-3], [MQTT-6.0.0-4]).
const MQTT: &str = "mqtt";

/// Why a request does not become a WebSocket.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    /// More lines of the head.
    more: &'static str,
    cause: &'static str,
}

const fn answer(status: &'static str, more: &'static str, cause: &'static str) -> Answer {
    Answer { status, more, cause }
}

/// Reads the request and answers it. Gives what has come behind the request; `Err(None)` where the client went without a word.
/// How long it may take is the caller's affair.
pub(super) async fn upgrade<S>(stream: &mut S, origins: Origins<'_>) -> Result<BytesMut, Option<Refused>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = BytesMut::new();
    let decided = loop {
        match decide(&input, origins) {
            Some(decided) => break decided,
            None if input.len() >= REQUEST_MAX => {
                let status = "431 Request Header Fields Too Large";
                break Err(answer(status, "", "the request is larger than 8 KiB"));
            }
            None => {}
        }
        input.reserve(1024);
        match stream.read_buf(&mut input).await {
            Ok(1..) => {}
            Ok(0) | Err(_) if input.is_empty() => return Err(None),
            Ok(0) | Err(_) => return Err(Some(refused("the client went in the middle of its request"))),
        }
    };
    match decided {
        Ok((len, head)) => {
            stream.write_all(head.as_bytes()).await.map_err(|_| None)?;
            stream.flush().await.map_err(|_| None)?;
            Ok(input.split_off(len))
        }
        Err(answer) => {
            // Whether it arrives or not, the connection ends.
            let _ = stream.write_all(answer.text().as_bytes()).await;
            let _ = stream.shutdown().await;
            Err(Some(refused(answer.cause)))
        }
    }
}

fn refused(cause: &str) -> Refused {
    Refused { word: "websocket", cause: cause.to_owned() }
}

/// Decides on a request once it is whole: its length and the head of the answer that makes it a WebSocket.
fn decide(input: &[u8], origins: Origins<'_>) -> Option<Result<(usize, String), Answer>> {
    if input.is_empty() {
        return None;
    }
    match Request::try_parse(input) {
        Ok(None) => None,
        Ok(Some((len, request))) => Some(head(&request, origins).map(|head| (len, head))),
        Err(error) => Some(Err(parse_error(&error))),
    }
}

fn head(request: &Request, origins: Origins<'_>) -> Result<String, Answer> {
    let accepted = create_response(request).map_err(|error| upgrade_error(&error))?;
    let text = |name: &str| {
        let values = request.headers().get_all(name).into_iter();
        values.map(|value| value.to_str().unwrap_or("?"))
    };
    // What one browser says is one header; with two, a proxy and its client may mean different things.
    if text("Origin").count() > 1 || text("Origin").any(|origin| !origins.take(origin)) {
        let cause = "a page of another site: `origins` of the listener can allow it";
        return Err(answer("403 Forbidden", "", cause));
    }
    if !text("Sec-WebSocket-Protocol").flat_map(|offer| offer.split(',')).any(|offer| offer.trim() == MQTT) {
        return Err(answer("400 Bad Request", "", "the client does not offer the sub-protocol `mqtt`"));
    }
    let accept = accepted.headers().get("Sec-WebSocket-Accept").map(HeaderValue::to_str);
    let Some(Ok(accept)) = accept else {
        return Err(answer("400 Bad Request", "", "the WebSocket key cannot be used"));
    };
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {MQTT}\r\n\r\n"
    ))
}

fn parse_error(error: &Error) -> Answer {
    match protocol(error) {
        Some(ProtocolError::WrongHttpMethod) => {
            answer("405 Method Not Allowed", "Allow: GET\r\n", "an HTTP request other than GET")
        }
        Some(ProtocolError::WrongHttpVersion) => answer("505 HTTP Version Not Supported", "", "HTTP before 1.1"),
        _ => answer("400 Bad Request", "", "what came is not HTTP: is the client set to MQTT without WebSocket?"),
    }
}

fn upgrade_error(error: &Error) -> Answer {
    match protocol(error) {
        Some(ProtocolError::MissingConnectionUpgradeHeader | ProtocolError::MissingUpgradeWebSocketHeader) => {
            let more = "Upgrade: websocket\r\n";
            answer("426 Upgrade Required", more, "an HTTP request that does not ask for WebSocket")
        }
        Some(ProtocolError::MissingSecWebSocketVersionHeader) => {
            let more = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
            answer("426 Upgrade Required", more, "a version of WebSocket other than 13")
        }
        Some(ProtocolError::MissingSecWebSocketKey) => answer("400 Bad Request", "", "the WebSocket key is missing"),
        _ => parse_error(error),
    }
}

fn protocol(error: &Error) -> Option<&ProtocolError> {
    if let Error::Protocol(error) = error { Some(error) } else { None }
}

impl Answer {
    fn text(&self) -> String {
        let Self { status, more, cause } = self;
        let body = format!("This is MQTT over WebSocket: {cause}.\n");
        let close = if more.contains("Upgrade:") { "Upgrade, close" } else { "close" };
        format!(
            "HTTP/1.1 {status}\r\n{more}Connection: {close}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}
