//! Sections 3.12 to 3.14: PINGREQ and DISCONNECT; errors (4.13).

use super::{offences, refusals};
use crate::{
    rig::Options,
    script::{stage, v5},
};

#[test]
fn mqtt_3_12_4_1_every_ping_is_answered() {
    v5("
        a: connect
        a> C0 00 C0 00 C0 00
        a< D0 00
        a< D0 00
        a< D0 00
        a: quiet
    ");
    offences(&[("C0 01 00", "81")]);
}

#[test]
fn mqtt_3_14_0_1_before_an_accepting_connack_there_is_no_disconnect() {
    refusals(&[("10 (=MQTT 05 03 0000 () =a)", "81"), ("10 (=MQTT 05 02 0000 (21 0000) =a)", "82")]);
    v5("a> C0 00\na: closed");
    v5("a> 10 FF FF FF 7F\na: closed");
}

#[test]
fn mqtt_3_14_1_1_the_reserved_flags_of_disconnect_are_checked() {
    offences(&[("E1 00", "81"), ("E2 00", "81"), ("EF (00 ())", "81")]);
}

#[test]
fn mqtt_3_14_2_1_disconnect_has_one_of_its_reasons() {
    for reason in ["00", "04", "80", "81", "82", "83", "90", "93", "94", "95", "96", "97", "98", "99"] {
        v5(&format!(
            "a: connect\na> E0 ({reason})\na: closed\nb: connect\nb> E0 ({reason} (1F =why 26 =k =v))\nb: closed"
        ));
    }
    // Those that only a server may send, those of other packets, properties that do not belong, and bytes left over.
    offences(&[
        ("E0 (01)", "81"),
        ("E0 (8B)", "81"),
        ("E0 (8E)", "81"),
        ("E0 (18)", "81"),
        ("E0 (00 (21 0001))", "81"),
        ("E0 (00 (1C =other))", "81"),
        ("E0 (00 () 00)", "81"),
    ]);
}

#[test]
fn mqtt_3_14_2_2_the_gateway_sends_no_session_expiry_in_disconnect() {
    v5("
        a: stay
        a> 00 00
        a< E0 01 81
        a: closed
    ");
    // A client may send one, if its session was to outlive the connection at all.
    v5("
        a: stay
        a> E0 (00 (11 00000000))
        a: closed
        a: stay
        a> E0 (00 (11 0000003C))
        a: closed
        a: back
    ");
    offences(&[("E0 (00 (11 0000003C))", "82"), ("E0 (00 (11 00000000 11 00000000))", "82")]);
    v5("a: connect\na> E0 (00 (11 00000000))\na: closed");
}

#[test]
fn mqtt_3_14_2_3_a_reason_string_does_not_make_disconnect_too_large() {
    for (size, answer) in [("00000020", "E0 01 81"), ("00001000", "E0 _ 81 _ 1F ...")] {
        v5(&format!(
            "a> 10 (=MQTT 05 02 0000 (17 01 27 {size}) =a)\na< 20 _ 00 00 ...\na> 82 (0001 () =t 43)\na< {answer}\na: closed"
        ));
    }
}

#[test]
fn mqtt_3_14_2_4_there_are_no_user_properties_that_make_disconnect_too_large() {
    v5("
        a> 10 (=MQTT 05 02 0000 (27 00000020 26 =k =v) =a)
        a< 20 _ 00 00 ...
        a> 00 00
        a< E0 01 81
        a: closed
    ");
}

#[test]
fn mqtt_3_14_4_1_after_disconnect_the_gateway_sends_nothing() {
    // Answers and messages that were due do not come behind it.
    v5("
        a: connect
        a: subscribe t 00
        a> 00 00 C0 00 82 (0001 () =u 00) 30 (=t () 'x')
        a< E0 01 81
        a: closed
    ");
}

#[test]
fn mqtt_3_14_4_2_after_disconnect_the_gateway_closes_the_connection() {
    offences(&[("00 00", "81"), ("20 (00 00 ())", "82"), ("90 (0001 () 00)", "82"), ("B0 (0001 ())", "82")]);
    offences(&[("D0 00", "82")]);
    // When it stops, too.
    stage(5, Options::default(), async |stage| {
        stage.play("a: connect").await;
        let stopping = async {
            let cut = stage.rig().broker.drain(std::time::Duration::from_secs(20)).await;
            assert_eq!(cut, 0, "nobody had to be cut off");
        };
        stopping.await;
        stage.play("a< E0 01 8B\na: closed").await;
    });
}

#[test]
fn mqtt_3_14_4_3_after_a_normal_disconnect_there_is_no_will() {
    for end in ["E0 00", "E0 01 00", "E0 (00 ())", "E0 (00 (11 0000003C))"] {
        v5(&format!(
            "
            s: connect
            s: subscribe will 00
            w> 10 (=MQTT 05 06 0000 (11 0000003C) =w () =will =gone)
            w< 20 _ 00 00 ...
            w> {end}
            w: closed
            s: quiet
        "
        ));
    }
}

#[test]
fn mqtt_4_13_1_1_an_error_with_a_reason_closes_the_connection_and_nobody_else_notices() {
    v5("
        other: connect
        other: subscribe t 00
        a: connect
        a> 36 (=t 0001 () 'x')
        a< E0 01 81
        a: closed
        b: connect
        b> 30 (=# () 'x')
        b< E0 01 90
        b: closed
        c: connect
        c> 82 (0001 ())
        c< E0 01 82
        c: closed
        other: quiet
        d: connect
        d> 30 (=t () 'x')
        other< 30 (=t () 'x')
    ");
}

#[test]
fn mqtt_4_13_2_1_a_code_of_0x80_or_more_in_connack_or_disconnect_ends_the_connection() {
    refusals(&[("10 (=MQTT 05 02 0000 (15 =x) =a)", "8C"), ("10 (=MQTT 06 02 0000 () =a)", "84")]);
    offences(&[("30 (=t (23 0000) 'x')", "94"), ("F0 00", "82"), ("30 FF FF FF 7F", "95")]);
    // Also one that the client sends.
    v5("a: connect\na> E0 (80)\na: closed");
}
