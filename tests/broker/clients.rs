//! Clients that others wrote: rumqttc in both versions, mosquitto_pub and mosquitto_sub.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

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

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_pub_and_sub_work() {
    if Command::new("mosquitto_sub").arg("--help").stdout(Stdio::null()).status().is_err() {
        eprintln!("mosquitto-clients is not installed; passed over");
        return;
    }
    let rig = Rig::new().await;
    let port = rig.address.port().to_string();
    for version in ["311", "5"] {
        let port = port.clone();
        tokio::task::spawn_blocking(move || mosquitto(&port, version)).await.unwrap();
    }
    until("all are gone", || rig.broker.listeners()[0].connections == 0).await;
}

fn mosquitto(port: &str, version: &str) {
    let common = ["-h", "127.0.0.1", "-p", port, "-V", version, "-q", "2", "-t", "s/m"];
    let publish = |more: &[&str]| {
        let status = Command::new("mosquitto_pub").args(common).args(more).stdin(Stdio::null()).status().unwrap();
        assert!(status.success(), "{status}");
    };
    publish(&["-m", "1", "-r"]);
    let mut sub = Command::new("mosquitto_sub");
    let mut sub = sub.args(common).args(["-C", "3", "-W", "20"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(sub.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The retained message says that the subscription is there.
    assert_eq!(lines.next().as_deref(), Some("1"));
    publish(&["-m", "2"]);
    publish(&["-m", "3"]);
    assert_eq!((lines.next().as_deref(), lines.next().as_deref()), (Some("2"), Some("3")));
    assert!(sub.wait().unwrap().success());
    publish(&["-r", "-n"]);
}
