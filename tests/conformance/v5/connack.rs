//! Section 3.2: CONNACK.

use std::time::Instant;

use super::{accepted, refusals};
use crate::{
    rig::Options,
    script::{stage, v5, with},
};

#[test]
fn mqtt_3_2_0_1_connack_comes_before_anything_else() {
    // A queued message, an answer, and an acknowledgement are all ready at once.
    v5("
        a: stay
        a: subscribe t 01
        a: gone
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        a> 10 (=MQTT 05 00 0000 (11 0000003C) =a) C0 00 32 (=other 0007 () 'y')
        a< 20 _ 01 00 ...
    ");
}

#[test]
fn mqtt_3_2_0_2_there_is_one_connack() {
    v5("
        a: connect
        a: subscribe t 00
        a> 30 (=t () 'x')
        a< 30 (=t () 'x')
        a: quiet
        a> 10 (=MQTT 05 02 0000 () =a)
        a< E0 01 82
        a: closed
    ");
}

#[test]
fn mqtt_3_2_2_1_the_reserved_acknowledge_flags_are_zero() {
    v5("
        a: stay
        a: leave
        a: back
        b> 10 (=MQTT 05 03 0000 () =b)
        b< 20 (00 81 ())
    ");
}

#[test]
fn mqtt_3_2_2_2_after_a_clean_start_no_session_is_present() {
    v5("
        a: stay
        a: leave
        a> 10 (=MQTT 05 02 0000 () =a)
        a< 20 _ 00 00 ...
    ");
}

#[test]
fn mqtt_3_2_2_3_session_present_says_whether_there_was_a_session() {
    v5("
        a> 10 (=MQTT 05 00 0000 (11 0000003C) =a)
        a< 20 _ 00 00 ...
        a: leave
        a> 10 (=MQTT 05 00 0000 () =a)
        a< 20 _ 01 00 ...
        a: leave
        a> 10 (=MQTT 05 00 0000 () =a)
        a< 20 _ 00 00 ...
    ");
}

#[test]
fn mqtt_3_2_2_6_a_refusal_says_that_no_session_is_present() {
    v5("
        a: stay
        a: leave
        a> 10 (=MQTT 05 00 0000 (15 =x) =a)
        a< 20 (00 8C ())
        a: closed
        a> 10 (=MQTT 05 01 0000 () =a)
        a< 20 (00 81 ())
        a: closed
        a: back
    ");
}

#[test]
fn mqtt_3_2_2_7_a_refusal_closes_the_connection() {
    refusals(&[
        ("10 (=MQTT 05 03 0000 () =a)", "81"),
        ("10 (=MQTT 05 02 0000 (21 0000) =a)", "82"),
        ("10 (=MQTT 06 02 0000 () =a)", "84"),
        ("10 (=MQTT 05 02 0000 () =x*300)", "85"),
        ("10 (=MQTT 05 02 0000 (15 =x) =a)", "8C"),
        ("10 (=MQTT 05 06 0000 () =a () =# =x)", "90"),
    ]);
}

#[test]
fn mqtt_3_2_2_8_the_codes_are_those_of_connack() {
    refusals(&[("10 (=MQTT 05 03 0000 () =a)", "81"), ("10 (=MQTT 05 02 0000 () =x*300)", "85")]);
    with(5, Options { anonymous: false, ..Options::default() }, "a> 10 (=MQTT 05 02 0000 () =a)\na< 20 (00 87 ())");
    // No room: quota exceeded. The CONNACK of the first says all that differs from the defaults of the specification.
    with(
        5,
        Options { max_connections: 1, max_inflight: 7, max_packet: 0x1234, ..Options::default() },
        "
        a> 10 (=MQTT 05 02 0000 () =a)
        a< 20 _ 00 00 _ 21 0007 27 00001234 22 0020 ...
        b> 10 (=MQTT 05 02 0000 () =b)
        b< 20 (00 97 ())
        b: closed
    ",
    );
}

#[test]
fn mqtt_3_2_2_9_every_qos_is_served_so_there_is_no_maximum_qos() {
    stage(5, Options::default(), async |stage| {
        stage.play("a> 10 (=MQTT 05 02 0000 () =a)").await;
        let connack = stage.packet("a").await;
        // Receive Maximum, Maximum Packet Size and Topic Alias Maximum come first, of known lengths.
        assert!(!connack[16..].contains(&0x24), "{connack:02X?}");
        stage.play("a> 34 (=t 0001 () 'x')\na< 50 (0001)").await;
    });
}

#[test]
fn mqtt_3_2_2_10_subscriptions_of_every_qos_are_taken() {
    v5("
        a: connect
        a> 82 (0001 () =a 00 =b 01 =c 02)
        a< 90 (0001 () 00 01 02)
    ");
}

#[test]
fn mqtt_3_2_2_12_a_will_of_any_qos_is_taken() {
    accepted(&["10 (=MQTT 05 16 0000 () =a () =will =x)", "10 (=MQTT 05 0E 0000 () =b () =will =x)"]);
}

#[test]
fn mqtt_3_2_2_13_a_will_with_retain_is_taken() {
    accepted(&["10 (=MQTT 05 26 0000 () =a () =will =x)", "10 (=MQTT 05 36 0000 () =b () =will =x)"]);
}

#[test]
fn mqtt_3_2_2_15_a_packet_above_the_maximum_is_refused_before_its_body() {
    let options = Options { max_packet: 100, ..Options::default() };
    with(
        5,
        options,
        "
        a: connect
        a> 30 (=t () 'x'*94)
        a: quiet
        a> 30 63
        a< E0 01 95
        a: closed
        b: connect
        b> 30 FF FF FF 7F
        b< E0 01 95
        b: closed
        c> 10 FF FF FF 7F
        c: closed
    ",
    );
}

#[test]
fn mqtt_3_2_2_16_a_client_without_an_id_gets_one_that_nobody_has() {
    stage(5, Options::default(), async |stage| {
        let mut ids = Vec::new();
        for at in 0..5 {
            stage.play(&format!("a{at}> 10 (=MQTT 05 02 0000 () 0000)")).await;
            let connack = stage.packet(&format!("a{at}")).await;
            let id = connack[5..].windows(3).position(|bytes| bytes == [0x12, 0, 37]).expect("an assigned client id");
            let id = connack[5 + id + 3..][..37].to_vec();
            assert!(!ids.contains(&id));
            ids.push(id);
        }
    });
}

#[test]
fn mqtt_3_2_2_17_a_topic_alias_above_the_maximum_is_invalid() {
    super::offences(&[("30 (=t (23 0021) 'x')", "94"), ("30 (=t (23 FFFF) 'x')", "94")]);
}

#[test]
fn mqtt_3_2_2_19_a_reason_string_does_not_make_connack_too_large() {
    for (size, answer) in [("00000006", "20 (00 85 ())"), ("00001000", "20 _ 00 85 _ 1F ...")] {
        v5(&format!("a> 10 (=MQTT 05 02 0000 (17 01 27 {size}) =x*257)\na< {answer}\na: closed"));
    }
}

#[test]
fn mqtt_3_2_2_20_there_are_no_user_properties_that_make_connack_too_large() {
    // All that is in it is what differs from the defaults.
    v5("
        a> 10 (=MQTT 05 02 0000 (17 01 26 =k =v) =a)
        a< 20 _ 00 00 _ 21 03E8 27 00010000 22 0020 ...
        b> 10 (=MQTT 05 02 0000 (17 01 27 00000006 26 =k =v) =x*257)
        b< 20 (00 85 ())
    ");
}

#[test]
fn mqtt_3_2_2_21_a_shorter_server_keep_alive_is_told_and_kept() {
    let options = || Options { tune: |listener| listener.max_keep_alive_s = 1, ..Options::default() };
    for keep_alive in ["0000", "003C", "FFFF"] {
        stage(5, options(), async |stage| {
            stage.play(&format!("a> 10 (=MQTT 05 02 {keep_alive} () =a)")).await;
            let start = Instant::now();
            let connack = stage.packet("a").await;
            let at = connack.windows(3).position(|bytes| bytes == [0x13, 0, 1]);
            assert!(at.is_some(), "{connack:02X?}");
            stage.play("a< E0 01 8D\na: closed").await;
            assert!(start.elapsed().as_millis() >= 1400 && start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
        });
    }
    // What is short enough is left alone.
    stage(5, options(), async |stage| {
        stage.play("a> 10 (=MQTT 05 02 0001 () =a)").await;
        let connack = stage.packet("a").await;
        assert!(!connack.windows(3).any(|bytes| bytes == [0x13, 0, 1]), "{connack:02X?}");
    });
}

#[test]
fn mqtt_3_2_2_22_the_keep_alive_of_the_client_is_kept() {
    stage(5, Options::default(), async |stage| {
        stage.play("a> 10 (=MQTT 05 02 0001 () =a)\noff: connect").await;
        let connack = stage.packet("a").await;
        assert!(!connack[16..].contains(&0x13), "{connack:02X?}");
        let start = Instant::now();
        stage.play("a< E0 01 8D\na: closed").await;
        assert!(start.elapsed().as_millis() >= 1400 && start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
        // Zero turns it off.
        stage.play("off: quiet").await;
    });
}
