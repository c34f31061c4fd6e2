//! Clients that others wrote: rumqttc in both versions.

use std::time::Duration;

use tokio::time::timeout;

use super::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_publishes_and_subscribes_with_3_1_1() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
    let rig = Rig::new().await;
    let mut options = MqttOptions::new("r", "127.0.0.1", rig.address.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 100);
    client.subscribe("s/+", QoS::ExactlyOnce).await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("s/a", qos, false, format!("{qos:?}")).await.unwrap();
    }
    let got = timeout(DEADLINE, async {
        let mut got = Vec::new();
        while got.len() < 3 {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
            }
        }
        got
    });
    assert_eq!(got.await.unwrap(), ["AtMostOnce", "AtLeastOnce", "ExactlyOnce"]);
    assert_eq!(rig.backlog(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_publishes_and_subscribes_with_5() {
    use rumqttc::v5::{AsyncClient, Event, MqttOptions, mqttbytes::QoS, mqttbytes::v5::Packet};
    let rig = Rig::new().await;
    let (client, mut events) = AsyncClient::new(MqttOptions::new("r", "127.0.0.1", rig.address.port()), 100);
    client.subscribe("s/+", QoS::ExactlyOnce).await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("s/a", qos, false, format!("{qos:?}")).await.unwrap();
    }
    let got = timeout(DEADLINE, async {
        let mut got = Vec::new();
        while got.len() < 3 {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
            }
        }
        got
    });
    assert_eq!(got.await.unwrap(), ["AtMostOnce", "AtLeastOnce", "ExactlyOnce"]);
}
