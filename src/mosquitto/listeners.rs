//! Listeners of a mosquitto.conf into ours. What would be less safe than it was is written as a comment instead.

use std::{fmt::Write as _, path::Path};

use super::{
    notes::{
        Became::{Carried, Differs, Lost, NotNeeded},
        Book,
    },
    reader::beside,
    render,
    sections::{Section, Sections},
};

/// Most clients of a listener of ours.
const CONNECTIONS_MAX: i64 = 65_535;
/// Room for topic and properties beside a payload.
const HEADER_BYTES: i64 = 1024;
/// Smallest and largest packet that we can be told of.
const PACKET_BYTES: std::ops::RangeInclusive<i64> = 1024..=268_435_460;

/// What guards a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Security {
    pub(super) password_file: Option<usize>,
    pub(super) acl_file: Option<usize>,
}

/// All listeners, rendered.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) toml: String,
    /// What guards them all.
    pub(super) security: Security,
    /// Whether one of them takes its clients' names from certificates.
    pub(super) certificates: bool,
    /// How many are in use.
    pub(super) count: usize,
}

pub(super) fn convert(book: &mut Book, sections: &Sections, config: &Path) -> Listeners {
    let mut all = Listeners::default();
    let mut names = Vec::new();
    let limits = limits(book, &sections.global);
    let is_local =
        sections.listeners.iter().all(|listener| listener.start.is_none() && listener.value(book, "port").is_none());
    for (index, section) in sections.listeners.iter().enumerate() {
        let guard = if sections.per_listener { section } else { &sections.global };
        let security =
            Security { password_file: guard.line(book, "password_file"), acl_file: guard.line(book, "acl_file") };
        let anonymous = guard.switch(book, "allow_anonymous").unwrap_or(is_local);
        guard.say(book, "allow_anonymous", Carried, "`anonymous` of the listener");
        let Some(bind) = bind(book, section, is_local) else { continue };
        let name = render::name(&default_name(book, section, &bind), &names);
        names.push(name.clone());
        let mut objections = Vec::new();
        let of = Of { section, config };
        let transport = transport(book, section);
        let tls = tls(book, &of, &mut all.certificates, &mut objections);
        if index == 0 {
            all.security = security;
        } else if values(book, &security) != values(book, &all.security) {
            objections.push(
                "it has users or rules of its own, and there is one `[auth]` for all; run a second gateway for it"
                    .to_owned(),
            );
            for line in [security.password_file, security.acl_file].into_iter().flatten() {
                book.say(line, Lost, "there is one `[auth]` for all listeners; run a second gateway for this one");
            }
        }
        let place = section.start.map_or_else(|| "Mosquitto's default".to_owned(), |line| book.place(line));
        let mut toml =
            format!("[[listener]] # {place}\nname = {}\nbind = {}\n", render::text(&name), render::text(&bind));
        toml.push_str(&transport);
        // Writing to a String cannot fail.
        let _ = writeln!(toml, "anonymous = {anonymous}");
        toml.push_str(&tls);
        toml.push_str(&connections(book, section));
        toml.push_str(&limits);
        add(book, &mut all, section, &toml, &objections);
    }
    all
}

/// A listener with something against it stays a comment.
fn add(book: &mut Book, all: &mut Listeners, section: &Section, toml: &str, objections: &[String]) {
    all.toml.push('\n');
    if objections.is_empty() {
        all.toml.push_str(toml);
        all.count += 1;
        if let Some(line) = section.start {
            book.say(line, Carried, "a `[[listener]]`");
        }
        return;
    }
    let why = objections.join("; ");
    let _ = writeln!(
        all.toml,
        "# This listener is left out, for it would be open to more than it was: {}",
        render::comment(&why)
    );
    for line in toml.lines() {
        let _ = writeln!(all.toml, "#{line}");
    }
    if let Some(line) = section.start {
        book.say(line, Lost, format!("this listener is left out, as a comment: {why}"));
    }
}

struct Of<'a> {
    section: &'a Section,
    config: &'a Path,
}

/// What the files are, rather than where they were named.
fn values(book: &Book, security: &Security) -> (Option<String>, Option<String>) {
    let value = |line: Option<usize>| line.map(|line| book.value(line).to_owned());
    (value(security.password_file), value(security.acl_file))
}

fn default_name(book: &Book, section: &Section, bind: &str) -> String {
    let kind = if section.value(book, "protocol") == Some("websockets") { "ws" } else { "mqtt" };
    match bind.strip_prefix("unix:") {
        Some(_) => "unix".to_owned(),
        None => format!("{kind}-{}", bind.rsplit(':').next().unwrap_or_default()),
    }
}

/// Where it listens; `None`, and a word on its line, where that makes no sense.
fn bind(book: &mut Book, section: &Section, is_local: bool) -> Option<String> {
    let everywhere = match section.value(book, "socket_domain") {
        Some("ipv6") => "[::]",
        _ => "0.0.0.0",
    };
    section.say(book, "socket_domain", Carried, "the address of `bind`");
    let Some(start) = section.start else {
        let port = section.value(book, "port").unwrap_or("1883").to_owned();
        let host = section.value(book, "bind_address").map(bracketed);
        for key in ["port", "bind_address"] {
            section.say(book, key, Carried, "`bind` of the first listener");
        }
        let host = host.unwrap_or_else(|| if is_local { "127.0.0.1" } else { everywhere }.to_owned());
        return Some(format!("{host}:{port}"));
    };
    let words: Vec<String> = book.value(start).split_whitespace().map(str::to_owned).collect();
    let (port, host) = (words.first().map_or("", String::as_str), words.get(1));
    match (port.parse::<u16>(), host) {
        (Ok(0), Some(path)) => Some(format!("unix:{path}")),
        (Err(_), _) | (Ok(0), None) => {
            book.say(start, Lost, "expected a port from 1 to 65535, or 0 and the path of a unix socket");
            None
        }
        (Ok(port), Some(host)) => Some(format!("{}:{port}", bracketed(host))),
        (Ok(port), None) => {
            if everywhere == "0.0.0.0" {
                book.say(start, Differs, "listens on all IPv4 addresses; for IPv6 too write `bind = \"[::]:PORT\"`");
            }
            Some(format!("{everywhere}:{port}"))
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn transport(book: &mut Book, section: &Section) -> String {
    let Some(line) = section.line(book, "protocol") else { return String::new() };
    match book.value(line) {
        "mqtt" => {
            book.say(line, NotNeeded, "it is the default");
            String::new()
        }
        "websockets" => {
            book.say(line, Carried, "`transport = \"ws\"`");
            "transport = \"ws\"\n".to_owned()
        }
        _ => {
            book.say(line, Lost, "expected `mqtt` or `websockets`");
            String::new()
        }
    }
}

fn tls(book: &mut Book, of: &Of<'_>, certificates: &mut bool, objections: &mut Vec<String>) -> String {
    let Of { section, config } = of;
    let require = section.switch(book, "require_certificate").unwrap_or(false);
    let by_name = section.switch(book, "use_identity_as_username").unwrap_or(false);
    let by_subject = section.switch(book, "use_subject_as_username").unwrap_or(false);
    let file = |book: &Book, key: &str| {
        section.value(book, key).map(|path| beside(config, Path::new(path)).display().to_string())
    };
    let (cert, key, ca) = (file(book, "certfile"), file(book, "keyfile"), file(book, "cafile"));
    let psk = ["psk_file", "psk_hint", "use_psk"].iter().any(|key| section.line(book, key).is_some());
    let (Some(cert), Some(key)) = (cert, key) else {
        if psk {
            objections.push("it was protected by pre-shared keys, which Tidegate does not have".to_owned());
        }
        for key in [
            "certfile",
            "keyfile",
            "cafile",
            "require_certificate",
            "use_identity_as_username",
            "use_subject_as_username",
        ] {
            section.say(book, key, Lost, "TLS needs both `certfile` and `keyfile`");
        }
        if ["certfile", "keyfile"].iter().any(|key| section.line(book, key).is_some()) {
            objections.push("it has one of `certfile` and `keyfile` only, so there is no TLS".to_owned());
        }
        return String::new();
    };
    for key in ["certfile", "keyfile"] {
        section.say(book, key, Carried, "`tls` of the listener");
    }
    let mut inner = format!("cert = {}, key = {}", render::text(&cert), render::text(&key));
    match (require, ca) {
        (true, Some(ca)) => {
            *certificates = true;
            let _ = write!(inner, ", client_ca = {}, require_client_cert = true, identity = \"cn\"", render::text(&ca));
            for key in ["cafile", "require_certificate"] {
                section.say(book, key, Carried, "`tls` of the listener");
            }
            client_names(book, section, by_name, by_subject);
        }
        (true, None) => {
            objections.push("it asks for certificates of clients, and no `cafile` says who signs them".to_owned());
            section.say(book, "require_certificate", Lost, "needs a `cafile`");
        }
        (false, _) => {
            section.say(book, "cafile", NotNeeded, "certificates of clients are not asked for");
            for key in ["require_certificate", "use_identity_as_username", "use_subject_as_username"] {
                section.say(book, key, NotNeeded, "certificates of clients are not asked for");
            }
        }
    }
    format!("tls = {{ {inner} }}\n")
}

/// Whose name a client with a certificate has.
fn client_names(book: &mut Book, section: &Section, by_name: bool, by_subject: bool) {
    if by_name {
        let said = "a client is `cert:NAME` in rules, NAME being the common name of its certificate";
        section.say(book, "use_identity_as_username", Carried, said);
        return;
    }
    section.say(book, "use_identity_as_username", Differs, "the name in a client's certificate is always its name");
    if by_subject {
        let said = "a client's name is the common name of its certificate, not the whole subject: correct the users of acl.toml";
        section.say(book, "use_subject_as_username", Lost, said);
    } else {
        let said = "with Tidegate a certificate is enough: a user name and password that come with it are not looked at, and the client is \
                    `cert:NAME` in rules. Where both were needed, add rules for `cert:NAME`";
        section.say(book, "require_certificate", Differs, said);
    }
}

fn connections(book: &mut Book, section: &Section) -> String {
    match section.number(book, "max_connections") {
        Some((most, line)) if most > 0 => {
            book.say(line, Carried, "`max_connections` of the listener");
            format!("max_connections = {}\n", most.min(CONNECTIONS_MAX))
        }
        Some((_, line)) => {
            book.say(line, Differs, "there is always a limit: 1000 by default, 65535 at most");
            String::new()
        }
        None => String::new(),
    }
}

/// Limits that Mosquitto has once and we have for each listener.
fn limits(book: &mut Book, global: &Section) -> String {
    let mut out = String::new();
    let mut set = |book: &mut Book, line: usize, key: &str, value: String| {
        book.say(line, Carried, format!("`{key}` of every listener"));
        let _ = writeln!(out, "{key} = {value}");
    };
    let packet = global.number(book, "max_packet_size").filter(|(bytes, _)| *bytes > 0);
    let payload = global.number(book, "message_size_limit").filter(|(bytes, _)| *bytes > 0);
    let payload = payload.map(|(bytes, line)| (bytes.saturating_add(HEADER_BYTES), line));
    if let Some((bytes, line)) = packet.or(payload) {
        let bounded = bytes.clamp(*PACKET_BYTES.start(), *PACKET_BYTES.end());
        set(book, line, "max_packet", bounded.to_string());
    }
    for key in ["max_packet_size", "message_size_limit"] {
        let said = "`max_packet` is 256KiB where nothing else is said, and counts the whole packet";
        global.say(book, key, Differs, said);
    }
    if let Some((most, line)) = global.number(book, "max_inflight_messages") {
        if (1..=65_535).contains(&most) {
            set(book, line, "max_inflight", most.to_string());
        } else {
            book.say(line, Differs, "there is always a limit: 1000 by default");
        }
    }
    for key in ["max_queued_messages", "max_queued_bytes"] {
        if let Some((most, line)) = global.number(book, key).filter(|(most, _)| *most >= 0) {
            set(book, line, key, most.to_string());
        }
    }
    if let Some((seconds, line)) =
        global.number(book, "max_keepalive").filter(|(seconds, _)| (0..=65_535).contains(seconds))
    {
        set(book, line, "max_keep_alive", format!("\"{seconds}s\""));
    }
    out
}
