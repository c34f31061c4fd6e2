//! What a real Mosquitto refuses: logins, topics, sizes.

use std::time::Duration;

use tidegate::{message::QoS, uplink::Version};

use crate::{
    broker::{Broker, free_port, write_private},
    gateway::{Gateway, message, number, settings},
};

#[tokio::test]
async fn a_changed_password_file_is_used_at_the_next_try() {
    let dir = tempfile::tempdir().unwrap();
    let passwords = dir.path().join("passwords");
    write_private(&passwords, "plant-7:right\n");
    let made = std::process::Command::new("mosquitto_passwd").arg("-U").arg(&passwords).status().unwrap();
    assert!(made.success());
    let config = format!("allow_anonymous false\npassword_file {}", passwords.display());
    let broker = Broker::start_in(dir, free_port(), &config).await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=10).await;
    let ours = tempfile::tempdir().unwrap();
    let password_file = ours.path().join("password");
    std::fs::write(&password_file, "wrong\n").unwrap();
    let mut settings = settings(broker.port);
    settings.username = Some("plant-7".to_owned());
    settings.password_file = Some(password_file.clone());
    gateway.start(settings);
    let error = gateway.until_error("refused").await;
    assert!(error.contains("not authorized (code 0x87)"), "{error}");
    std::fs::remove_file(&password_file).unwrap();
    gateway.until_error("password file").await;
    std::fs::write(&password_file, "right\r\nsecond line\n").unwrap();
    assert_eq!(gateway.drained(0).await.forwarded, 10);
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn topics_that_the_upstream_denies_end_in_the_dead_letters() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl");
    write_private(&acl, "topic readwrite up/plant-7/s/good\ntopic read up/#\n");
    let config = format!("allow_anonymous true\nacl_file {}", acl.display());
    let broker = Broker::start_in(dir, free_port(), &config).await;
    let mut subscriber = broker.subscribe("up/#").await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut gateway = Gateway::new(&["s"]);
        let topic = |number: u64| if number % 10 == 5 { "s/bad" } else { "s/good" };
        let messages = (1..=100).map(|number| message(topic(number), number.to_string())).collect();
        gateway.publish(0, messages).await;
        let mut settings = settings(broker.port);
        settings.qos = qos;
        gateway.start(settings);
        let books = gateway.drained(0).await;
        assert_eq!((books.forwarded, &books.dead[..]), (90, &[("refused".to_owned(), 10)][..]), "{qos:?}");
        let mut good = Vec::new();
        while good.last() != Some(&100) {
            good.push(number(&subscriber.next().await));
        }
        assert_eq!(good, (1..=100).filter(|number| number % 10 != 5).collect::<Vec<_>>());
        gateway.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn messages_too_large_for_the_upstream_do_not_hold_up_the_others() {
    let broker = Broker::start("allow_anonymous true\nmax_packet_size 2000").await;
    for version in [Version::V5, Version::V311] {
        let mut gateway = Gateway::new(&["s"]);
        let size = |number: u64| if number == 50 { 3000 } else { 0 };
        let payload = |number| format!("{number} {}", "x".repeat(size(number)));
        gateway.publish(0, (1..=100).map(|number| message("s/x", payload(number))).collect()).await;
        let mut settings = settings(broker.port);
        settings.version = version;
        gateway.start(settings);
        let books = gateway.drained(0).await;
        // MQTT 3.1.1 upstreams do not say their limit; they hang up.
        let reason = if version == Version::V5 { "too-large" } else { "hung-up" };
        assert_eq!((books.forwarded, &books.dead[..]), (99, &[(reason.to_owned(), 1)][..]), "{version:?}");
        gateway.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn retained_messages_stay_retained() {
    let broker = Broker::anonymous().await;
    let mut gateway = Gateway::new(&["s"]);
    let mut retained = message("s/x", "42");
    retained.retain = true;
    gateway.publish(0, vec![retained]).await;
    gateway.start(settings(broker.port));
    gateway.drained(0).await;
    let publish = broker.subscribe("up/#").await.next().await;
    assert!(publish.retain && number(&publish) == 42);
    gateway.stop(Duration::from_secs(5)).await;
}
