//! Sections 3.4 to 3.7 and 4.3: the exchanges of QoS 0, 1 and 2.

use super::closed_after;
use crate::script::v3;

#[test]
fn mqtt_3_6_1_1_other_flags_of_pubrel_close_the_connection() {
    closed_after(&["60 (0001)", "61 (0001)", "63 (0001)", "64 (0001)", "6A (0001)", "6F (0001)"]);
}

#[test]
fn mqtt_4_3_1_1_qos_0_is_sent_once_and_without_dup() {
    v3("
        a: stay
        a: subscribe t 00
        p: connect
        p> 30 (=t 'x') 3A (=t 0001 'y')
        p< 40 (0001)
        a< 30 (=t 'x')
        a< 30 (=t 'y')
        a: gone
        a: back
        a: quiet
    ");
}

#[test]
fn mqtt_4_3_2_1_the_gateway_sends_qos_1_under_an_unused_id_until_puback() {
    v3("
        a: stay
        a: subscribe t 01
        p: connect
        p> 32 (=t 0001 'x') 32 (=t 0002 'y')
        p< 40 (0001)
        p< 40 (0002)
        a< 32 (=t 0001 'x')
        a< 32 (=t 0002 'y')
        # In any order.
        a> 40 (0002)
        a: quiet
        p> 32 (=t 0003 'z')
        p< 40 (0003)
        a< 32 (=t _ _ 'z')
        a: gone
        a: back
        a< 3A (=t 0001 'x')
        a< 3A (=t _ _ 'z')
        a> 40 (0001)
        a: quiet
    ");
}

#[test]
fn mqtt_4_3_2_2_the_gateway_answers_qos_1_once_it_owns_it_and_takes_the_id_anew() {
    v3("
        a: connect
        a: subscribe s/t 01
        p: connect
        p> 32 (=s/t 0001 'x')
        p< 40 (0001)
        a< 32 (=s/t _ _ 'x')
        # The same id again is a new message, whatever its DUP flag says.
        p> 3A (=s/t 0001 'x')
        p< 40 (0001)
        a< 32 (=s/t _ _ 'x')
        p> 32 (=s/t 0001 'y')
        p< 40 (0001)
        a< 32 (=s/t _ _ 'y')
    ");
}

#[test]
fn mqtt_4_3_3_1_the_gateway_sends_qos_2_and_its_pubrel_until_they_are_answered() {
    v3("
        a: stay
        a: subscribe t 02
        p: connect
        p> 34 (=t 0001 'x')
        p< 50 (0001)
        a< 34 (=t 0001 'x')
        a: gone
        a: back
        a< 3C (=t 0001 'x')
        a> 50 (0001)
        a< 62 (0001)
        # From here on never the message, only its PUBREL.
        a: gone
        a: back
        a< 62 (0001)
        a> 50 (0001)
        a< 62 (0001)
        a> 70 (0001)
        a: quiet
        a: gone
        a: back
        a: quiet
    ");
}

#[test]
fn mqtt_4_3_3_2_the_gateway_delivers_qos_2_once_until_pubrel_frees_the_id() {
    v3("
        a: connect
        a: subscribe s/t 02
        p: stay
        p> 34 (=s/t 0001 'x')
        p< 50 (0001)
        a< 34 (=s/t 0001 'x')
        p> 3C (=s/t 0001 'x')
        p< 50 (0001)
        p> 34 (=s/t 0001 'x')
        p< 50 (0001)
        p: gone
        p: back
        p> 3C (=s/t 0001 'x')
        p< 50 (0001)
        a: quiet
        p> 62 (0001)
        p< 70 (0001)
        # Answered again, for the client may not have got it.
        p> 62 (0001)
        p< 70 (0001)
        # The id is free: a new message.
        p> 34 (=s/t 0001 'y')
        p< 50 (0001)
        a< 34 (=s/t _ _ 'y')
        p> 62 (0001)
        p< 70 (0001)
    ");
}

#[test]
fn mqtt_4_4_0_1_a_reconnect_sends_again_what_is_open_under_its_ids() {
    v3("
        a: stay
        a: subscribe t 02
        p: connect
        p> 32 (=t 0001 'a') 34 (=t 0002 'b') 34 (=t 0003 'c') 32 (=t 0004 'd')
        p< 40 (0001)
        p< 50 (0002)
        p< 50 (0003)
        p< 40 (0004)
        a< 32 (=t 0001 'a')
        a< 34 (=t 0002 'b')
        a< 34 (=t 0003 'c')
        a< 32 (=t 0004 'd')
        a> 50 (0003) 40 (0001)
        a< 62 (0003)
        a: gone
        a: back
        a< 3C (=t 0002 'b')
        a< 62 (0003)
        a< 3A (=t 0004 'd')
        gateway: crash
        a: back
        a< 3C (=t 0002 'b')
        a< 62 (0003)
        a< 3A (=t 0004 'd')
        a: quiet
    ");
}
