//! Section 3.2: CONNACK.

use super::closed_at_once;
use crate::{
    rig::Options,
    script::{v3, with},
};

#[test]
fn mqtt_3_2_0_1_connack_comes_first() {
    v3("
        a: stay
        a: subscribe t 01
        a: leave
        p: connect
        p> 32 (=t 0001 'x')
        p< 40 (0001)
        a> 10 (=MQTT 04 00 0000 =a) C0 00
        a< 20 (0100)
    ");
}

#[test]
fn mqtt_3_2_2_1_a_clean_session_is_never_present() {
    v3("
        a: stay
        a: leave
        a> 10 (=MQTT 04 02 0000 =a)
        a< 20 (0000)
    ");
}

#[test]
fn mqtt_3_2_2_2_a_stored_session_is_present() {
    v3("
        a: stay
        a: leave
        a> 10 (=MQTT 04 00 0000 =a)
        a< 20 (0100)
    ");
}

#[test]
fn mqtt_3_2_2_3_without_a_stored_session_none_is_present() {
    v3("
        a> 10 (=MQTT 04 00 0000 =a)
        a< 20 (0000)
        a: leave
        # A clean session leaves nothing behind.
        b: connect
        b: leave
        b> 10 (=MQTT 04 00 0000 =b)
        b< 20 (0000)
    ");
}

/// One client at a time.
const ONE: fn() -> Options = || Options { max_connections: 1, ..Options::default() };

#[test]
fn mqtt_3_2_2_4_with_another_code_no_session_is_present() {
    with(
        4,
        ONE(),
        "
        a: stay
        a: leave
        b: connect
        a> 10 (=MQTT 04 00 0000 =a)
        a< 20 (0003)
    ",
    );
}

#[test]
fn mqtt_3_2_2_5_after_another_code_the_connection_is_closed() {
    v3("
        a> 10 (=MQTT 06 02 0000 () =a)
        a< 20 _ 00 84 ...
        a: closed
        b> 10 (=MQTT 03 02 0000 =b)
        b< 20 (0001)
        b: closed
        c> 10 (=MQTT 04 00 0000 0000)
        c< 20 (0002)
        c: closed
    ");
    with(
        4,
        ONE(),
        "
        a: connect
        b> 10 (=MQTT 04 02 0000 =b)
        b< 20 (0003)
        b: closed
    ",
    );
    let closed = Options { anonymous: false, ..Options::default() };
    with(
        4,
        closed,
        "
        a> 10 (=MQTT 04 02 0000 =a)
        a< 20 (0005)
        a: closed
        b> 10 (=MQTT 04 C2 0000 =b =user =password)
        b< 20 (0004)
        b: closed
    ",
    );
}

#[test]
fn mqtt_3_2_2_6_where_no_code_applies_the_connection_is_closed_without_connack() {
    closed_at_once(&["10 (=MQTT 04 42 0000 =a =password)", "10 (=MQTT 04 1E 0000 =a =w =x)"]);
}
