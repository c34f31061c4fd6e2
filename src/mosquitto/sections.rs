//! Lines into sections, as Mosquitto reads them: what is a listener's goes to the last `listener`, what is a bridge's to the last `connection`.

use super::{
    keys,
    notes::{Became, Book},
};

/// Settings of a listener that the importer knows.
const LISTENER_KEYS: [&str; 10] = [
    "protocol",
    "certfile",
    "keyfile",
    "cafile",
    "require_certificate",
    "use_identity_as_username",
    "use_subject_as_username",
    "max_connections",
    "socket_domain",
    "capath",
];
/// Settings of security: a listener's own where `per_listener_settings` says so, everybody's otherwise.
const SECURITY_KEYS: [&str; 3] = ["allow_anonymous", "password_file", "acl_file"];
/// Settings of everything.
const GLOBAL_KEYS: [&str; 8] = [
    "max_packet_size",
    "message_size_limit",
    "max_inflight_messages",
    "max_queued_messages",
    "max_queued_bytes",
    "max_keepalive",
    "log_type",
    "per_listener_settings",
];
/// Settings of a bridge that the importer knows.
const BRIDGE_KEYS: [&str; 23] = [
    "address",
    "addresses",
    "topic",
    "remote_clientid",
    "clientid",
    "remote_username",
    "username",
    "remote_password",
    "password",
    "bridge_alpn",
    "bridge_cafile",
    "bridge_capath",
    "bridge_certfile",
    "bridge_keyfile",
    "bridge_insecure",
    "bridge_protocol_version",
    "bridge_psk",
    "bridge_identity",
    "keepalive_interval",
    "notifications",
    "restart_timeout",
    "round_robin",
    "bridge_require_certificate",
];

/// A listener or a bridge: the lines that are about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// The line that begins it; `None` for the listener that no line begins.
    pub(super) start: Option<usize>,
    lines: Vec<usize>,
}

/// All of a configuration.
#[derive(Debug, Default)]
pub(super) struct Sections {
    /// What is for everything.
    pub(super) global: Section,
    pub(super) listeners: Vec<Section>,
    pub(super) bridges: Vec<Section>,
    pub(super) per_listener: bool,
}

impl Section {
    /// The last line with this key.
    pub(super) fn line(&self, book: &Book, key: &str) -> Option<usize> {
        self.lines.iter().rev().copied().find(|line| book.lines[*line].key == key)
    }

    /// All lines with this key.
    pub(super) fn all(&self, book: &Book, key: &str) -> Vec<usize> {
        self.lines.iter().copied().filter(|line| book.lines[*line].key == key).collect()
    }

    /// The value of the last line with this key.
    pub(super) fn value<'b>(&self, book: &'b Book, key: &str) -> Option<&'b str> {
        self.line(book, key).map(|line| book.value(line))
    }

    /// A `true` or `false`; something else is noted.
    pub(super) fn switch(&self, book: &mut Book, key: &str) -> Option<bool> {
        let line = self.line(book, key)?;
        match book.value(line) {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                book.say(line, Became::Lost, "expected `true` or `false`");
                None
            }
        }
    }

    /// A number, and its line; something else is noted.
    pub(super) fn number(&self, book: &mut Book, key: &str) -> Option<(i64, usize)> {
        let line = self.line(book, key)?;
        let number = book.value(line).parse().ok();
        if number.is_none() {
            book.say(line, Became::Lost, "expected a number");
        }
        Some((number?, line))
    }

    /// Says something of the last line with this key, where there is one.
    pub(super) fn say(&self, book: &mut Book, key: &str, became: Became, said: &str) {
        if let Some(line) = self.line(book, key) {
            book.say(line, became, said);
        }
    }
}

/// Puts every line where it belongs. Those that stay nowhere get their word here, or are unknown.
pub(super) fn sort(book: &mut Book) -> Sections {
    let per_listener = book.lines.iter().any(|line| line.key == "per_listener_settings" && line.value == "true");
    let mut all = Sections { per_listener, ..Sections::default() };
    // Before the first `listener`: the one that `port` and `bind_address` make.
    let mut default = Section::default();
    let mut has_default = false;
    for at in 0..book.lines.len() {
        let key = book.lines[at].key.clone();
        let key = key.as_str();
        match key {
            "listener" => all.listeners.push(Section { start: Some(at), lines: Vec::new() }),
            "connection" => all.bridges.push(Section { start: Some(at), lines: Vec::new() }),
            "port" | "bind_address" => {
                default.lines.push(at);
                has_default = true;
            }
            key if GLOBAL_KEYS.contains(&key) || !all.per_listener && SECURITY_KEYS.contains(&key) => {
                all.global.lines.push(at);
            }
            key if LISTENER_KEYS.contains(&key) || SECURITY_KEYS.contains(&key) => {
                all.listeners.last_mut().unwrap_or(&mut default).lines.push(at);
            }
            key if BRIDGE_KEYS.contains(&key) => match all.bridges.last_mut() {
                Some(bridge) => bridge.lines.push(at),
                None => book.say(at, Became::Lost, "belongs to a bridge, and none is begun (`connection NAME`)"),
            },
            key => {
                if let Some((became, text)) = keys::said(key) {
                    book.say(at, became, text);
                }
                // What is told of a listener's key bears on the listener, too.
                let is_listeners = ["psk_file", "psk_hint", "use_psk"].contains(&key);
                if let Some(listener) = all.listeners.last_mut().filter(|_| is_listeners) {
                    listener.lines.push(at);
                } else if is_listeners {
                    default.lines.push(at);
                }
            }
        }
    }
    if has_default || all.listeners.is_empty() {
        all.listeners.insert(0, default);
    } else {
        for line in default.lines {
            if SECURITY_KEYS.contains(&book.lines[line].key.as_str()) {
                book.say(
                    line,
                    Became::Lost,
                    "belongs to no listener: it stands before the first, and settings are each listener's own",
                );
            } else {
                book.say(line, Became::Lost, "belongs to no listener: it stands before the first");
            }
        }
    }
    all
}
