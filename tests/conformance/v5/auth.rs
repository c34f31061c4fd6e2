//! Sections 3.15 and 4.12: AUTH and enhanced authentication. The gateway has no method for it.

use super::{offences, refusals};
use crate::{
    rig::Options,
    script::{stage, v5},
};

#[test]
fn mqtt_3_15_1_1_the_reserved_flags_of_auth_are_checked() {
    offences(&[("F1 00", "81"), ("F2 (18 (15 =x))", "81"), ("F8 00", "81")]);
}

#[test]
fn mqtt_3_15_2_1_auth_has_one_of_its_reasons() {
    offences(&[("F0 (01)", "81"), ("F0 (80 ())", "81"), ("F0 (18 (11 00000001))", "81"), ("F0 (18 () 00)", "81")]);
}

#[test]
fn mqtt_4_12_0_1_an_authentication_method_is_refused() {
    refusals(&[
        ("10 (=MQTT 05 02 0000 (15 =SCRAM-SHA-256) =a)", "8C"),
        ("10 (=MQTT 05 02 0000 (15 =SCRAM-SHA-256 16 0003 010203) =a)", "8C"),
        ("10 (=MQTT 05 C2 0000 (15 =GS2-KRB5) =a =user =secret)", "8C"),
    ]);
}

#[test]
fn mqtt_4_12_0_4_a_refused_authentication_closes_the_connection() {
    // Also for the packets that would go on with it.
    v5("
        a> 10 (=MQTT 05 02 0000 (15 =x) =a) F0 (18 (15 =x))
        a< 20 (00 8C ())
        a: closed
    ");
}

#[test]
fn mqtt_4_12_0_6_without_a_method_there_is_neither_auth_nor_a_method_in_connack() {
    stage(5, Options::default(), async |stage| {
        stage.play("a> 10 (=MQTT 05 02 0000 () =a)").await;
        let connack = stage.packet("a").await;
        assert!(connack[0] == 0x20 && !connack[16..].contains(&0x15), "{connack:02X?}");
        stage.play("a: quiet").await;
    });
}

#[test]
fn mqtt_4_12_0_7_auth_without_a_method_is_a_protocol_error() {
    offences(&[("F0 00", "82"), ("F0 (18 (15 =x))", "82"), ("F0 (00 ())", "82")]);
}

#[test]
fn mqtt_4_12_1_1_there_is_no_authentication_to_be_repeated() {
    offences(&[("F0 (19 (15 =x))", "82"), ("F0 (19 (15 =x 16 0001 00))", "82")]);
}

#[test]
fn mqtt_4_12_1_2_a_failed_reauthentication_is_answered_with_disconnect() {
    offences(&[("F0 (19)", "82"), ("F0 (19 (16 0001 00))", "82")]);
}
