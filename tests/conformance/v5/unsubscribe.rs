//! Sections 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use super::offences;
use crate::script::v5;

#[test]
fn mqtt_3_10_1_1_the_reserved_flags_of_unsubscribe_are_checked() {
    offences(&[("A0 (0001 () =t)", "81"), ("A1 (0001 () =t)", "81"), ("AA (0001 () =t)", "81")]);
}

#[test]
fn mqtt_3_10_3_1_topic_filters_are_utf_8() {
    offences(&[("A2 (0001 () 0001 FF)", "81"), ("A2 (0001 () =t 0003 EDA080)", "81"), ("A2 (0001 () 0005 't')", "81")]);
}

#[test]
fn mqtt_3_10_3_2_there_is_at_least_one_filter() {
    offences(&[("A2 (0001 ())", "82"), ("A2 (0001 (26 =k =v))", "82")]);
}

#[test]
fn mqtt_3_10_4_1_filters_are_compared_character_by_character() {
    v5("
        s: connect
        s: subscribe a/+ 00
        s> A2 (0001 () =a/b =a/# =A/+ =a/+/ =/a/+)
        s< B0 (0001 () 11 11 11 11 11)
        p: connect
        p> 30 (=a/b () 'x')
        s< 30 (=a/b () 'x')
        s> A2 (0002 () =a/+)
        s< B0 (0002 () 00)
        p> 32 (=a/b 0001 () 'x')
        p< 40 (0001)
        s: quiet
    ");
}

#[test]
fn mqtt_3_10_4_2_after_unsubscribe_no_new_messages_are_added() {
    for connect in ["connect", "stay"] {
        v5(&format!(
            "
            s: {connect}
            s: subscribe t 01
            s: subscribe u 01
            s> A2 (0001 () =t)
            s< B0 (0001 () 00)
            p: connect
            p> 32 (=t 0001 () 'x')
            p< 40 (0001)
            p> 32 (=u 0001 () 'y')
            p< 40 (0001)
            s< 32 (=u 0001 () 'y')
            s: quiet
        "
        ));
    }
    v5("
        s: stay
        s: subscribe t 01
        s> A2 (0001 () =t)
        s< B0 (0001 () 00)
        s: gone
        gateway: restart
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        s: back
        s: quiet
    ");
}

#[test]
fn mqtt_3_10_4_3_deliveries_that_were_begun_are_completed() {
    v5("
        s: stay
        s: subscribe t 02
        p: connect
        p> 32 (=t 0001 () '1')
        p< 40 (0001)
        p> 34 (=t 0001 () '2')
        p< 50 (0001)
        s< 32 (=t 0001 () '1')
        s< 34 (=t 0002 () '2')
        s> A2 (0001 () =t)
        s< B0 (0001 () 00)
        s: gone
        s: back
        s< 3A (=t 0001 () '1')
        s< 3C (=t 0002 () '2')
        s> 40 (0001) 50 (0002)
        s< 62 (0002)
        s> 70 (0002)
        s: quiet
    ");
}

#[test]
fn mqtt_3_10_4_4_every_unsubscribe_is_answered() {
    v5("
        a: connect
        a: subscribe t 00
        a> A2 (0001 () =t) A2 (0002 () =t)
        a< B0 (0001 () 00)
        a< B0 (0002 () 11)
    ");
}

#[test]
fn mqtt_3_10_4_5_unsuback_has_the_identifier_of_its_request_whatever_it_did() {
    v5("
        a: connect
        a> A2 (FFFE () =t)
        a< B0 (FFFE () 11)
        a: subscribe t 00
        a> A2 (0102 () =t)
        a< B0 (0102 () 00)
    ");
}

#[test]
fn mqtt_3_10_4_6_many_filters_are_as_many_unsubscribes_with_one_answer() {
    v5("
        a: connect
        a: subscribe t 00
        a: subscribe u 00
        a: subscribe v 00
        a> A2 (0001 () =t =t =u)
        a< B0 (0001 () 00 11 00)
        a> 30 (=t () 'x') 30 (=u () 'y') 30 (=v () 'z')
        a< 30 (=v () 'z')
        a: quiet
    ");
}

#[test]
fn mqtt_3_11_2_1_there_is_no_reason_string_that_makes_unsuback_too_large() {
    v5("
        a> 10 (=MQTT 05 02 0000 (17 01 27 00000020) =a)
        a< 20 _ 00 00 ...
        a> A2 (0001 () =t)
        a< B0 (0001 () 11)
    ");
}

#[test]
fn mqtt_3_11_2_2_there_are_no_user_properties_that_make_unsuback_too_large() {
    v5("
        a: connect
        a> A2 (0001 (26 =k =v) =t)
        a< B0 (0001 () 11)
    ");
}

#[test]
fn mqtt_3_11_3_1_the_codes_come_in_the_order_of_the_filters() {
    v5("
        a: connect
        a: subscribe b 00
        a> A2 (0001 () =a =b =c)
        a< B0 (0001 () 11 00 11)
    ");
}

#[test]
fn mqtt_3_11_3_2_the_codes_are_those_of_unsuback() {
    // A filter that no subscription can have exists nowhere.
    v5("
        a: connect
        a: subscribe # 00
        a> A2 (0001 () =# =a# =t)
        a< B0 (0001 () 00 11 11)
    ");
}
