//! Which requests are heard at all: none that a web page of another site has its reader's browser make.
//!
//! A browser lets any page send a POST to any address that its machine can reach, and with a name that resolves to loopback (DNS rebinding)
//! a page can even read the answers. Without a token, which is allowed on loopback only, nothing else stands between such a page and the streams.
//! So every request but those for health needs, beside the token where there is one,
//!
//! - a `Host` that no attacker's name server can point at us: an address of ours, `localhost`, the name of this machine, or a name in
//!   `hosts` of `[admin]`;
//! - where it may change something (all but GET and HEAD): no `Origin`, as programs send none, or that of this very `Host` (the gateway's own pages);
//! - not to be part of a page of another site, as browsers say by themselves (`Sec-Fetch-Site`): such a page could not read the answer, but
//!   take the places of those who follow the events. To go here by a link is fine.
//!
//! Health takes any `Host`: load balancers and kubelets put there what they like, and what a page could learn is that a gateway is here.
//! No answer has CORS headers, so that no page of another site can read one, and preflights (OPTIONS) get 405.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State as Shared},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{HOST, ORIGIN},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::routes::{Failure, State};

/// Where the page is from that a browser makes a request for.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// What it does it for.
const SEC_FETCH_MODE: &str = "sec-fetch-mode";

/// What `Host` may say.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    bound: IpAddr,
    /// The first label of this machine's name; empty where it has none.
    machine: String,
    /// Other names of ours, in lower case.
    hosts: Vec<String>,
}

impl Gate {
    /// The gate of a room that listens on this address and is known under these names too.
    pub(super) fn new(bound: SocketAddr, hosts: &[String]) -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { bound: bound.ip(), machine: first_label(name.trim()).to_owned(), hosts }
    }

    /// Why a request to this address with these headers is not heard; `None` if it is. `changes`: it may change something.
    fn objection(&self, uri: &Uri, headers: &HeaderMap, changes: bool) -> Option<(&'static str, String)> {
        let one = |name: &str| {
            let mut values = headers.get_all(name).iter();
            let value = values.next().map(|value| value.to_str().unwrap_or("?"));
            if values.next().is_some() { Some("?") } else { value }
        };
        let host = one(HOST.as_str()).unwrap_or_default();
        // `GET http://name/ HTTP/1.1`, as proxies are asked: that name counts for as much as the header's (RFC 9112, section 3.2.2).
        let asked = uri.authority().map_or(host, Authority::as_str);
        if let Some(wrong) = [host, asked].into_iter().find(|name| !self.is_ours(name)) {
            let message = format!(
                "`Host: {wrong}` is not this gateway; use its address, `localhost`, this machine's name, or add the name to `hosts` of [admin]"
            );
            return Some(("wrong-host", message));
        }
        let is_foreign = one(SEC_FETCH_SITE).is_some_and(|site| !["same-origin", "none"].contains(&site));
        if is_foreign && one(SEC_FETCH_MODE) != Some("navigate") {
            return Some((
                "wrong-origin",
                "this is for the gateway's own pages, not for those of another site".to_owned(),
            ));
        }
        let origin = one(ORIGIN.as_str()).filter(|_| changes)?;
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
        self.hosts.contains(&name)
            || name == "localhost"
            || name.ends_with(".localhost")
            || is_machine && (!self.bound.is_loopback() || name.eq_ignore_ascii_case(&self.machine))
    }
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// Refuses what a page of another site may have sent.
pub(super) async fn check(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    let changes = ![Method::GET, Method::HEAD].contains(request.method());
    match state.gate().objection(request.uri(), request.headers(), changes) {
        Some((code, message)) => Failure::new(StatusCode::FORBIDDEN, code, message).into_response(),
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn code(bound: &str, host: &str, origin: Option<&str>) -> Option<&'static str> {
        let hosts = vec!["tidegate.plant.example".to_owned()];
        let gate = Gate { bound: bound.parse().unwrap(), machine: "gw7".to_owned(), hosts };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap()));
        gate.objection(&Uri::from_static("/"), &headers, true).map(|(code, _)| code)
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
            ("127.0.0.1", "Tidegate.Plant.example:80", None),
            ("127.0.0.1", "x.tidegate.plant.example", Some("wrong-host")),
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
    fn the_name_in_the_request_line_counts_too_and_reading_needs_no_origin() {
        let gate = Gate::new("127.0.0.1:9883".parse().unwrap(), &[]);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(ORIGIN, HeaderValue::from_static("http://evil.example"));
        let code = |uri, changes| gate.objection(&Uri::from_static(uri), &headers, changes).map(|(code, _)| code);
        assert_eq!(code("/metrics", false), None);
        assert_eq!(code("http://localhost/metrics", false), None);
        assert_eq!(code("http://evil.example/metrics", false), Some("wrong-host"));
        assert_eq!(code("/metrics", true), Some("wrong-origin"));
    }

    #[test]
    fn no_part_of_another_sites_page_takes_a_place() {
        let gate = Gate::new("127.0.0.1:9883".parse().unwrap(), &[]);
        let code = |site, mode| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("localhost"));
            headers.insert(SEC_FETCH_SITE, HeaderValue::from_static(site));
            headers.insert(SEC_FETCH_MODE, HeaderValue::from_static(mode));
            gate.objection(&Uri::from_static("/api/v1/events"), &headers, false).map(|(code, _)| code)
        };
        for site in ["cross-site", "same-site", "?"] {
            assert_eq!(code(site, "no-cors"), Some("wrong-origin"), "{site}");
            assert_eq!(code(site, "cors"), Some("wrong-origin"), "{site}");
        }
        assert_eq!(code("cross-site", "navigate"), None, "a link");
        assert_eq!((code("same-origin", "cors"), code("none", "navigate")), (None, None));
    }

    #[test]
    fn two_hosts_are_none() {
        let gate = Gate { bound: "127.0.0.1".parse().unwrap(), machine: String::new(), hosts: Vec::new() };
        let objection = |headers: &HeaderMap| gate.objection(&Uri::from_static("/"), headers, true);
        let mut headers = HeaderMap::new();
        assert_eq!(objection(&headers).map(|(code, _)| code), Some("wrong-host"));
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(objection(&headers), None);
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(objection(&headers).map(|(code, _)| code), Some("wrong-host"));
    }
}
