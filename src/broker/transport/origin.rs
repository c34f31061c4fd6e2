//! Which web pages may connect over WebSocket.
//!
//! A browser lets any page of any site open a WebSocket to any address that the browser's machine can reach, and says in
//! `Origin` which site it was. Mosquitto takes them all. That is right where clients must show a password, for a page does not
//! know it. But an anonymous listener on loopback is open because only programs of this machine reach it, and a browser breaks
//! that: a page somewhere in the internet, open on the operator's desk, could publish to the plant. So there
//!
//! - a request without `Origin` comes from a program and is taken, as everywhere;
//! - a page from this machine is taken (`http://localhost:3000`);
//! - any other is refused, `null` too, which any page can make its browser say.
//!
//! `Host` is not asked: after DNS rebinding it names the attacker's site as `Origin` does. `origins` in the
//! listener's settings replaces the rule, for a reverse proxy in front of a loopback listener, or to be stricter elsewhere.
//!
//! Where `anonymous = true` was set away from loopback, pages are taken: who wrote that has opened the listener to everybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::broker::{Bind, ListenerSettings};

/// Which origins a listener takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origins<'s> {
    Any,
    ThisMachine,
    Only(&'s [String]),
}

impl<'s> Origins<'s> {
    pub(super) fn of(listener: &'s ListenerSettings) -> Self {
        let is_loopback = matches!(&listener.bind, Bind::Tcp(address) if address.ip().is_loopback());
        if listener.origins.iter().any(|origin| origin == "*") {
            Self::Any
        } else if !listener.origins.is_empty() {
            Self::Only(&listener.origins)
        } else if listener.anonymous && is_loopback {
            Self::ThisMachine
        } else {
            Self::Any
        }
    }

    /// Whether a page of this origin (scheme, host and port, as browsers write it) may connect.
    pub(super) fn take(self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::ThisMachine => is_this_machine(origin),
            Self::Only(origins) => origins.iter().any(|one| one.eq_ignore_ascii_case(origin)),
        }
    }
}

fn is_this_machine(origin: &str) -> bool {
    let Some((_, rest)) = origin.split_once("://") else { return false };
    let host = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(host, _)| host),
        None => rest.split_once(':').map_or(rest, |(host, _)| host),
    };
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => Ipv4Addr::is_loopback(&ip),
        Ok(IpAddr::V6(ip)) => Ipv6Addr::is_loopback(&ip),
        // Browsers resolve these to loopback themselves and never ask a name server.
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(bind: &str, anonymous: bool, origins: &[&str]) -> ListenerSettings {
        let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        let settings = ListenerSettings::new("l", Bind::Tcp(bind.parse().unwrap()));
        ListenerSettings { origins, anonymous, ..settings }
    }

    fn taken(listener: &ListenerSettings, origins: &[&str]) -> Vec<bool> {
        origins.iter().map(|origin| Origins::of(listener).take(origin)).collect()
    }

    #[test]
    fn pages_of_other_sites_reach_no_anonymous_loopback_listener() {
        let near = [
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:80",
            "http://dash.localhost",
            "http://LOCALHOST",
        ];
        let far = [
            "https://evil.example",
            "null",
            "",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example:80",
            "http://[::1",
            "http://192.168.0.1",
            "file://",
            "evil://x@localhost",
            "http://[2001:db8::1]",
        ];
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let anonymous = listener(bind, true, &[]);
            assert_eq!(taken(&anonymous, &near), [true; 5]);
            assert_eq!(taken(&anonymous, &far), [false; 10]);
        }
        for open in [
            listener("127.0.0.1:0", false, &[]),
            listener("0.0.0.0:0", true, &[]),
            listener("127.0.0.1:0", true, &["*"]),
        ] {
            assert_eq!(taken(&open, &far), [true; 10]);
        }
    }

    #[test]
    fn named_origins_replace_the_rule() {
        let listener = listener("127.0.0.1:0", true, &["https://dash.example:8443"]);
        let origins =
            ["https://dash.example:8443", "HTTPS://Dash.example:8443", "https://dash.example", "http://localhost"];
        assert_eq!(taken(&listener, &origins), [true, true, false, false]);
    }
}
