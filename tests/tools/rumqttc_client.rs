//! A rumqttc client that publishes through a broker at every QoS and subscribes to its own messages; for the interop tests.
//!
//! `rumqttc_client HOST PORT 4|5 TOPIC COUNT`: exits 0 when every message came back once, unchanged and, within its
//! QoS, in order (MQTT 5, section 4.6 promises no more).

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::timeout;

/// Nothing in this conversation takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

macro_rules! conversation {
    ($name:ident, $($root:ident)::+, $($packets:ident)::+) => {
        async fn $name(host: &str, port: u16, topic: &str, count: usize) -> anyhow::Result<()> {
            use $($packets)::+::Packet;
            use $($root)::+::{AsyncClient, Event, MqttOptions};
            let qos = [qos::$name::AT_MOST_ONCE, qos::$name::AT_LEAST_ONCE, qos::$name::EXACTLY_ONCE];
            let mut options = MqttOptions::new(concat!("rumqttc-", stringify!($name)), host, port);
            options.set_keep_alive(Duration::from_secs(5));
            let (client, mut events) = AsyncClient::new(options, 10);
            client.subscribe(topic, qos[2]).await?;
            let mut sent = 0;
            let mut received = 0;
            let mut acknowledged = 0;
            // Message numbers go through the three levels in turn.
            let mut next = [0, 1, 2];
            let mut subscribed = false;
            while received < count || acknowledged < count {
                if subscribed && sent < count && sent < received + 5 {
                    client.try_publish(topic, qos[sent % 3], false, format!("message {sent}"))?;
                    // QoS 0 has no acknowledgement to wait for.
                    acknowledged += usize::from(sent % 3 == 0);
                    sent += 1;
                }
                let event = timeout(PATIENCE, events.poll())
                    .await
                    .with_context(|| format!("nothing more after {sent} sent, {received} received"))??;
                match event {
                    Event::Incoming(Packet::SubAck(_)) => subscribed = true,
                    Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => acknowledged += 1,
                    Event::Incoming(Packet::Publish(publish)) => {
                        let level = qos.iter().position(|qos| *qos == publish.qos).expect("one of three");
                        let want = format!("message {}", next[level]);
                        ensure!(publish.payload == want, "{:?} instead of {want}", publish.payload);
                        next[level] += 3;
                        received += 1;
                    }
                    _ => {}
                }
            }
            client.disconnect().await?;
            while timeout(PATIENCE, events.poll()).await.is_ok_and(|event| event.is_ok()) {}
            Ok(())
        }
    };
}

mod qos {
    pub(crate) mod v4 {
        pub(crate) use rumqttc::QoS::{
            AtLeastOnce as AT_LEAST_ONCE, AtMostOnce as AT_MOST_ONCE, ExactlyOnce as EXACTLY_ONCE,
        };
    }
    pub(crate) mod v5 {
        pub(crate) use rumqttc::v5::mqttbytes::QoS::{
            AtLeastOnce as AT_LEAST_ONCE, AtMostOnce as AT_MOST_ONCE, ExactlyOnce as EXACTLY_ONCE,
        };
    }
}

conversation!(v4, rumqttc, rumqttc);
conversation!(v5, rumqttc::v5, rumqttc::v5::mqttbytes::v5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, version, topic, count] = args.as_slice() else { bail!("HOST PORT 4|5 TOPIC COUNT") };
    let (port, count) = (port.parse()?, count.parse()?);
    match version.as_str() {
        "4" => v4(host, port, topic, count).await,
        "5" => v5(host, port, topic, count).await,
        _ => bail!("the version is 4 or 5"),
    }
}
