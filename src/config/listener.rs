//! `[[listener]]` and `[admin]`: where the gateway itself listens.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
};

use super::{client_limits::read_client_limits, gateway::read_name, listener_tls::read_tls, section::Section, show};
use crate::{
    admin,
    broker::{
        Bind, DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_INFLIGHT, DEFAULT_MAX_PACKET, DEFAULT_UNIX_MODE, ListenerSettings,
        Transport,
    },
    named_file::Content,
};

pub(super) const LISTENER_KEYS: &[&str] = &[
    "name",
    "bind",
    "transport",
    "origins",
    "tls",
    "unix_mode",
    "anonymous",
    "max_connections",
    "max_packet",
    "max_inflight",
    "max_subscriptions",
    "max_queued_messages",
    "max_queued_bytes",
    "queue_when_full",
    "max_publish_rate",
    "max_keep_alive",
];
pub(super) const ADMIN_KEYS: &[&str] = &["bind", "token_file", "hosts"];

/// Name of the listener that is there when none is configured.
pub const DEFAULT_LISTENER_NAME: &str = "local";
/// Where it listens.
pub const DEFAULT_LISTENER_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1883);
/// Default of `admin.bind`.
pub const DEFAULT_ADMIN_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9883);

/// More would be more than the ports of one client address.
const MAX_CONNECTIONS: i64 = 65_535;
/// Smallest `max_packet`: room for a CONNECT with will and password.
const MIN_PACKET: u64 = 1 << 10;
/// Largest packet MQTT can say: 5 bytes of fixed header and 268 435 455 (MQTT 5, section 1.5.5).
const MAX_PACKET: u64 = 268_435_460;
/// Longest path of a unix socket that the kernel takes.
const MAX_SOCKET_PATH: usize = 107;

/// Reads one `[[listener]]`; `None` where it has no usable address.
pub(super) fn read_listener(section: &Section<'_>) -> Option<ListenerSettings> {
    let name = read_name(section);
    let bind = read_bind(section);
    let transport =
        section.choice("transport", Transport::Tcp, &[("tcp", Transport::Tcp), ("ws", Transport::WebSocket)]);
    let origins = read_origins(section, transport);
    let tls = read_tls(section);
    if matches!(bind, Some(Bind::Unix(_))) && section.has("tls") {
        section.refuse_unsaid("tls", "a unix socket does not leave this machine; expected `tls` on a `host:port` only");
    }
    let unix_mode = read_unix_mode(section, bind.as_ref());
    let local = match &bind {
        Some(Bind::Tcp(address)) => address.ip().is_loopback(),
        Some(Bind::Unix(_)) | None => true,
    };
    let anonymous = section.switch("anonymous", local);
    let max_packet = section.size("max_packet", DEFAULT_MAX_PACKET.into(), MIN_PACKET..=MAX_PACKET);
    let known = bind.is_some();
    let bare = ListenerSettings::new(name, bind.unwrap_or(Bind::Tcp(DEFAULT_LISTENER_BIND)));
    let listener = ListenerSettings {
        transport,
        origins,
        tls,
        unix_mode,
        anonymous,
        max_connections: section.integer("max_connections", DEFAULT_MAX_CONNECTIONS, 1..=MAX_CONNECTIONS).into(),
        max_packet: u32::try_from(max_packet).ok()?,
        max_inflight: section.integer("max_inflight", DEFAULT_MAX_INFLIGHT, 1..=65_535),
        ..read_client_limits(section, bare)
    };
    known.then_some(listener)
}

/// The listener that is there when none is configured.
pub(super) fn default_listener() -> ListenerSettings {
    ListenerSettings::new(DEFAULT_LISTENER_NAME, Bind::Tcp(DEFAULT_LISTENER_BIND))
}

fn read_bind(section: &Section<'_>) -> Option<Bind> {
    let expected = "an address such as \"127.0.0.1:1883\", or \"unix:/run/tidegate/mqtt.sock\"";
    let text = section.required_text("bind", expected)?;
    let Some(path) = text.value.strip_prefix("unix:") else {
        return address(section, &text.value, expected, 1883).map(Bind::Tcp);
    };
    if !path.starts_with('/') || path.len() > MAX_SOCKET_PATH || path.contains('\0') {
        section.refuse("bind", "expected an absolute path of at most 107 bytes after `unix:`");
        return None;
    }
    Some(Bind::Unix(PathBuf::from(path)))
}

/// Whose web pages may connect, as browsers write it in `Origin`.
fn read_origins(section: &Section<'_>, transport: Transport) -> Vec<String> {
    let expected = "an origin such as \"https://dash.example.com\" or \"http://10.0.0.7:3000\", or \"*\" for any";
    if section.has("origins") && transport != Transport::WebSocket {
        section.refuse_unsaid("origins", "is of no use without `transport = \"ws\"`");
    }
    let texts = section.texts("origins", expected).unwrap_or_default();
    for text in &texts {
        let rest = text.value.split_once("://").map(|(_, rest)| rest);
        let is_origin = rest.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', '*', ' ']));
        if !is_origin && text.value != "*" {
            let bare = text.value.trim_end_matches('/');
            let hint =
                (rest.is_some() && bare.matches('/').count() == 2).then(|| format!("without the path: {bare:?}"));
            section.refuse_text(text, format!("expected {expected}"), hint);
        }
    }
    texts.into_iter().map(|text| text.value).collect()
}

/// Mode of a socket file, in octal digits as for chmod.
fn read_unix_mode(section: &Section<'_>, bind: Option<&Bind>) -> u32 {
    let expected = "a mode in octal digits from \"0600\" to \"0777\", such as \"0660\"";
    let Some(text) = section.text("unix_mode", expected) else { return DEFAULT_UNIX_MODE };
    if matches!(bind, Some(Bind::Tcp(_))) {
        section.refuse("unix_mode", "is of no use without a unix socket in `bind`");
    }
    // Less than 0600 would shut out the gateway's own user.
    let mode = u32::from_str_radix(&text.value, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600);
    mode.unwrap_or_else(|| {
        section.refuse("unix_mode", format!("expected {expected}"));
        DEFAULT_UNIX_MODE
    })
}

/// Reads `[admin]`.
pub(super) fn read_admin(section: &Section<'_>) -> admin::Settings {
    let token_file = section.file("token_file", Content::Secret);
    let expected = "an address such as \"127.0.0.1:9883\", or \"off\"";
    let bind = match section.text("bind", expected) {
        None => Some(DEFAULT_ADMIN_BIND),
        Some(text) if text.value == "off" => None,
        Some(text) => address(section, &text.value, expected, 9883),
    };
    if bind.is_some_and(|bind| !bind.ip().is_loopback()) && !section.has("token_file") {
        section.refuse("token_file", "is missing; expected a file with a token, for `bind` is not a loopback address");
    }
    admin::Settings { bind, token_file, hosts: read_hosts(section) }
}

/// Names under which people reach `[admin]`, as a browser has them in `Host`: without scheme, port and path.
fn read_hosts(section: &Section<'_>) -> Vec<String> {
    let expected = "a host name such as \"gateway.plant.example\", without scheme and port";
    let texts = section.texts("hosts", expected).unwrap_or_default();
    for text in &texts {
        let is_name = |name: &str| {
            (1..=253).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        if !is_name(&text.value) {
            let bare = text.value.split_once("://").map_or(&*text.value, |(_, rest)| rest).split([':', '/']).next();
            let hint = bare.filter(|bare| is_name(bare)).map(|bare| format!("{bare:?}"));
            section.refuse_text(text, format!("expected {expected}"), hint);
        }
    }
    texts.into_iter().map(|text| text.value).collect()
}

fn address(section: &Section<'_>, text: &str, expected: &str, usual_port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let hint = match text.rsplit_once(':') {
        _ if text.parse::<u16>().is_ok() => format!("\"0.0.0.0:{text}\" or \"127.0.0.1:{text}\""),
        _ if text.parse::<Ipv6Addr>().is_ok() => format!("\"[{text}]:{usual_port}\""),
        None => format!("the port is missing: \"{}:{usual_port}\"", show::key(text)),
        Some(("" | "*", port)) => format!("for all addresses: \"0.0.0.0:{}\"", show::key(port)),
        Some((host, port)) => match port.parse::<u16>() {
            Err(_) => "the port is a number from 0 to 65535".to_owned(),
            Ok(port) => match (host, port).to_socket_addrs().map(|mut found| found.next()) {
                Ok(Some(address)) => return Some(address),
                Ok(None) => "this name has no address".to_owned(),
                Err(error) => {
                    let hint = format!("this name cannot be resolved: {error}");
                    section.refuse_for_now("bind", format!("expected {expected}"), hint);
                    return None;
                }
            },
        },
    };
    section.refuse_with_hint("bind", format!("expected {expected}"), Some(hint));
    None
}
