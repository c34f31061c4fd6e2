//! Which requests may change something, or read messages: none that a web page of another site has its reader's browser make.
//!
//! A browser lets any page send a POST to any address that its machine can reach, and with a name that resolves to loopback (DNS rebinding)
//! a page can even read the answers. Without a token, which is allowed on loopback only, nothing else stands between such a page and the streams.
//! So POST and DELETE need, beside the token where there is one:
//!
//! - a `Host` that no attacker's name server can point at us: an address, `localhost`, or the name of this machine;
//! - no `Origin`, as programs send none, or the one of this very `Host` (the gateway's own pages).
//!
//! The same holds for reading dead letters where there is no token: they have payloads.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State as Shared},
    http::{
        HeaderMap, Method, StatusCode,
        header::{HOST, ORIGIN},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::routes::{Failure, State};

/// What `Host` may say.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    bound: IpAddr,
    /// The first label of this machine's name; empty where it has none.
    machine: String,
}

impl Gate {
    /// The gate of a room that listens on this address.
    pub(super) fn new(bound: SocketAddr) -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self { bound: bound.ip(), machine: first_label(name.trim()).to_owned() }
    }

    /// Why a request with these headers may change nothing; `None` if it may.
    fn objection(&self, headers: &HeaderMap) -> Option<(&'static str, String)> {
        let one = |name| {
            let mut values = headers.get_all(name).iter();
            let value = values.next().map(|value| value.to_str().unwrap_or("?"));
            if values.next().is_some() { Some("?") } else { value }
        };
        let host = one(HOST).unwrap_or_default();
        if !self.is_ours(host) {
            let message =
                format!("`Host: {host}` is not this gateway; use its address, `localhost` or this machine's name");
            return Some(("wrong-host", message));
        }
        let origin = one(ORIGIN)?;
        let is_ours = origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host));
        (!is_ours).then(|| ("wrong-origin", format!("pages of {origin} may not change anything here")))
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
            None => host.split_once(':').map_or(host, |(name, _)| name),
        };
        if let Ok(address) = name.parse::<IpAddr>() {
            // No name is looked up for an address. Where we listen on all of them, any may be ours.
            return address.is_loopback() || address == self.bound || self.bound.is_unspecified();
        }
        let name = name.to_ascii_lowercase();
        let is_machine = !self.machine.is_empty() && first_label(&name).eq_ignore_ascii_case(&self.machine);
        name == "localhost"
            || name.ends_with(".localhost")
            || is_machine && (!self.bound.is_loopback() || name.eq_ignore_ascii_case(&self.machine))
    }
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// Refuses POST and DELETE that a page of another site may have sent, and without a token GET too.
pub(super) async fn check(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    let changes = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    match state.gate().objection(request.headers()).filter(|_| changes || !state.has_token()) {
        Some((code, message)) => Failure::new(StatusCode::FORBIDDEN, code, message).into_response(),
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn code(bound: &str, host: &str, origin: Option<&str>) -> Option<&'static str> {
        let gate = Gate { bound: bound.parse().unwrap(), machine: "gw7".to_owned() };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap()));
        gate.objection(&headers).map(|(code, _)| code)
    }

    #[test]
    fn only_names_that_no_attacker_can_have_are_ours() {
        let table = [
            ("127.0.0.1", "127.0.0.1:9883", None),
            ("127.0.0.1", "localhost:9883", None),
            ("127.0.0.1", "LOCALHOST", None),
            ("::1", "[::1]:9883", None),
            ("127.0.0.1", "gw7:9883", None),
            ("127.0.0.1", "evil.example:9883", Some("wrong-host")),
            // A name in a domain can be anybody's, so on loopback, where no token is needed, it does not do.
            ("127.0.0.1", "gw7.evil.example:9883", Some("wrong-host")),
            ("127.0.0.1", "localhost.evil.example", Some("wrong-host")),
            ("127.0.0.1", "127.0.0.1.evil.example", Some("wrong-host")),
            ("127.0.0.1", "192.168.0.9", Some("wrong-host")),
            ("127.0.0.1", "", Some("wrong-host")),
            ("127.0.0.1", "[::1", Some("wrong-host")),
            ("192.168.0.9", "192.168.0.9:9883", None),
            ("192.168.0.9", "gw7.plant.example", None),
            ("0.0.0.0", "192.168.0.9", None),
            ("0.0.0.0", "evil.example", Some("wrong-host")),
        ];
        for (bound, host, expected) in table {
            assert_eq!(code(bound, host, None), expected, "{host} at {bound}");
        }
    }

    #[test]
    fn a_page_may_only_be_our_own() {
        let origin = |origin| code("127.0.0.1", "localhost:9883", Some(origin));
        assert_eq!(origin("http://localhost:9883"), None);
        for other in ["http://localhost", "http://localhost:3000", "null", "https://evil.example", "", "localhost:9883"]
        {
            assert_eq!(origin(other), Some("wrong-origin"), "{other}");
        }
    }

    #[test]
    fn two_hosts_are_none() {
        let gate = Gate { bound: "127.0.0.1".parse().unwrap(), machine: String::new() };
        let mut headers = HeaderMap::new();
        assert_eq!(gate.objection(&headers).map(|(code, _)| code), Some("wrong-host"));
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(gate.objection(&headers), None);
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(gate.objection(&headers).map(|(code, _)| code), Some("wrong-host"));
    }
}
