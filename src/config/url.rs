//! Addresses of upstreams: `mqtt://host:port` and `mqtts://host:port`, nothing more.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::uplink::Url;

/// Port of `mqtt://` where none is written (registered with IANA).
const MQTT_PORT: u16 = 1883;
/// Port of `mqtts://` where none is written (registered with IANA).
const MQTTS_PORT: u16 = 8883;

/// Reads an address; the error says what is wrong, and never repeats a password.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("expected a URL such as \"mqtts://mqtt.example.com:8883\"".to_owned());
    };
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "mqtt" => false,
        "mqtts" => true,
        "tcp" => return Err("expected `mqtt://` instead of `tcp://`".to_owned()),
        "ssl" | "tls" => return Err(format!("expected `mqtts://` instead of `{scheme}://`")),
        "ws" | "wss" => return Err("MQTT over WebSocket is not supported by this version".to_owned()),
        _ => return Err("expected `mqtt://` or `mqtts://`".to_owned()),
    };
    if rest.contains('@') {
        return Err("no user name or password here: write them as `username` and `password_file`".to_owned());
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("MQTT knows no path behind the host and port".to_owned());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(inside) => {
            let (host, port) = inside.split_once(']').ok_or("the `[` of the IPv6 address has no `]`")?;
            host.parse::<Ipv6Addr>().map_err(|_| "expected an IPv6 address in the brackets")?;
            (host, port)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if !host.contains(':') {
        check_host(host)?;
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default_port(tls),
        Some(number) => match number.parse() {
            Ok(0) | Err(_) => return Err("the port is a number from 1 to 65535".to_owned()),
            Ok(port) => port,
        },
        None => return Err("expected `:` and the port behind the host".to_owned()),
    };
    Ok(Url { tls, host: host.to_owned(), port })
}

/// The port of a URL that names none.
pub const fn default_port(tls: bool) -> u16 {
    if tls { MQTTS_PORT } else { MQTT_PORT }
}

fn check_host(host: &str) -> Result<(), String> {
    let digits_only = host.split('.').all(|label| label.bytes().all(|b| b.is_ascii_digit()));
    let label_fits = |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    if host.is_empty() {
        Err("the host is missing".to_owned())
    } else if !host.is_ascii() {
        Err("the host is not ASCII: write an international name in its `xn--` form".to_owned())
    } else if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        Err("the host has a character that no host name can have".to_owned())
    } else if host.len() > 253 || !host.strip_suffix('.').unwrap_or(host).split('.').all(label_fits) {
        Err("the host is no host name".to_owned())
    } else if digits_only && host.parse::<Ipv4Addr>().is_err() {
        Err("the host looks like an IPv4 address, but is none".to_owned())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_read() {
        let table = [
            ("mqtt://broker", (false, "broker", 1883)),
            ("mqtts://mqtt.example.com", (true, "mqtt.example.com", 8883)),
            ("MQTTS://mqtt.example.com:443/", (true, "mqtt.example.com", 443)),
            ("mqtt://10.0.0.7:1884", (false, "10.0.0.7", 1884)),
            ("mqtt://[::1]:1884", (false, "::1", 1884)),
            ("mqtts://[fe80::1]", (true, "fe80::1", 8883)),
        ];
        for (text, (tls, host, port)) in table {
            assert_eq!(parse(text), Ok(Url { tls, host: host.to_owned(), port }), "{text}");
        }
    }

    #[test]
    fn wrong_urls_say_what_would_be_right() {
        let table = [
            ("broker:1883", "expected a URL such as \"mqtts://mqtt.example.com:8883\""),
            ("tcp://broker", "expected `mqtt://` instead of `tcp://`"),
            ("ssl://broker", "expected `mqtts://` instead of `ssl://`"),
            ("ws://broker", "MQTT over WebSocket is not supported by this version"),
            ("http://broker", "expected `mqtt://` or `mqtts://`"),
            ("mqtt://me:secret@broker", "no user name or password here: write them as `username` and `password_file`"),
            ("mqtt://broker/path", "MQTT knows no path behind the host and port"),
            ("mqtt://", "the host is missing"),
            ("mqtt://broker:0", "the port is a number from 1 to 65535"),
            ("mqtt://broker:70000", "the port is a number from 1 to 65535"),
            ("mqtt://10.0.0.256", "the host looks like an IPv4 address, but is none"),
            ("mqtt://::1", "the host is missing"),
            ("mqtt://[::1", "the `[` of the IPv6 address has no `]`"),
            ("mqtt://[::1]1883", "expected `:` and the port behind the host"),
            ("mqtt://brüssel", "the host is not ASCII: write an international name in its `xn--` form"),
            ("mqtt://my broker", "the host has a character that no host name can have"),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), Err(expected.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in "(mqtts?://)?[\\[\\]:/.a1é-]{0,20}\\PC{0,9}") {
            let _ = parse(&text);
        }
    }
}
