//! Section 4.8.2: shared subscriptions.

use std::time::Instant;

use crate::{
    rig::{DEADLINE, Options},
    script::{Stage, stage, v5},
};

#[test]
fn mqtt_4_8_2_1_a_shared_subscription_begins_with_share_and_a_name() {
    v5("
        a: connect
        a: subscribe $share/g/t 00
        a> 82 (0001 () =$share//t 00 =$share/ 00 =$share/g 00)
        a< 90 (0001 () 8F 8F 8F)
        # Anything else is an ordinary filter.
        a> 82 (0001 () =$shared/g/t 00 =$Share/g/t 00)
        a< 90 (0001 () 00 00)
    ");
}

#[test]
fn mqtt_4_8_2_2_the_share_name_has_no_wildcards_and_a_filter_follows() {
    v5("
        a: connect
        a> 82 (0001 () =$share/g+/t 00 =$share/+/t 00 =$share/#/t 00 =$share/g#/t 00)
        a< 90 (0001 () 8F 8F 8F 8F)
        a> 82 (0001 () =$share/g/ 00 =$share/g/a#b 00 =$share/g/a/#/b 00)
        a< 90 (0001 () 8F 8F 8F)
        a> 82 (0001 () =$share/g/# 00 =$share/g/+/b 01 =$share/g//a 02)
        a< 90 (0001 () 00 01 02)
        a> A2 (0001 () =$share/g/# =$share/h/#)
        a< B0 (0001 () 00 11)
    ");
}

/// Two members with a window of their own, and a publisher.
async fn members(stage: &mut Stage, a: &str, b: &str) {
    stage
        .play(&format!("a: stay\na: subscribe $share/g/t {a}\nb: stay\nb: subscribe $share/g/t {b}\np: connect"))
        .await;
}

/// Publishes so many messages, numbered from 1.
async fn publish(stage: &mut Stage, count: usize) {
    for at in 1..=count {
        stage
            .play(&format!("p> 34 (=t {at:04X} () {at:04X})\np< 50 ({at:04X})\np> 62 ({at:04X})\np< 70 ({at:04X})"))
            .await;
    }
}

/// The packets that a client has got so far, and perhaps not all that are on their way.
async fn received(stage: &mut Stage, who: &str) -> Vec<Vec<u8>> {
    stage.play(&format!("{who}> C0 00")).await;
    let mut packets = Vec::new();
    loop {
        let packet = stage.packet(who).await;
        if packet[0] == 0xD0 {
            return packets;
        }
        packets.push(packet);
    }
}

/// What members get until it is so many packets together, and a moment longer.
async fn shares<const N: usize>(stage: &mut Stage, members: [&str; N], count: usize) -> [Vec<Vec<u8>>; N] {
    let start = Instant::now();
    let mut shares = [const { Vec::new() }; N];
    let mut rounds_left = 3;
    while rounds_left > 0 {
        for (share, who) in shares.iter_mut().zip(members) {
            share.extend(received(stage, who).await);
        }
        let found: usize = shares.iter().map(Vec::len).sum();
        rounds_left -= usize::from(found >= count);
        assert!(found <= count && start.elapsed() < DEADLINE, "{found} packets, not {count}: {shares:02X?}");
    }
    shares
}

fn payloads(packets: &[Vec<u8>]) -> Vec<u16> {
    packets.iter().map(|packet| u16::from_be_bytes([packet[packet.len() - 2], packet[packet.len() - 1]])).collect()
}

#[test]
fn mqtt_4_8_2_3_every_member_gets_its_granted_qos_and_every_message_goes_to_one() {
    stage(5, Options::default(), async |stage| {
        members(stage, "00", "02").await;
        publish(stage, 20).await;
        let [a, b] = shares(stage, ["a", "b"], 20).await;
        assert!(
            a.iter().all(|packet| packet[0] == 0x30) && b.iter().all(|packet| packet[0] == 0x34),
            "{a:02X?} {b:02X?}"
        );
        assert!(!a.is_empty() && !b.is_empty(), "both take part");
        let mut all = [payloads(&a), payloads(&b)].concat();
        all.sort_unstable();
        assert_eq!(all, (1..=20).collect::<Vec<u16>>());
    });
}

#[test]
fn mqtt_4_8_2_4_a_qos_2_delivery_is_completed_with_the_member_that_it_was_begun_with() {
    stage(5, Options::default(), async |stage| {
        members(stage, "02", "02").await;
        publish(stage, 20).await;
        let [a, _] = shares(stage, ["a", "b"], 20).await;
        assert!(!a.is_empty());
        stage.play("a: gone").await;
        shares(stage, ["b"], 0).await;
        stage.play("a: back").await;
        let [again, _] = shares(stage, ["a", "b"], a.len()).await;
        assert_eq!(payloads(&again), payloads(&a));
        assert!(again.iter().all(|packet| packet[0] == 0x3C), "{again:02X?}");
    });
}

#[test]
fn mqtt_4_8_2_5_a_qos_2_delivery_ends_with_the_session_of_its_member() {
    stage(5, Options::default(), async |stage| {
        members(stage, "02", "02").await;
        publish(stage, 20).await;
        let [a, _] = shares(stage, ["a", "b"], 20).await;
        assert!(!a.is_empty());
        stage.play("a> E0 (00 (11 00000000))\na: closed").await;
        // Nothing of what `a` has begun to get.
        shares(stage, ["b"], 0).await;
    });
}

#[test]
fn mqtt_4_8_2_6_what_a_member_refuses_goes_to_nobody_else() {
    stage(5, Options::default(), async |stage| {
        members(stage, "02", "02").await;
        publish(stage, 10).await;
        let [a, _] = shares(stage, ["a", "b"], 10).await;
        assert!(!a.is_empty());
        for packet in &a {
            let id = u16::from_be_bytes([packet[5], packet[6]]);
            stage.play(&format!("a> 50 ({id:04X} 83)")).await;
        }
        shares(stage, ["a", "b"], 0).await;
        stage.play("a: gone\na: back").await;
        shares(stage, ["a", "b"], 0).await;
    });
}
