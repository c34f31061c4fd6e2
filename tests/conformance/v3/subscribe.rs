//! Sections 3.8 and 3.9: SUBSCRIBE and SUBACK.

use super::closed_after;
use crate::script::v3;

#[test]
fn mqtt_3_8_1_1_other_flags_of_subscribe_close_the_connection() {
    closed_after(&["80 (0001 =t 00)", "81 (0001 =t 00)", "83 (0001 =t 00)", "86 (0001 =t 00)", "8A (0001 =t 00)"]);
}

#[test]
fn mqtt_3_8_3_1_a_filter_that_is_not_utf_8_closes_the_connection() {
    closed_after(&["82 (0001 0002 C328 00)", "82 (0001 =good 00 0001 FF 00)"]);
}

#[test]
fn mqtt_3_8_3_2_filters_with_wildcards_are_taken() {
    v3("
        a: connect
        a> 82 (0001 =+ 00 =# 01 =a/+/b 02 =a/# 00 =+/+/# 01)
        a< 90 (0001 00 01 02 00 01)
    ");
}

#[test]
fn mqtt_3_8_3_3_subscribe_without_a_filter_closes_the_connection() {
    closed_after(&["82 (0001)", "82 (0001 =t)", "82 (0001 0005 't' 00)"]);
}

#[test]
fn mqtt_3_8_3_4_reserved_bits_and_qos_3_close_the_connection() {
    closed_after(&[
        "82 (0001 =t 03)",
        "82 (0001 =t 04)",
        "82 (0001 =t 10)",
        "82 (0001 =t 80)",
        "82 (0001 =t 00 =u 08)",
    ]);
}

#[test]
fn mqtt_3_8_4_1_subscribe_is_answered() {
    v3("
        a: connect
        a> 82 (0001 =t 00)
        a< 90 (0001 00)
        a> 82 (0002 =t 00)
        a< 90 (0002 00)
    ");
}

#[test]
fn mqtt_3_8_4_2_suback_has_the_identifier_of_subscribe() {
    v3("
        a: connect
        a> 82 (0001 =t 00) 82 (FFFF =u 01) 82 (0100 =v 02)
        a< 90 (0001 00)
        a< 90 (FFFF 01)
        a< 90 (0100 02)
    ");
}

#[test]
fn mqtt_3_8_4_3_the_same_filter_again_replaces_the_subscription_and_sends_what_is_retained_again() {
    v3("
        a: connect
        a> 33 (=t 0001 'kept')
        a< 40 (0001)
        a: subscribe t 00
        a< 31 (=t 'kept')
        a: subscribe t 02
        a< 33 (=t _ _ 'kept')
        # One message, with the new QoS.
        p: connect
        p> 34 (=t 0001 'x')
        p< 50 (0001)
        a< 34 (=t _ _ 'x')
        a: quiet
        a: subscribe t 00
        a< 31 (=t 'kept')
        p> 32 (=t 0002 'y')
        p< 40 (0002)
        a< 30 (=t 'y')
        a: quiet
    ");
}

#[test]
fn mqtt_3_8_4_4_several_filters_are_taken_as_one_after_the_other() {
    v3("
        a: connect
        a> 31 (=u 'kept') 31 (=v 'too')
        a> 82 (0001 =t 00 =u 01 =v 00 =t 02)
        a< 90 (0001 00 01 00 02)
        a< 31 (=u 'kept')
        a< 31 (=v 'too')
        # The last of two that are alike holds.
        p: connect
        p> 34 (=t 0001 'x')
        p< 50 (0001)
        a< 34 (=t _ _ 'x')
        a: quiet
    ");
}

#[test]
fn mqtt_3_8_4_5_each_filter_gets_its_qos_or_its_failure() {
    v3("
        a: connect
        a> 82 (0001 =t 00 =u 01 =v 02 =a/#/b 00 =w 01)
        a< 90 (0001 00 01 02 80 01)
        # The failure of one is not that of others.
        a> 30 (=w 'x')
        a< 30 (=w 'x')
    ");
}

#[test]
fn mqtt_3_8_4_6_messages_come_with_the_lower_of_both_qos() {
    v3("
        zero: connect
        zero: subscribe t 00
        one: connect
        one: subscribe t 01
        two: connect
        two: subscribe t 02
        p: connect
        p> 30 (=t 'a') 32 (=t 0001 'b') 34 (=t 0002 'c')
        zero< 30 (=t 'a')
        zero< 30 (=t 'b')
        zero< 30 (=t 'c')
        one< 30 (=t 'a')
        one< 32 (=t _ _ 'b')
        one< 32 (=t _ _ 'c')
        two< 30 (=t 'a')
        two< 32 (=t _ _ 'b')
        two< 34 (=t _ _ 'c')
    ");
}

#[test]
fn mqtt_3_9_3_1_return_codes_come_in_the_order_of_the_filters() {
    v3("
        a: connect
        a> 82 (0001 =a 02 =b 00 =c+ 01 =d 01 =e 02)
        a< 90 (0001 02 00 80 01 02)
    ");
}

#[test]
fn mqtt_3_9_3_2_a_failure_is_80_whatever_its_reason() {
    v3("
        a: connect
        a> 82 (0001 =a# 00 =+a 01 =#/a 02)
        a< 90 (0001 80 80 80)
    ");
}
