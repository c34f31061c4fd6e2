//! `[[uplink]]`: connections to upstream brokers.

use std::{ops::RangeInclusive, time::Duration};

use super::{gateway::read_name, section::Section, url};
use crate::{
    message::QoS,
    named_file::Content,
    uplink::{Backoff, Settings, Url, Version},
};

pub(super) const KEYS: &[&str] = &[
    "name",
    "url",
    "urls",
    "version",
    "client_id",
    "username",
    "password_file",
    "ca",
    "cert",
    "key",
    "alpn",
    "qos",
    "max_inflight",
    "keep_alive",
    "connect_timeout",
    "progress_timeout",
    "backoff",
    "rate",
];
pub(super) const BACKOFF_KEYS: &[&str] = &["min", "max"];
pub(super) const RATE_KEYS: &[&str] = &["messages_per_s", "bytes_per_s"];

/// Default of `version`.
pub const DEFAULT_VERSION: Version = Version::V5;
/// Default of `qos`.
pub const DEFAULT_QOS: QoS = QoS::AtLeastOnce;
/// Default of an uplink's `max_inflight`.
pub const DEFAULT_UPLINK_MAX_INFLIGHT: u16 = 256;
/// Default of `keep_alive`.
pub const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Default of `connect_timeout`.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Default of `progress_timeout`.
pub const DEFAULT_PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// Default of `backoff`.
pub const DEFAULT_BACKOFF: Backoff = Backoff { min: Duration::from_millis(500), max: Duration::from_secs(60) };
/// Default of `rate.messages_per_s`: no limit.
pub const DEFAULT_MESSAGES_PER_S: u64 = 0;
/// Default of `rate.bytes_per_s`: no limit.
pub const DEFAULT_BYTES_PER_S: u64 = 0;

const SHORT_TO_LONG: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const BACKOFF_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(24 * 3600);
/// Longest client id and user name (MQTT 5, section 1.5.4).
const MAX_STRING: usize = 65_535;
/// Longest name of a protocol in a TLS handshake (RFC 7301, section 3.1).
const MAX_ALPN: usize = 255;

/// Reads one `[[uplink]]`; `None` where it has no usable address.
pub(super) fn read(section: &Section<'_>, gateway_id: &str) -> Option<Settings> {
    let name = read_name(section);
    let urls = read_urls(section);
    let version = section.choice("version", DEFAULT_VERSION, &[("5", Version::V5), ("3.1.1", Version::V311)]);
    let tls = urls.iter().any(|url| url.tls);
    let username = read_string(section, "username");
    let password_file = section.file("password_file", Content::Secret);
    if username.is_none() && password_file.is_some() && version == Version::V311 {
        section.refuse("password_file", "needs a `username` too: MQTT 3.1.1 has no password without one");
    }
    let credentials_in_clear =
        password_file.is_some() && urls.iter().any(|url| !url.tls && !is_this_machine(&url.host));
    if credentials_in_clear {
        section.warn("password_file", "an address is `mqtt://`, so the password travels where others can read it");
    }
    let ca = section.file("ca", Content::Certificates);
    let identity = (section.file("cert", Content::Certificates), section.file("key", Content::PrivateKey));
    for key in ["ca", "cert", "key", "alpn"].into_iter().filter(|key| section.has(key) && !tls && !urls.is_empty()) {
        section.refuse(key, "is of no use without an `mqtts://` address");
    }
    match (section.has("cert"), section.has("key")) {
        (true, false) => section.refuse("key", "is missing; expected the private key that belongs to `cert`"),
        (false, true) => section.refuse("cert", "is missing; expected the certificate that belongs to `key`"),
        (true, true) | (false, false) => {}
    }
    let rate = section.section("rate", RATE_KEYS);
    let settings = Settings {
        name,
        urls,
        version,
        client_id: read_string(section, "client_id").unwrap_or_else(|| gateway_id.to_owned()),
        username,
        password_file,
        ca,
        identity: identity.0.zip(identity.1),
        alpn: read_alpn(section),
        qos: read_qos(section),
        max_inflight: section.integer("max_inflight", DEFAULT_UPLINK_MAX_INFLIGHT, 1..=65_535),
        keep_alive: section.keep_alive("keep_alive", DEFAULT_KEEP_ALIVE, "none"),
        connect_timeout: section.duration("connect_timeout", DEFAULT_CONNECT_TIMEOUT, SHORT_TO_LONG),
        progress_timeout: section.duration("progress_timeout", DEFAULT_PROGRESS_TIMEOUT, SHORT_TO_LONG),
        backoff: read_backoff(&section.section("backoff", BACKOFF_KEYS)),
        messages_per_s: rate.integer("messages_per_s", DEFAULT_MESSAGES_PER_S, 0..=i64::MAX),
        bytes_per_s: rate.size("bytes_per_s", DEFAULT_BYTES_PER_S, 0..=u64::MAX),
    };
    (!settings.urls.is_empty()).then_some(settings)
}

fn read_urls(section: &Section<'_>) -> Vec<Url> {
    let expected = "a URL such as \"mqtts://mqtt.example.com:8883\"";
    let texts = section.texts("urls", expected);
    match (section.has("url"), section.has("urls")) {
        (true, true) => section.refuse_unsaid("urls", "there is a `url` too; expected one of the two"),
        (false, false) => section.refuse("url", format!("is missing; expected {expected}")),
        (false, true) if texts.as_ref().is_some_and(Vec::is_empty) => {
            section.refuse("urls", format!("expected at least {expected}"));
        }
        (true, false) | (false, true) => {}
    }
    let mut texts = texts.unwrap_or_default();
    texts.extend(section.text("url", expected));
    let mut urls = Vec::with_capacity(texts.len());
    for text in &texts {
        match url::parse(&text.value) {
            Ok(url) => urls.push(url),
            // What was said may have a password in it.
            Err(expected) if text.value.contains('@') => section.refuse_text_unsaid(text, expected),
            Err(expected) => section.refuse_text(text, expected, None),
        }
    }
    urls
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn read_string(section: &Section<'_>, key: &str) -> Option<String> {
    let text = section.text(key, "a text that is not empty")?.value;
    if text.len() > MAX_STRING || text.contains('\0') {
        section.refuse(key, "expected at most 65535 bytes without a NUL character");
    }
    Some(text)
}

fn read_alpn(section: &Section<'_>) -> Option<String> {
    let text = section.text("alpn", "the name of a protocol, such as \"x-amzn-mqtt-ca\"")?.value;
    if text.len() > MAX_ALPN {
        section.refuse("alpn", "expected at most 255 bytes");
    }
    Some(text)
}

fn read_qos(section: &Section<'_>) -> QoS {
    QoS::from_number(section.integer("qos", DEFAULT_QOS.number(), 0..=2)).unwrap_or(DEFAULT_QOS)
}

fn read_backoff(section: &Section<'_>) -> Backoff {
    let min = section.duration("min", DEFAULT_BACKOFF.min, BACKOFF_BOUNDS);
    let max = section.duration("max", DEFAULT_BACKOFF.max.max(min), BACKOFF_BOUNDS);
    if min > max {
        section.refuse("min", "expected not more than `max`");
    }
    Backoff { min, max }
}
