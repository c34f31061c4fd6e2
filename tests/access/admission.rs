//! Who comes in, and with which code the others do not.

use super::{
    plant::{Files, Login, PASSWORDS, USERS, plant},
    rig::*,
};

fn users() -> Files<'static> {
    Files { users: Some(PASSWORDS.to_vec()), rules: None }
}

const REFUSED: &str = "tidegate_broker_refused_total";

#[tokio::test(flavor = "multi_thread")]
async fn users_come_in_with_their_password_and_with_no_other() {
    let rig = plant(false, &users()).await;
    for version in [4, 5] {
        for user in USERS {
            let password: String = user.chars().rev().collect();
            Login::of(user, user, &password).enter(&rig, version).await.expect_quiet().await;
        }
    }
    for login in [
        Login::of("c", "anne", "wrong"),
        Login::of("c", "anne", ""),
        Login::of("c", "nobody", "enna"),
        Login::of("c", "bert", "enna"),
        Login::of("c", "Anne", "enna"),
        Login { id: "c", user: Some("anne"), ..Login::default() },
    ] {
        login.is_refused(&rig, (4, 0x86)).await;
    }
    assert_eq!(rig.metric(REFUSED, "bad-credentials"), 12);
    Login { id: "c", ..Login::default() }.is_refused(&rig, (5, 0x87)).await;
    assert_eq!(rig.metric(REFUSED, "not-authorized"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_where_anonymous_clients_are_not() {
    let rig = plant(true, &users()).await;
    Login { id: "c", ..Login::default() }.enter(&rig, 4).await.expect_quiet().await;
    Login::of("c", "anne", "enna").enter(&rig, 5).await.expect_quiet().await;
    Login::of("c", "anne", "wrong").is_refused(&rig, (4, 0x86)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_password_file_a_name_is_nobody_but_no_reason_to_refuse() {
    let acl = super::plant::rules(&["allow anne publish secret", "allow anonymous subscribe open"]);
    let rig = plant(true, &Files { users: None, rules: Some(&acl) }).await;
    let mut client = Login::of("c", "anne", "anything").enter(&rig, 5).await;
    client.send_bytes(&publish(5, 2, "secret", 7, b"x")).await;
    client.expect("40 03 0007 87").await;
    client.subscribe(5, "open", 0).await;
    let closed = plant(false, &Files::default()).await;
    Login::of("c", "anne", "anything").is_refused(&closed, (4, 0x86)).await;
}

/// New guesses until one is refused unseen, with the second of the codes; gives their number.
async fn guess(rig: &Rig, version: u8, user: &str, (wrong, unseen): (u8, u8)) -> usize {
    let mut count = 0;
    loop {
        let mut client = Login::of("guesser", user, &format!("{version} {count}")).say(rig, version).await;
        let code = client.packet().await[3];
        if code == unseen {
            return count;
        }
        assert_eq!(code, wrong, "after {count} guesses");
        count += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_and_locks_nobody_out_who_was_in() {
    let rig = plant(false, &users()).await;
    Login::of("sensor", "anne", "enna").enter(&rig, 4).await;
    let guesses = guess(&rig, 5, "anne", (0x86, 0x9F)).await;
    assert!((20..40).contains(&guesses), "stopped after {guesses} guesses");
    // One is allowed again in three seconds, so on a slow machine one or the other comes through.
    assert!(guess(&rig, 4, "carl", (4, 3)).await < 10, "the address is watched, whatever the name");
    assert_eq!(rig.metric(REFUSED, "guessing"), 2);
    // From the address of the attacker, and for the name it guesses at: known, so no guess.
    for version in [4, 5] {
        Login::of("sensor", "anne", "enna").enter(&rig, version).await.expect_quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_its_password_holds_up_nobody_else() {
    let rig = plant(true, &users()).await;
    let mut waiting = Vec::new();
    for number in 0..30 {
        waiting.push(Login::of("c", "anne", &number.to_string()).say(&rig, 4).await);
    }
    let mut other = rig.connected(5, "other").await;
    for _ in 0..10 {
        other.expect_quiet().await;
    }
    for mut client in waiting {
        let code = client.packet().await[3];
        assert!([4, 3].contains(&code), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_that_may_not_be_sent_is_refused_with_its_client() {
    let acl = super::plant::rules(&["allow anne publish wills/%c"]);
    let rig = plant(false, &Files { rules: Some(&acl), ..users() }).await;
    let login = Login::of("c", "anne", "enna");
    Login { will: Some("wills/c"), ..login }.enter(&rig, 4).await.expect_quiet().await;
    Login { will: Some("wills/other"), ..login }.is_refused(&rig, (5, 0x87)).await;
    assert_eq!(rig.metric(REFUSED, "acl-will"), 2);
}
