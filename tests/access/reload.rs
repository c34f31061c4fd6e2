//! What a reload does to those who are in.

use super::{
    plant::{Files, Login, PASSWORDS, plant, reload, rules},
    rig::*,
};

const REFUSED: &str = "tidegate_broker_refused_total";

fn files(rules: &str) -> Files<'_> {
    Files { users: Some(PASSWORDS.to_vec()), rules: Some(rules) }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_or_has_another_password_is_sent_away_and_the_others_notice_nothing() {
    let users = |users: &[(&'static str, &'static str)]| Files { users: Some(users.to_vec()), rules: None };
    let rig = plant(true, &users(&PASSWORDS)).await;
    let mut anne =
        [Login::of("a4", "anne", "enna").enter(&rig, 4).await, Login::of("a5", "anne", "enna").enter(&rig, 5).await];
    let mut bert =
        [Login::of("b4", "bert", "treb").enter(&rig, 4).await, Login::of("b5", "bert", "treb").enter(&rig, 5).await];
    let mut carl = Login::of("c5", "carl", "lrac").enter(&rig, 5).await;
    let mut nobody = rig.connected(4, "n4").await;
    let applied = reload(&rig, true, &users(&[("bert", "new"), ("carl", "lrac")]));
    assert_eq!(applied.disconnected, 4);
    for [old, new] in [&mut anne, &mut bert] {
        old.expect_closed().await;
        new.expect("E0 01 87").await;
        new.expect_closed().await;
    }
    carl.expect_quiet().await;
    nobody.expect_quiet().await;
    assert_eq!(rig.metric(REFUSED, "access-revoked"), 4);
    // What was remembered of the old passwords is worth nothing.
    Login::of("a4", "anne", "enna").is_refused(&rig, (4, 0x86)).await;
    Login::of("b4", "bert", "treb").is_refused(&rig, (4, 0x86)).await;
    let mut bert = Login::of("b4", "bert", "new").enter(&rig, 4).await;
    bert.expect_quiet().await;
    assert_eq!(
        reload(&rig, false, &users(&[("bert", "new"), ("carl", "lrac")])).disconnected,
        2,
        "bert's hash, and nobody"
    );
    bert.expect_closed().await;
    nobody.expect_closed().await;
    carl.expect_quiet().await;
    Login { id: "n4", ..Login::default() }.is_refused(&rig, (5, 0x87)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_change_at_once_in_both_directions() {
    let narrow = rules(&["allow anne publish s/#", "allow bert subscribe s/#"]);
    let other = rules(&["allow anne publish t/#", "allow bert subscribe t/#"]);
    let rig = plant(false, &files(&narrow)).await;
    let mut anne = Login::of("a", "anne", "enna").enter(&rig, 5).await;
    let mut bert = Login::of("b", "bert", "treb").enter(&rig, 5).await;
    bert.subscribe(5, "#", 1).await;
    for (acl, good, bad) in [(None, "s/x", "t/x"), (Some(&other), "t/x", "s/x"), (Some(&narrow), "s/x", "t/x")] {
        if let Some(acl) = acl {
            assert_eq!(reload(&rig, false, &files(acl)).disconnected, 0);
        }
        anne.send_bytes(&publish(5, 2, bad, 1, b"bad")).await;
        anne.expect("40 03 0001 87").await;
        anne.send_bytes(&publish(5, 0, good, 0, b"good")).await;
        bert.expect_bytes(&publish(5, 0, good, 0, b"good")).await;
    }
    // The subscription stays while nothing may come, and brings again what may come again.
    reload(&rig, false, &files(&rules(&["allow anne publish #"])));
    anne.send_bytes(&publish(5, 2, "s/x", 1, b"lost")).await;
    // It has gone to everybody who may have it.
    anne.expect("40 02 0001").await;
    reload(&rig, false, &Files { rules: None, ..files("") });
    anne.send_bytes(&publish(5, 0, "s/x", 0, b"found")).await;
    bert.expect_bytes(&publish(5, 0, "s/x", 0, b"found")).await;
    // Rules that are there for the first time hold as well.
    reload(&rig, false, &files(&narrow));
    anne.send_bytes(&publish(5, 2, "t/x", 1, b"bad")).await;
    anne.expect("40 03 0001 87").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_queued_when_the_rules_changed_is_not_delivered() {
    let before = rules(&["allow anne subscribe #", "allow bert publish #"]);
    let after = rules(&["allow anne subscribe s/#", "allow bert publish #"]);
    let rig = plant(false, &files(&before)).await;
    let anne = Login { keep: true, ..Login::of("a", "anne", "enna") };
    let mut client = anne.enter(&rig, 5).await;
    client.subscribe(5, "#", 1).await;
    // Sent once and not acknowledged, ...
    let mut source = Login::of("b", "bert", "treb").enter(&rig, 4).await;
    for topic in ["t/sent", "s/sent"] {
        source.send_bytes(&publish(4, 2, topic, 1, b"x")).await;
        source.expect("40 02 0001").await;
    }
    client.expect_bytes(&publish(5, 2, "t/sent", 1, b"x")).await;
    client.expect_bytes(&publish(5, 2, "s/sent", 2, b"x")).await;
    client.send("E0 00").await;
    client.expect_closed().await;
    // ... and queued while away.
    for topic in ["t/queued", "s/queued"] {
        source.send_bytes(&publish(4, 2, topic, 1, b"x")).await;
        source.expect("40 02 0001").await;
    }
    reload(&rig, false, &files(&after));
    let mut client = anne.say(&rig, 5).await;
    client.expect_connack(5, true).await;
    client.expect_bytes(&publish(5, 0x0A, "s/sent", 2, b"x")).await;
    let queued = client.packet().await;
    assert_eq!(&queued[4..12], b"s/queued", "{queued:02X?}");
    client.expect_quiet().await;
    assert_eq!(rig.metric("tidegate_broker_dropped_total", "not-authorized"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_somebody_who_lost_the_right_is_not_sent() {
    let before = rules(&["allow anne publish wills/#", "allow bert publish,subscribe #"]);
    let after = rules(&["allow bert publish,subscribe #"]);
    let rig = plant(false, &files(&before)).await;
    let mut watcher = Login::of("b", "bert", "treb").enter(&rig, 4).await;
    watcher.subscribe(4, "#", 0).await;
    for (acl, comes) in [(&before, true), (&after, false)] {
        reload(&rig, false, &files(&before));
        let client = Login { will: Some("wills/a"), ..Login::of("a", "anne", "enna") }.enter(&rig, 4).await;
        reload(&rig, false, &files(acl));
        let gone = rig.metric("tidegate_broker_connections", "test");
        drop(client);
        until("the client has gone", || rig.metric("tidegate_broker_connections", "test") < gone).await;
        if comes {
            watcher.expect_bytes(&publish(4, 0, "wills/a", 0, b"gone")).await;
        }
    }
    watcher.expect_quiet().await;
    assert_eq!(rig.metric(REFUSED, "acl-will"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_user_is_gone_collects_nothing_more_and_one_with_a_new_password_does() {
    let acl = rules(&["allow anne subscribe #", "allow carl subscribe #", "allow bert publish #"]);
    let rig = plant(false, &files(&acl)).await;
    for (id, user, password) in [("a", "anne", "enna"), ("c", "carl", "lrac")] {
        let mut client = Login { keep: true, ..Login::of(id, user, password) }.enter(&rig, 4).await;
        client.subscribe(4, "#", 1).await;
        client.send("E0 00").await;
        client.expect_closed().await;
    }
    let changed = Files { users: Some(vec![("bert", "treb"), ("carl", "new")]), rules: Some(&acl) };
    assert_eq!(reload(&rig, false, &changed).disconnected, 0, "nobody concerned is connected");
    let mut source = Login::of("b", "bert", "treb").enter(&rig, 4).await;
    source.send_bytes(&publish(4, 2, "x", 1, b"x")).await;
    source.expect("40 02 0001").await;
    let mut carl = Login { keep: true, ..Login::of("c", "carl", "new") }.say(&rig, 4).await;
    carl.expect_connack(4, true).await;
    carl.expect_bytes(&publish(4, 2, "x", 1, b"x")).await;
    reload(&rig, false, &files(&acl));
    let mut anne = Login { keep: true, ..Login::of("a", "anne", "enna") }.say(&rig, 4).await;
    anne.expect_connack(4, true).await;
    // What had been queued would come first.
    source.send_bytes(&publish(4, 2, "y", 2, b"y")).await;
    source.expect("40 02 0002").await;
    anne.expect_bytes(&publish(4, 2, "y", 1, b"y")).await;
}
