//! Sections 3.1.2.5 to 3.1.2.7: the will.

use super::closed_at_once;
use crate::script::v3;

#[test]
fn mqtt_3_1_2_8_the_will_is_sent_when_the_connection_ends_without_disconnect() {
    v3("
        w: connect
        w: subscribe w/# 00
        # The network fails.
        a> 10 (=MQTT 04 06 0000 =a =w/a =lost)
        a< 20 (0000)
        w: quiet
        a: gone
        w< 30 (=w/a 'lost')
        # The client breaks the protocol.
        b> 10 (=MQTT 04 06 0000 =b =w/b =broken)
        b< 20 (0000)
        b> 00 00
        b: closed
        w< 30 (=w/b 'broken')
        # Another connection takes its place, whose own will waits.
        c> 10 (=MQTT 04 04 0000 =c =w/c =taken)
        c< 20 (0000)
        c2> 10 (=MQTT 04 04 0000 =c =w/c =new)
        c2< 20 (0100)
        w< 30 (=w/c 'taken')
        w: quiet
        # A CONNECT that is refused has no will.
        d> 10 (=MQTT 04 04 0000 0000 =w/d =x)
        d< 20 (0002)
        d: closed
        w: quiet
    ");
}

#[test]
fn mqtt_3_1_2_9_the_will_has_the_qos_topic_and_message_of_the_connect() {
    v3("
        w: connect
        w: subscribe w/# 02
        a> 10 (=MQTT 04 06 0000 =a =w/0 =zero)
        a< 20 (0000)
        a: gone
        w< 30 (=w/0 'zero')
        b> 10 (=MQTT 04 0E 0000 =b =w/1 =one)
        b< 20 (0000)
        b: gone
        w< 32 (=w/1 _ _ 'one')
        c> 10 (=MQTT 04 16 0000 =c =w/2 0000)
        c< 20 (0000)
        c: gone
        w< 34 (=w/2 _ _)
    ");
    // The fields must be there.
    closed_at_once(&["10 (=MQTT 04 06 0000 =a)", "10 (=MQTT 04 06 0000 =a =w)"]);
}

#[test]
fn mqtt_3_1_2_10_the_will_is_gone_once_it_was_sent_and_after_disconnect() {
    v3("
        w: connect
        w: subscribe w 00
        # Sent once, also where the session goes on.
        a> 10 (=MQTT 04 04 0000 =a =w =bye)
        a< 20 (0000)
        a: gone
        w< 30 (=w 'bye')
        a: back
        a: gone
        w: quiet
        # Removed by DISCONNECT.
        b> 10 (=MQTT 04 04 0000 =b =w =bye)
        b< 20 (0000)
        b: leave
        b: back
        b: gone
        w: quiet
    ");
}

#[test]
fn mqtt_3_1_2_11_fields_of_a_will_without_its_flag_close_the_connection() {
    closed_at_once(&["10 (=MQTT 04 0A 0000 =a)", "10 (=MQTT 04 22 0000 =a)", "10 (=MQTT 04 02 0000 =a =w =x)"]);
}

#[test]
fn mqtt_3_1_2_12_without_the_flag_nothing_is_sent() {
    v3("
        w: connect
        w: subscribe # 00
        a: connect
        a: gone
        b: stay
        b: gone
        w: quiet
    ");
}

#[test]
fn mqtt_3_1_2_13_will_qos_without_a_will_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 0A 0000 =a)", "10 (=MQTT 04 12 0000 =a)", "10 (=MQTT 04 1A 0000 =a)"]);
}

#[test]
fn mqtt_3_1_2_14_will_qos_3_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 1E 0000 =a =w =x)"]);
}

#[test]
fn mqtt_3_1_2_15_will_retain_without_a_will_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 22 0000 =a)"]);
}

#[test]
fn mqtt_3_1_2_16_a_will_without_retain_is_not_retained() {
    v3("
        w: connect
        w: subscribe w 00
        a> 10 (=MQTT 04 06 0000 =a =w =bye)
        a< 20 (0000)
        a: gone
        w< 30 (=w 'bye')
        late: connect
        late: subscribe w 00
        late: quiet
    ");
}

#[test]
fn mqtt_3_1_2_17_a_will_with_retain_is_retained() {
    v3("
        w: connect
        w: subscribe w 00
        a> 10 (=MQTT 04 2E 0000 =a =w =bye)
        a< 20 (0000)
        a: gone
        w< 30 (=w 'bye')
        late: connect
        late: subscribe w 01
        late< 33 (=w _ _ 'bye')
    ");
}
