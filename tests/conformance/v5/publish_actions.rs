//! Section 3.3.4: what a receiver of PUBLISH does.

use super::offences;
use crate::{
    rig::Options,
    script::{stage, v5, with},
};

#[test]
fn mqtt_3_3_4_1_a_publish_is_answered_as_its_qos_says() {
    v5("
        a: connect
        a> 30 (=t () 'x')
        a: quiet
        a> 32 (=t 0001 () 'x')
        a< 40 (0001)
        a> 34 (=t 0002 () 'x')
        a< 50 (0002)
        a: quiet
    ");
}

/// One message, two subscriptions: one copy, of the higher QoS, with the identifiers of both.
const OVERLAP: &str = "
    s: connect
    s> 82 (0001 (0B 05) =a/+ 00)
    s< 90 (0001 () 00)
    s> 82 (0001 (0B C801) =a/# 02)
    s< 90 (0001 () 02)
    s> 82 (0001 () =+/b 01)
    s< 90 (0001 () 01)
    p: connect
";

#[test]
fn mqtt_3_3_4_2_overlapping_subscriptions_get_their_highest_qos() {
    stage(5, Options::default(), async |stage| {
        stage.play(OVERLAP).await;
        for (publish, ack, first) in [("34", "50", 0x34), ("32", "40", 0x32)] {
            stage.play(&format!("p> {publish} (=a/b 0001 () 'x')\np< {ack} (0001)")).await;
            assert_eq!(stage.packet("s").await[0], first);
        }
        stage.play("s: quiet").await;
    });
}

/// The identifiers come in any order.
async fn identifiers(stage: &mut crate::script::Stage, who: &str) -> Vec<u8> {
    let packet = stage.packet(who).await;
    assert_eq!(packet[..7], [0x30, 12, 0, 3, b'a', b'/', b'b'], "{packet:02X?}");
    packet[7..].to_vec()
}

#[test]
fn mqtt_3_3_4_3_a_message_has_the_identifiers_of_its_subscriptions() {
    stage(5, Options::default(), async |stage| {
        stage.play(&format!("{OVERLAP}\np> 30 (=a/b () 'x')")).await;
        let found = identifiers(stage, "s").await;
        assert!(found == b"\x05\x0B\x05\x0B\xC8\x01x" || found == b"\x05\x0B\xC8\x01\x0B\x05x", "{found:02X?}");
    });
    v5("
        s: connect
        s> 82 (0001 (0B FFFFFF7F) =t 01)
        s< 90 (0001 () 01)
        s> 30 (=t (26 =k =v) 'x')
        s< 30 (=t (26 =k =v 0B FFFFFF7F) 'x')
        s> 82 (0001 () =t 01)
        s< 90 (0001 () 01)
        s> 30 (=t () 'x')
        s< 30 (=t () 'x')
    ");
}

#[test]
fn mqtt_3_3_4_4_one_copy_has_the_identifiers_of_all_subscriptions() {
    stage(5, Options::default(), async |stage| {
        stage.play(&format!("{OVERLAP}\np> 30 (=a/b () 'x')")).await;
        let found = identifiers(stage, "s").await;
        assert!(found.starts_with(b"\x05\x0B\x05\x0B\xC8\x01") || found.starts_with(b"\x05\x0B\xC8\x01\x0B\x05"));
        stage.play("s: quiet").await;
    });
    // Two subscriptions with the same identifier.
    v5("
        s: connect
        s> 82 (0001 (0B 05) =a/+ 00 =+/b 00)
        s< 90 (0001 () 00 00)
        s> 30 (=a/b () 'x')
        s< 30 _ =a/b _ 0B 05 ...
        s: quiet
    ");
}

#[test]
fn mqtt_3_3_4_5_copies_for_retained_messages_have_the_identifier_of_their_subscription() {
    // Live messages come in one copy; retained ones come once for each subscription that asks for them.
    v5("
        p: connect
        p> 33 (=a/b 0001 () 'x')
        p< 40 (0001)
        s: connect
        s> 82 (0001 (0B 05) =a/+ 00)
        s< 90 (0001 () 00)
        s< 31 (=a/b (0B 05) 'x')
        s> 82 (0001 (0B C801) =a/# 00)
        s< 90 (0001 () 00)
        s< 31 (=a/b (0B C801) 'x')
        s> 82 (0001 () =+/b 00)
        s< 90 (0001 () 00)
        s< 31 (=a/b () 'x')
    ");
}

#[test]
fn mqtt_3_3_4_6_a_client_may_not_send_a_subscription_identifier() {
    offences(&[("30 (=t (0B 01) 'x')", "82"), ("32 (=t 0001 (0B FFFFFF7F) 'x')", "82")]);
}

#[test]
fn mqtt_3_3_4_7_more_messages_than_receive_maximum_are_an_offence() {
    // Two QoS 2 messages without PUBREL are all that is allowed; sent again they take no more.
    with(
        5,
        Options { max_inflight: 2, ..Options::default() },
        "
        a: connect
        a> 34 (=t 0001 () 'x')
        a< 50 (0001)
        a> 34 (=t 0002 () 'x')
        a< 50 (0002)
        a> 3C (=t 0002 () 'x')
        a< 50 (0002)
        a> 62 (0001)
        a< 70 (0001)
        a> 32 (=t 0001 () 'x')
        a< 40 (0001)
        a> 34 (=t 0003 () 'x')
        a< 50 (0003)
        a> 30 (=t () 'x')
        a: quiet
        a> 34 (=t 0004 () 'x')
        a< E0 01 93
        a: closed
    ",
    );
}

/// A client with a window of two that acknowledges nothing of what it gets.
const WINDOW: &str = "
    s> 10 (=MQTT 05 02 0000 (21 0002) =s)
    s< 20 _ 00 00 ...
    s: subscribe t 02
    p: connect
    p> 32 (=t 0001 () '1')
    p< 40 (0001)
    p> 34 (=t 0001 () '2')
    p< 50 (0001)
    p> 62 (0001)
    p< 70 (0001)
    p> 32 (=t 0001 () '3')
    p< 40 (0001)
    p> 32 (=t 0001 () '4')
    p< 40 (0001)
    s< 32 (=t 0001 () '1')
    s< 34 (=t 0002 () '2')
    s: quiet
";

#[test]
fn mqtt_3_3_4_9_the_receive_maximum_of_the_client_is_kept() {
    v5(&format!(
        "
        {WINDOW}
        s> 50 (0002)
        s< 62 (0002)
        s: quiet
        s> 40 (0001)
        s< 32 (=t _ _ () '3')
        s: quiet
        s> 70 (0002)
        s< 32 (=t _ _ () '4')
    "
    ));
    // A PUBREC that says no ends the exchange.
    v5(&format!("{WINDOW}\ns> 50 (0002 80)\ns< 32 (=t _ _ () '3')\ns: quiet"));
}

#[test]
fn mqtt_3_3_4_10_only_publishes_wait_for_the_window() {
    v5(&format!(
        "
        {WINDOW}
        s> 82 (0002 () =u 02)
        s< 90 (0002 () 02)
        s> 32 (=v 0009 () 'mine')
        s< 40 (0009)
        s> A2 (0003 () =u)
        s< B0 (0003 () 00)
        s: quiet
    "
    ));
}
