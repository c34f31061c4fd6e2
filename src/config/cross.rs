//! Checks that take more than one table: names used twice, addresses used twice, loops, what surely is not meant.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use super::{Stream, gateway::is_name, section::Section};
use crate::{
    admin,
    broker::{Bind, ListenerSettings},
    store::{self, WhenFull},
    uplink,
};

/// Notes every name that an entry before has already, saying where.
pub(super) fn unique_names(kind: &str, sections: &[Section<'_>]) {
    let mut seen: HashMap<&str, &Section<'_>> = HashMap::new();
    for section in sections {
        let Some(name) = section.name().filter(|name| is_name(name)) else { continue };
        match seen.get(name) {
            Some(first) => {
                let place = first.place_of("name").map(|place| format!(" at {place}")).unwrap_or_default();
                section.refuse("name", format!("is the name of another {kind}{place}; expected a name of its own"));
            }
            None => {
                seen.insert(name, section);
            }
        }
    }
}

/// Notes listeners that want the same address as one before, or as `[admin]`.
pub(super) fn unique_addresses(
    listeners: &[(&Section<'_>, ListenerSettings)],
    admin: (&Section<'_>, &admin::Settings),
) {
    for (index, (section, listener)) in listeners.iter().enumerate() {
        let same = |(_, other): &&(&Section<'_>, ListenerSettings)| collide(&listener.bind, &other.bind);
        if let Some((_, other)) = listeners[..index].iter().find(same) {
            section.refuse("bind", format!("listener {:?} has this address already", other.name));
        }
    }
    let Some(bind) = admin.1.bind else { return };
    if let Some((_, other)) = listeners.iter().find(|(_, listener)| collide(&listener.bind, &Bind::Tcp(bind))) {
        admin.0.refuse("bind", format!("{bind}: listener {:?} has this address already", other.name));
    }
}

/// Whether two addresses cannot be listened on at the same time. Port 0 is another port every time.
fn collide(one: &Bind, other: &Bind) -> bool {
    match (one, other) {
        (Bind::Unix(one), Bind::Unix(other)) => one == other,
        (Bind::Tcp(one), Bind::Tcp(other)) => {
            let overlap = one.ip() == other.ip()
                || (one.is_ipv4() == other.is_ipv4() && (one.ip().is_unspecified() || other.ip().is_unspecified()));
            one.port() == other.port() && one.port() != 0 && overlap
        }
        (Bind::Tcp(_), Bind::Unix(_)) | (Bind::Unix(_), Bind::Tcp(_)) => false,
    }
}

/// Notes uplinks that lead back into this gateway: a message would go round until the disk is full.
pub(super) fn no_loops(uplinks: &[(&Section<'_>, uplink::Settings)], listeners: &[ListenerSettings]) {
    for (section, uplink) in uplinks {
        let own = uplink.urls.iter().find_map(|url| {
            let host = match url.host.as_str() {
                "localhost" => IpAddr::from([127, 0, 0, 1]),
                host => host.parse().ok()?,
            };
            let target = SocketAddr::new(host, url.port);
            listeners.iter().find(|listener| reaches(target, &listener.bind))
        });
        if let Some(listener) = own {
            let key = if section.has("url") { "url" } else { "urls" };
            section.refuse(key, format!("leads back to the listener {:?} of this gateway", listener.name));
        }
    }
}

fn reaches(target: SocketAddr, bind: &Bind) -> bool {
    match bind {
        Bind::Tcp(address) => {
            let same_host = address.ip() == target.ip() || (address.ip().is_unspecified() && target.ip().is_loopback());
            address.port() == target.port() && same_host
        }
        Bind::Unix(_) => false,
    }
}

/// Warns of uplinks that take each other's place: a broker allows a client id once.
pub(super) fn distinct_client_ids(uplinks: &[(&Section<'_>, uplink::Settings)]) {
    for (index, (section, uplink)) in uplinks.iter().enumerate() {
        let rival = uplinks[..index].iter().find(|(_, other)| {
            other.client_id == uplink.client_id && other.urls.iter().any(|url| uplink.urls.contains(url))
        });
        if let Some((_, rival)) = rival {
            let why = format!(
                "the same as that of the uplink {:?} to the same broker, which will disconnect one for the other; \
                 expected a `client_id` of its own",
                rival.name
            );
            section.warn("client_id", why);
        }
    }
}

/// Warns of uplinks that nothing uses.
pub(super) fn used_uplinks(uplinks: &[(&Section<'_>, uplink::Settings)], used: &[String]) {
    for (section, uplink) in uplinks {
        if !used.contains(&uplink.name) {
            section.warn(
                "name",
                "no stream goes to this uplink, and no downlink comes from it: it will connect and send nothing",
            );
        }
    }
}

/// Warns of limits of a stream that cannot work as they are meant.
pub(super) fn stream_limits(
    section: &Section<'_>,
    stream: &Stream,
    store: &store::Settings,
    listeners: &[ListenerSettings],
) {
    let Some(max_bytes) = stream.max_bytes else { return };
    if store.max_bytes > 0 && max_bytes > store.max_bytes && stream.when_full != WhenFull::Reject {
        let why = "more than `store.max_bytes`: the whole store is full first, and then everything is refused";
        section.warn("max_bytes", why);
    }
    let largest = listeners.iter().map(|listener| u64::from(listener.max_packet)).max().unwrap_or(0);
    if max_bytes < largest {
        section.warn("max_bytes", "less than a listener's `max_packet`: a large message will never fit");
    }
}
