//! Sections 3.1.0 and 3.1.2: the first packet and the variable header of CONNECT, but for wills and limits.

use std::time::Instant;

use super::{accepted, offences, refusals};
use crate::{
    rig::Options,
    script::{stage, v5},
};

#[test]
fn mqtt_3_1_0_1_a_connection_that_does_not_begin_with_connect_is_closed() {
    for bytes in ["C0 00", "30 (=t () 'x')", "82 (0001 () =t 00)", "E0 00", "F0 00", "'GET~/~HTTP/1.1' 0D0A", "00"] {
        v5(&format!("a> {bytes}\na: closed"));
    }
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_is_a_protocol_error() {
    offences(&[("10 (=MQTT 05 02 0000 () =a)", "82"), ("10 (=MQTT 05 00 0000 () =other)", "82")]);
}

#[test]
fn mqtt_3_1_2_1_a_protocol_name_other_than_mqtt_is_not_served() {
    for name in ["=HTTP", "=mqtt", "=MQTTX", "0000", "=MQT", "0004 EFBBBF 'M'"] {
        v5(&format!("a> 10 ({name} 05 02 0000 () =a)\na: closed"));
    }
    // MQTT 3.1 understands the answer of its successor.
    v5("a> 10 (=MQIsdp 03 02 0000 =a)\na< 20 (00 01)\na: closed");
}

#[test]
fn mqtt_3_1_2_2_another_protocol_version_is_unsupported() {
    refusals(&[("10 (=MQTT 06 02 0000 () =a)", "84"), ("10 (=MQTT 7F 02 0000 () =a)", "84")]);
    v5("a> 10 (=MQTT 03 02 0000 =a)\na< 20 (00 01)\na: closed");
}

#[test]
fn mqtt_3_1_2_3_the_reserved_connect_flag_is_checked() {
    refusals(&[("10 (=MQTT 05 03 0000 () =a)", "81"), ("10 (=MQTT 05 01 0000 () =a)", "81")]);
}

#[test]
fn mqtt_3_1_2_4_a_clean_start_discards_the_session() {
    v5("
        a: stay
        a: subscribe t 01
        a: leave
        a: connect
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        a: quiet
        a: leave
        a: stay
    ");
}

#[test]
fn mqtt_3_1_2_5_a_session_is_resumed() {
    v5("
        a: stay
        a: subscribe t 01
        a: leave
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        a: back
        a< 32 (=t 0001 () 'x')
    ");
}

#[test]
fn mqtt_3_1_2_6_a_session_is_made_where_there_is_none() {
    v5("
        a: stay
        a: gone
        a: back
    ");
}

#[test]
fn mqtt_3_1_2_9_a_will_has_all_its_fields() {
    refusals(&[
        ("10 (=MQTT 05 06 0000 () =a)", "81"),
        ("10 (=MQTT 05 06 0000 () =a ())", "81"),
        ("10 (=MQTT 05 06 0000 () =a () =will)", "81"),
        ("10 (=MQTT 05 06 0000 () =a () =will 0005 'x')", "81"),
    ]);
    accepted(&["10 (=MQTT 05 06 0000 () =a () =will 0000)"]);
}

#[test]
fn mqtt_3_1_2_11_there_is_no_will_qos_without_a_will() {
    refusals(&[("10 (=MQTT 05 0A 0000 () =a)", "81"), ("10 (=MQTT 05 12 0000 () =a)", "81")]);
}

#[test]
fn mqtt_3_1_2_12_will_qos_is_0_or_1_or_2() {
    accepted(&[
        "10 (=MQTT 05 06 0000 () =a () =will =x)",
        "10 (=MQTT 05 0E 0000 () =b () =will =x)",
        "10 (=MQTT 05 16 0000 () =c () =will =x)",
    ]);
    refusals(&[("10 (=MQTT 05 1E 0000 () =a () =will =x)", "81")]);
}

#[test]
fn mqtt_3_1_2_13_there_is_no_will_retain_without_a_will() {
    refusals(&[("10 (=MQTT 05 22 0000 () =a)", "81")]);
}

#[test]
fn mqtt_3_1_2_16_without_its_flag_there_is_no_user_name() {
    refusals(&[("10 (=MQTT 05 02 0000 () =a =user)", "81")]);
}

#[test]
fn mqtt_3_1_2_17_with_its_flag_there_is_a_user_name() {
    refusals(&[("10 (=MQTT 05 82 0000 () =a)", "81"), ("10 (=MQTT 05 C2 0000 () =a =user)", "81")]);
    accepted(&["10 (=MQTT 05 82 0000 () =a =user)", "10 (=MQTT 05 82 0000 () =b 0000)"]);
}

#[test]
fn mqtt_3_1_2_18_without_its_flag_there_is_no_password() {
    refusals(&[("10 (=MQTT 05 82 0000 () =a =user =secret)", "81")]);
}

#[test]
fn mqtt_3_1_2_19_with_its_flag_there_is_a_password() {
    refusals(&[("10 (=MQTT 05 42 0000 () =a)", "81"), ("10 (=MQTT 05 C2 0000 () =a =user 0009 'x')", "81")]);
    // A password is binary data, and MQTT 5 lets it come without a user name.
    accepted(&["10 (=MQTT 05 42 0000 () =a 0003 FF00C0)", "10 (=MQTT 05 C2 0000 () =b =user =secret)"]);
}

#[test]
fn mqtt_3_1_2_22_a_client_silent_for_one_and_a_half_keep_alives_is_disconnected() {
    stage(5, Options::default(), async |stage| {
        stage.play("s: connect\ns: subscribe will 00").await;
        stage.play("a> 10 (=MQTT 05 06 0002 () =a () =will =gone)\na< 20 _ 00 00 ...").await;
        let start = Instant::now();
        // Any packet counts, and counts anew.
        stage.play("time: 1000\na> C0 00\na< D0 00").await;
        let heard = Instant::now();
        stage.play("a< E0 01 8D\na: closed\ns< 30 (=will () 'gone')").await;
        assert!(heard.elapsed().as_millis() >= 2900, "after {:?}", heard.elapsed());
        assert!(start.elapsed().as_millis() < 10_000, "after {:?}", start.elapsed());
    });
}

#[test]
fn mqtt_3_1_2_23_a_session_is_kept_after_the_connection_is_closed() {
    v5("
        a> 10 (=MQTT 05 02 0000 (11 00000E10) =a)
        a< 20 _ 00 00 ...
        a: subscribe t 01
        a: gone
        gateway: restart
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        a: back
        a< 32 (=t 0001 () 'x')
    ");
}
