//! What those who are in may publish, subscribe and get.

use super::{
    plant::{Files, Login, PASSWORDS, plant, rules},
    rig::*,
};

const REFUSED: &str = "tidegate_broker_refused_total";

fn files(rules: &str) -> Files<'_> {
    Files { users: Some(PASSWORDS.to_vec()), rules: Some(rules) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_published_is_refused_in_the_words_of_each_version() {
    let acl = rules(&["allow anne publish s/%c/#", "allow bert subscribe #", "allow bert publish #"]);
    let rig = plant(false, &files(&acl)).await;
    let mut watcher = Login::of("w", "bert", "treb").enter(&rig, 5).await;
    watcher.subscribe(5, "#", 0).await;
    let mut old = Login::of("old", "anne", "enna").enter(&rig, 4).await;
    let mut new = Login::of("new", "anne", "enna").enter(&rig, 5).await;
    // QoS 0: dropped. QoS 1 and 2: the acknowledgement of 3.1.1 says nothing, that of MQTT 5 does.
    for (client, version, answers) in [
        (&mut old, 4, ["40 02 0001", "50 02 0002", "70 02 0002"]),
        (&mut new, 5, ["40 03 0001 87", "50 03 0002 87", "70 03 0002 92"]),
    ] {
        client.send_bytes(&publish(version, 0, "s/other/x", 0, b"0")).await;
        client.send_bytes(&publish(version, 2, "s/other/x", 1, b"1")).await;
        client.expect(answers[0]).await;
        client.send_bytes(&publish(version, 4, "s/other/x", 2, b"2")).await;
        client.expect(answers[1]).await;
        client.send("62 02 0002").await;
        client.expect(answers[2]).await;
        // The packet ids are free, and what is allowed goes on as ever.
        client.send_bytes(&publish(version, 4, if version == 4 { "s/old/x" } else { "s/new/x" }, 2, b"ok")).await;
        assert_eq!(client.packet().await[..4], [0x50, 2, 0, 2]);
        client.send("62 02 0002").await;
        client.expect("70 02 0002").await;
    }
    for topic in ["s/old/x", "s/new/x"] {
        watcher.expect_bytes(&publish(5, 0, topic, 0, b"ok")).await;
    }
    watcher.expect_quiet().await;
    assert_eq!(rig.metric(REFUSED, "acl-publish"), 6);
    assert_eq!(rig.backlog(), 2, "what is refused does not get into streams");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_cannot_be_set_or_deleted_without_the_right() {
    let acl = rules(&["allow anne publish #", "allow * subscribe #"]);
    let rig = plant(false, &files(&acl)).await;
    let mut owner = Login::of("a", "anne", "enna").enter(&rig, 4).await;
    owner.send_bytes(&publish(4, 3, "kept", 1, b"mine")).await;
    owner.expect("40 02 0001").await;
    let mut other = Login::of("b", "bert", "treb").enter(&rig, 5).await;
    for payload in [&b""[..], b"yours"] {
        other.send_bytes(&publish(5, 3, "kept", 1, payload)).await;
        other.expect("40 03 0001 87").await;
    }
    other.subscribe(5, "kept", 0).await;
    other.expect_bytes(&publish(5, 1, "kept", 0, b"mine")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_refused_where_nothing_could_come_and_else_bring_only_what_is_allowed() {
    let acl = rules(&[
        "deny anne subscribe s/secret/#",
        "allow anne subscribe s/#",
        "allow bert publish #",
        "allow bert publish $SYS/#",
    ]);
    let rig = plant(false, &files(&acl)).await;
    let mut source = Login::of("b", "bert", "treb").enter(&rig, 4).await;
    for topic in ["s/kept", "s/secret/kept", "t/kept"] {
        source.send_bytes(&publish(4, 3, topic, 1, b"r")).await;
        source.expect("40 02 0001").await;
    }
    for (version, denied) in [(4, 0x80), (5, 0x87)] {
        let mut client = Login::of("a", "anne", "enna").enter(&rig, version).await;
        for filter in ["t/#", "s/secret/x", "s/secret/#", "$SYS/#"] {
            client.send_bytes(&subscribe(version, 7, filter, 0)).await;
            assert_eq!(*client.packet().await.last().unwrap(), denied, "{filter}");
        }
        client.subscribe(version, "#", 1).await;
        client.expect_bytes(&publish(version, 3, "s/kept", 1, b"r")).await;
        client.send("40 02 0001").await;
        client.expect_quiet().await;
        for topic in ["t/x", "s/secret/x", "s/x"] {
            source.send_bytes(&publish(4, 2, topic, 1, b"live")).await;
            source.expect("40 02 0001").await;
        }
        client.expect_bytes(&publish(version, 2, "s/x", 2, b"live")).await;
        client.expect_quiet().await;
    }
    assert_eq!(rig.metric(REFUSED, "acl-subscribe"), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_full_of_wildcards_gets_nothing_by_it() {
    let acl = rules(&["allow * publish,subscribe s/%c/#", "allow anonymous publish,subscribe open"]);
    let rig = plant(true, &files(&acl)).await;
    for id in ["+", "#", "a/b"] {
        let mut client = rig.connected(5, id).await;
        for filter in ["s/#", "s/a/#", "s/+/#", "s/a/b/#", "#"] {
            client.send_bytes(&subscribe(5, 7, filter, 0)).await;
            // `open` alone is left, and only `#` could bring it.
            assert_eq!(*client.packet().await.last().unwrap(), if filter == "#" { 0 } else { 0x87 }, "{id} {filter}");
        }
        client.send_bytes(&publish(5, 2, "s/a/b", 1, b"x")).await;
        client.expect("40 03 0001 87").await;
        client.subscribe(5, "open", 0).await;
    }
    rig.connected(5, "a").await.subscribe(5, "s/#", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_session_is_not_given_to_somebody_else_who_takes_it_over() {
    let acl = rules(&["allow anne subscribe s/#", "allow bert publish #"]);
    let rig = plant(false, &files(&acl)).await;
    let anne = Login { keep: true, ..Login::of("shared", "anne", "enna") };
    let mut client = anne.enter(&rig, 4).await;
    client.subscribe(4, "s/#", 1).await;
    client.send("E0 00").await;
    client.expect_closed().await;
    let mut source = Login::of("b", "bert", "treb").enter(&rig, 4).await;
    source.send_bytes(&publish(4, 2, "s/x", 1, b"for anne")).await;
    source.expect("40 02 0001").await;
    let mut thief = Login { keep: true, ..Login::of("shared", "carl", "lrac") }.say(&rig, 4).await;
    thief.expect_connack(4, true).await;
    until("the message is not sent", || rig.metric("tidegate_broker_dropped_total", "not-authorized") == 1).await;
    thief.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_delivered_takes_no_room_in_the_queue_of_who_is_away() {
    let acl = rules(&["allow anne subscribe s/#", "allow bert publish #"]);
    let rig = plant(false, &files(&acl)).await;
    let anne = Login { keep: true, ..Login::of("a", "anne", "enna") };
    let mut client = anne.enter(&rig, 4).await;
    client.subscribe(4, "#", 1).await;
    client.send("E0 00").await;
    client.expect_closed().await;
    let mut source = Login::of("b", "bert", "treb").enter(&rig, 4).await;
    for number in 1..=1500 {
        source.send_bytes(&publish(4, 2, "other", number, b"x")).await;
        source.packet().await;
    }
    source.send_bytes(&publish(4, 2, "s/x", 1, b"for anne")).await;
    source.expect("40 02 0001").await;
    let mut client = anne.say(&rig, 4).await;
    client.expect_connack(4, true).await;
    client.expect_bytes(&publish(4, 2, "s/x", 1, b"for anne")).await;
    assert_eq!(rig.metric("tidegate_broker_dropped_total", "not-authorized"), 0);
}
