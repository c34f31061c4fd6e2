//! Sections 3.1.3 and 3.1.4: the payload of CONNECT, and what the server does.

use super::{accepted, refusals};
use crate::{
    rig::{Options, unhex},
    script::{stage, v5, with},
};

#[test]
fn mqtt_3_1_3_1_the_fields_come_in_their_order() {
    v5("
        s: connect
        s: subscribe # 00
        w> 10 (=MQTT 05 C6 0000 () =w (03 =type) =topic =payload =user =secret)
        w< 20 _ 00 00 ...
        w: gone
        s< 30 (=topic (03 =type) 'payload')
    ");
    // User name and password before the will: what is read as its properties makes no sense.
    refusals(&[("10 (=MQTT 05 C6 0000 () =w =user =secret (03 =type) =topic =payload)", "81")]);
}

#[test]
fn mqtt_3_1_3_2_the_client_id_names_the_session() {
    v5("
        a: stay
        a: subscribe t/a 01
        b: stay
        b: subscribe t/b 01
        a: leave
        b: leave
        p: connect
        p> 32 (=t/a 0001 () 'x')
        p< 40 (0001)
        p> 32 (=t/b 0001 () 'y')
        p< 40 (0001)
        b: back
        b< 32 (=t/b 0001 () 'y')
        b: quiet
        a: back
        a< 32 (=t/a 0001 () 'x')
        a: quiet
    ");
}

#[test]
fn mqtt_3_1_3_3_the_client_id_is_there_and_first() {
    refusals(&[("10 (=MQTT 05 02 0000 ())", "81"), ("10 (=MQTT 05 02 0000 () 0005 'a')", "81")]);
}

#[test]
fn mqtt_3_1_3_4_the_client_id_is_utf_8() {
    refusals(&[("10 (=MQTT 05 02 0000 () 0001 FF)", "81"), ("10 (=MQTT 05 02 0000 () 0003 EDA080)", "81")]);
}

#[test]
fn mqtt_3_1_3_5_client_ids_of_1_to_23_letters_and_digits_are_taken() {
    accepted(&[
        "10 (=MQTT 05 02 0000 () =a)",
        "10 (=MQTT 05 02 0000 () =0123456789abcdefghijklm)",
        "10 (=MQTT 05 02 0000 () =nopqrstuvwxyzABCDEFGHIJ)",
        "10 (=MQTT 05 02 0000 () =KLMNOPQRSTUVWXYZ)",
    ]);
}

/// The client id that a CONNACK assigns.
fn assigned(connack: &[u8]) -> String {
    let start = unhex("20");
    assert!(connack.starts_with(&start) && connack[3] == 0, "{connack:02X?}");
    let at = connack[5..].windows(2).position(|pair| pair == [0x12, 0]).expect("an assigned client id") + 5;
    let len = usize::from(connack[at + 2]);
    String::from_utf8(connack[at + 3..at + 3 + len].to_vec()).unwrap()
}

#[test]
fn mqtt_3_1_3_6_a_client_without_an_id_is_given_one_of_its_own() {
    stage(5, Options::default(), async |stage| {
        stage.play("a> 10 (=MQTT 05 02 0000 () 0000)\nb> 10 (=MQTT 05 00 0000 () 0000)").await;
        let (a, b) = (assigned(&stage.packet("a").await), assigned(&stage.packet("b").await));
        assert!(!a.is_empty() && !b.is_empty() && a != b, "{a} {b}");
        stage.play("a: quiet\nb: quiet").await;
    });
}

#[test]
fn mqtt_3_1_3_7_an_assigned_client_id_is_told_and_works_like_any_other() {
    stage(5, Options::default(), async |stage| {
        stage.play("a> 10 (=MQTT 05 00 0000 (11 0000003C) 0000)").await;
        let id = assigned(&stage.packet("a").await);
        stage.play("a: subscribe t 01\na: gone\np: connect\np> 32 (=t 0001 () 'x')\np< 40 (0001)").await;
        stage.play(&format!("a> 10 (=MQTT 05 00 0000 (11 0000003C) ={id})\na< 20 _ 01 00 ...")).await;
        stage.play("a< 32 (=t 0001 () 'x')").await;
    });
}

#[test]
fn mqtt_3_1_3_8_a_refused_client_id_is_answered_and_the_connection_closed() {
    refusals(&[("10 (=MQTT 05 02 0000 () =x*257)", "85")]);
}

#[test]
fn mqtt_3_1_3_11_the_will_topic_is_utf_8_and_a_topic_name() {
    refusals(&[
        ("10 (=MQTT 05 06 0000 () =a () 0001 FF =x)", "81"),
        ("10 (=MQTT 05 06 0000 () =a () =a/# =x)", "90"),
        ("10 (=MQTT 05 06 0000 () =a () 0000 =x)", "90"),
    ]);
}

#[test]
fn mqtt_3_1_3_12_the_user_name_is_utf_8() {
    refusals(&[("10 (=MQTT 05 82 0000 () =a 0001 FF)", "81"), ("10 (=MQTT 05 82 0000 () =a 0001 00)", "81")]);
}

#[test]
fn mqtt_3_1_4_1_a_connect_that_is_not_well_formed_is_refused() {
    refusals(&[
        // Bytes left over, too few bytes, properties that are unknown, of another packet, or twice.
        ("10 (=MQTT 05 02 0000 () =a 00)", "81"),
        ("10 (=MQTT 05 02 00)", "81"),
        ("10 (=MQTT 05 02 0000 (7F 00) =a)", "81"),
        ("10 (=MQTT 05 02 0000 (23 0001) =a)", "81"),
        ("10 (=MQTT 05 02 0000 (11 00000001 11 00000001) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (21 0001 21 0001) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (27 00000100 27 00000100) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (22 0001 22 0001) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (17 00 17 00) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (19 00 19 00) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (15 =x 15 =x) =a)", "82"),
        // Values that are not allowed.
        ("10 (=MQTT 05 02 0000 (21 0000) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (27 00000000) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (17 02) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (19 02) =a)", "82"),
        ("10 (=MQTT 05 02 0000 (16 0001 00) =a)", "82"),
        ("10 (=MQTT 05 06 0000 () =a (01 02) =will =x)", "82"),
        ("10 (=MQTT 05 06 0000 () =a (18 00000001 18 00000001) =will =x)", "82"),
        ("10 (=MQTT 05 06 0000 () =a (08 =a/+) =will =x)", "82"),
    ]);
    // Far too long, seen before its body.
    v5("a> 10 FF FF FF 7F (=MQTT 05 02 0000)\na: closed");
}

#[test]
fn mqtt_3_1_4_2_who_may_not_come_in_is_told_and_the_connection_closed() {
    let options = Options { anonymous: false, ..Options::default() };
    with(
        5,
        options,
        "
        a> 10 (=MQTT 05 02 0000 () =a)
        a< 20 (00 87 ())
        a: closed
        b> 10 (=MQTT 05 C2 0000 () =b =user =secret)
        b< 20 (00 86 ())
        b: closed
    ",
    );
}

#[test]
fn mqtt_3_1_4_3_a_client_that_connects_again_takes_the_session_over() {
    v5("
        a: stay
        a: subscribe t 01
        b> 10 (=MQTT 05 00 0000 (11 0000003C) =a)
        b< 20 _ 01 00 ...
        a< E0 01 8E
        a: closed
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        b< 32 (=t 0001 () 'x')
    ");
}

#[test]
fn mqtt_3_1_4_4_a_takeover_with_clean_start_begins_anew() {
    v5("
        a: stay
        a: subscribe t 01
        b> 10 (=MQTT 05 02 0000 () =a)
        b< 20 _ 00 00 ...
        a< E0 01 8E
        a: closed
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        b: quiet
    ");
}

#[test]
fn mqtt_3_1_4_5_an_accepted_connect_is_answered_with_success() {
    v5("a> 10 (=MQTT 05 02 0000 () =a)\na< 20 _ 00 00 ...");
}

#[test]
fn mqtt_3_1_4_6_what_follows_a_refused_connect_is_not_processed() {
    v5("
        a> 10 (=MQTT 05 03 0000 () =a) 31 (=t () 'x') C0 00
        a< 20 (00 81 ())
        a: closed
        b> 10 (=MQTT 05 02 0000 () =x*257) 31 (=t () 'x') C0 00
        b< 20 (00 85 ())
        b: closed
        s: connect
        s: subscribe t 00
        s: quiet
    ");
    // What follows an accepted one is.
    v5("a> 10 (=MQTT 05 02 0000 () =a) C0 00\na< 20 _ 00 00 ...\na< D0 00");
}
