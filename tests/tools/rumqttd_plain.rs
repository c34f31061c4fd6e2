//! A plain rumqttd, for comparison in tests/bench: its broker with the settings of its own sample configuration, and nothing else.
//!
//! `rumqttd_plain PORT`: MQTT 3.1.1 on loopback, until it is killed. Its optional features (TLS, WebSocket) are left out, as in our build.

use std::{collections::HashMap, net::Ipv4Addr};

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let port: u16 = std::env::args().nth(1).context("usage: rumqttd_plain PORT")?.parse()?;
    let server = rumqttd::ServerSettings {
        name: "v4-1".to_owned(),
        listen: (Ipv4Addr::LOCALHOST, port).into(),
        tls: None,
        next_connection_delay_ms: 1,
        connections: rumqttd::ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 20_480,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = rumqttd::Config {
        router: rumqttd::RouterConfig {
            max_connections: 10_010,
            max_outgoing_packet_count: 200,
            max_segment_size: 104_857_600,
            max_segment_count: 10,
            ..rumqttd::RouterConfig::default()
        },
        v4: Some(HashMap::from([("1".to_owned(), server)])),
        ..rumqttd::Config::default()
    };
    rumqttd::Broker::new(config).start().context("rumqttd")
}
