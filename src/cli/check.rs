//! `tidegate check`: reads the configuration, prints every problem or a summary of what it would do.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{CONFIG, complain, print, refuse, table::layout};
use crate::{
    broker::{Bind, Transport},
    config::{self, Config, Problem, Qos0, Stream},
    downlink, log,
    store::{Durability, WhenFull},
    topic::TopicFilter,
    units::{format_duration, format_size},
    uplink::{self, Version},
};

/// Reads the configuration and prints every problem, or a summary of what it would do.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Configuration file [default: /etc/tidegate/tidegate.toml, if it is there]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints one JSON object: {"ok", "problems", "summary"}
    #[arg(long)]
    json: bool,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    match (config::load_beside(arguments.config.as_deref()), arguments.json) {
        (Ok(config), false) => {
            print(&summary(&config));
            for warning in &config.warnings {
                complain(&format!("{warning}\n"));
            }
            ExitCode::SUCCESS
        }
        (Ok(config), true) => {
            print_json(&config.warnings, Some(&summary_json(&config)));
            ExitCode::SUCCESS
        }
        (Err(refused), false) => refuse(&refused),
        (Err(refused), true) => {
            print_json(&refused.0, None);
            ExitCode::from(CONFIG)
        }
    }
}

fn print_json(problems: &[Problem], summary: Option<&Value>) {
    let object = json!({ "ok": summary.is_some(), "problems": problems, "summary": summary });
    print(&format!("{object:#}\n"));
}

fn summary(config: &Config) -> String {
    let files: Vec<String> = config.files.iter().map(|file| file.display().to_string()).collect();
    let store = &config.store;
    let facts = [
        ("files", if files.is_empty() { "none: built-in defaults".to_owned() } else { files.join(", ") }),
        ("gateway", config.gateway_id.clone()),
        ("data folder", store.data_dir.display().to_string()),
        ("durability", format!("{} ({})", durability_word(store.durability), durability_meaning(store.durability))),
        (
            "store limit",
            format!("{}, leaving {} free on its disk", limit(store.max_bytes), format_size(store.min_free)),
        ),
        ("users", config.broker.access.users.as_ref().map_or("none".to_owned(), |users| users.len().to_string())),
        (
            "rules",
            config
                .broker
                .access
                .rules
                .as_ref()
                .map_or("none: everybody may everything".to_owned(), |rules| rules.len().to_string()),
        ),
        ("admin", config.admin.bind.map_or("off".to_owned(), |bind| format!("http://{bind}"))),
        ("log", format!("{} ({})", config.log.level, format_word(config.log.format))),
    ];
    let facts: Vec<String> = facts.iter().map(|(name, fact)| format!("{name:12} {fact}")).collect();
    let mut out = facts.join("\n");
    out.push_str("\n\n");
    out.push_str(&listeners(config));
    out.push('\n');
    out.push_str(&client_limits(config));
    if !config.uplinks.is_empty() {
        out.push('\n');
        out.push_str(&uplinks(config));
    }
    out.push('\n');
    if config.streams.is_empty() {
        out.push_str("no streams: nothing is stored and nothing goes upstream\n");
    } else {
        out.push_str(&streams(config));
    }
    if !config.downlinks.is_empty() {
        out.push('\n');
        out.push_str(&downlinks(config));
    }
    out
}

fn listeners(config: &Config) -> String {
    let row = |listener: &crate::broker::ListenerSettings| {
        [
            listener.name.clone(),
            format!("{}{}", scheme(listener), bind_text(&listener.bind)),
            open_to(listener, config),
            listener.max_connections.to_string(),
            format_size(listener.max_packet.into()),
            listener.max_inflight.to_string(),
        ]
    };
    let rows: Vec<_> = config.broker.listeners.iter().map(row).collect();
    layout(["LISTENER", "ADDRESS", "OPEN TO", "CONNECTIONS", "PACKET", "IN FLIGHT"], &rows, &[0, 1, 2])
}

/// What clients write before the address.
const fn scheme(listener: &crate::broker::ListenerSettings) -> &'static str {
    match (listener.transport, listener.tls.is_some()) {
        (Transport::Tcp, false) => "",
        (Transport::Tcp, true) => "mqtts://",
        (Transport::WebSocket, false) => "ws://",
        (Transport::WebSocket, true) => "wss://",
    }
}

/// Whom a listener lets in.
fn open_to(listener: &crate::broker::ListenerSettings, config: &Config) -> String {
    let tls = listener.tls.as_ref().filter(|tls| tls.client_ca.is_some());
    let by_certificate = match tls {
        Some(tls) if tls.require_client_cert => return "certificates".to_owned(),
        tls => tls.map(|_| "certificates"),
    };
    let users = config.broker.access.users.as_ref().map(|_| "users");
    let open = if listener.anonymous { Some("anybody") } else { users };
    let words: Vec<&str> = open.into_iter().chain(by_certificate).collect();
    if words.is_empty() { "nobody".to_owned() } else { words.join(", ") }
}

fn client_limits(config: &Config) -> String {
    let count = |number: u64| if number == 0 { "no limit".to_owned() } else { number.to_string() };
    let row = |listener: &crate::broker::ListenerSettings| {
        let keep_alive = Duration::from_secs(listener.max_keep_alive_s.into());
        [
            listener.name.clone(),
            listener.max_subscriptions.to_string(),
            count(listener.max_queued_messages),
            limit(listener.max_queued_bytes),
            when_full_word(listener.queue_when_full).to_owned(),
            match listener.max_publish_rate {
                0 => "no limit".to_owned(),
                rate => format!("{rate} a second"),
            },
            if keep_alive.is_zero() { "no limit".to_owned() } else { format_duration(keep_alive) },
        ]
    };
    let rows: Vec<_> = config.broker.listeners.iter().map(row).collect();
    let head = ["CLIENTS OF", "FILTERS", "QUEUED", "BYTES", "WHEN FULL", "PUBLISHES", "KEEP ALIVE"];
    layout(head, &rows, &[0])
}

fn uplinks(config: &Config) -> String {
    let row = |uplink: &uplink::Settings| {
        [
            uplink.name.clone(),
            uplink.urls.iter().map(url_text).collect::<Vec<_>>().join(" "),
            version_word(uplink.version).to_owned(),
            uplink.client_id.clone(),
            uplink.qos.number().to_string(),
            uplink.max_inflight.to_string(),
        ]
    };
    let rows: Vec<_> = config.uplinks.iter().map(row).collect();
    layout(["UPLINK", "ADDRESS", "MQTT", "CLIENT ID", "QOS", "IN FLIGHT"], &rows, &[0, 1, 3])
}

fn streams(config: &Config) -> String {
    let row = |stream: &Stream| {
        [
            stream.name.clone(),
            stream.from.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            uplink_name(config, stream).unwrap_or("(kept here)").to_owned(),
            stream.priority.to_string(),
            stream.ttl.map_or("for ever".to_owned(), format_duration),
            stream.max_messages.map_or("no limit".to_owned(), |limit| limit.to_string()),
            limit(stream.max_bytes.unwrap_or(0)),
            when_full_word(stream.when_full).to_owned(),
        ]
    };
    let rows: Vec<_> = config.streams.iter().map(row).collect();
    layout(["STREAM", "FROM", "TO", "PRIORITY", "KEPT", "MESSAGES", "BYTES", "WHEN FULL"], &rows, &[0, 1, 2])
}

fn downlinks(config: &Config) -> String {
    let row = |downlink: &downlink::Settings| {
        [
            downlink.name.clone(),
            config.uplinks.get(downlink.from).map_or_else(String::new, |uplink| uplink.name.clone()),
            downlink.filters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            downlink.qos.number().to_string(),
            format_duration(downlink.ttl),
        ]
    };
    let rows: Vec<_> = config.downlinks.iter().map(row).collect();
    layout(["DOWNLINK", "FROM", "FILTER", "QOS", "WAITS"], &rows, &[0, 1, 2])
}

fn summary_json(config: &Config) -> Value {
    let listeners = config.broker.listeners.iter().map(|listener| {
        json!({
            "name": listener.name, "bind": bind_text(&listener.bind), "anonymous": listener.anonymous,
            "transport": match listener.transport { Transport::Tcp => "tcp", Transport::WebSocket => "ws" },
            "tls": listener.tls.is_some(), "origins": listener.origins,
            "max_connections": listener.max_connections, "max_packet": listener.max_packet,
            "max_inflight": listener.max_inflight, "max_subscriptions": listener.max_subscriptions,
            "max_queued_messages": listener.max_queued_messages, "max_queued_bytes": listener.max_queued_bytes,
            "queue_when_full": when_full_word(listener.queue_when_full),
            "max_publish_rate": listener.max_publish_rate, "max_keep_alive_seconds": listener.max_keep_alive_s,
        })
    });
    let uplinks = config.uplinks.iter().map(|uplink| {
        json!({
            "name": uplink.name, "urls": uplink.urls.iter().map(url_text).collect::<Vec<_>>(),
            "version": version_word(uplink.version), "client_id": uplink.client_id, "qos": uplink.qos.number(),
            "max_inflight": uplink.max_inflight,
        })
    });
    let streams = config.streams.iter().map(|stream| {
        json!({
            "name": stream.name, "to": uplink_name(config, stream), "priority": stream.priority,
            "from": stream.from.iter().map(TopicFilter::as_str).collect::<Vec<_>>(),
            "except": stream.except.iter().map(TopicFilter::as_str).collect::<Vec<_>>(),
            "ttl_seconds": stream.ttl.as_ref().map(Duration::as_secs_f64), "max_messages": stream.max_messages,
            "max_bytes": stream.max_bytes, "when_full": when_full_word(stream.when_full),
            "qos0": match stream.qos0 { Qos0::Store => "store", Qos0::LiveOnly => "live-only" },
        })
    });
    let downlinks = config.downlinks.iter().map(|downlink| {
        json!({
            "name": downlink.name, "from": config.uplinks.get(downlink.from).map(|uplink| &uplink.name),
            "filter": downlink.filters.iter().map(TopicFilter::as_str).collect::<Vec<_>>(),
            "qos": downlink.qos.number(), "ttl_seconds": downlink.ttl.as_secs_f64(),
        })
    });
    json!({
        "files": config.files, "gateway": config.gateway_id, "data_dir": config.store.data_dir,
        "durability": durability_word(config.store.durability), "max_bytes": config.store.max_bytes,
        "min_free": config.store.min_free,
        "users": config.broker.access.users.as_ref().map(|users| users.len()),
        "rules": config.broker.access.rules.as_ref().map(|rules| rules.len()), "admin": config.admin.bind,
        "log": { "level": config.log.level, "format": format_word(config.log.format) },
        "listeners": listeners.collect::<Vec<_>>(), "uplinks": uplinks.collect::<Vec<_>>(),
        "streams": streams.collect::<Vec<_>>(), "downlinks": downlinks.collect::<Vec<_>>(),
    })
}

fn uplink_name<'c>(config: &'c Config, stream: &Stream) -> Option<&'c str> {
    Some(config.uplinks.get(stream.to?)?.name.as_str())
}

fn limit(bytes: u64) -> String {
    if bytes == 0 { "no limit".to_owned() } else { format_size(bytes) }
}

fn bind_text(bind: &Bind) -> String {
    match bind {
        Bind::Tcp(address) => address.to_string(),
        Bind::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn url_text(url: &uplink::Url) -> String {
    let scheme = if url.tls { "mqtts" } else { "mqtt" };
    if url.host.contains(':') {
        format!("{scheme}://[{}]:{}", url.host, url.port)
    } else {
        format!("{scheme}://{}:{}", url.host, url.port)
    }
}

const fn durability_word(durability: Durability) -> &'static str {
    match durability {
        Durability::Full => "full",
        Durability::Process => "process",
    }
}

const fn durability_meaning(durability: Durability) -> &'static str {
    match durability {
        Durability::Full => "what is acknowledged survives a power cut",
        Durability::Process => "what is acknowledged survives a crash of the process, not a power cut",
    }
}

const fn version_word(version: Version) -> &'static str {
    match version {
        Version::V5 => "5",
        Version::V311 => "3.1.1",
    }
}

const fn when_full_word(when_full: WhenFull) -> &'static str {
    match when_full {
        WhenFull::Reject => "reject",
        WhenFull::DropOldest => "drop-oldest",
        WhenFull::DropNewest => "drop-newest",
    }
}

fn format_word(format: log::Format) -> &'static str {
    log::FORMATS.iter().find(|(_, known)| *known == format).map_or("", |(word, _)| word)
}
