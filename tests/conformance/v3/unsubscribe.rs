//! Sections 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use super::closed_after;
use crate::script::v3;

#[test]
fn mqtt_3_10_1_1_other_flags_of_unsubscribe_close_the_connection() {
    closed_after(&["A0 (0001 =t)", "A1 (0001 =t)", "A3 (0001 =t)", "A6 (0001 =t)", "AA (0001 =t)"]);
}

#[test]
fn mqtt_3_10_3_1_a_filter_that_is_not_utf_8_closes_the_connection() {
    closed_after(&["A2 (0001 0002 C328)", "A2 (0001 =t 0001 FF)", "A2 (0001 =t 00)"]);
}

#[test]
fn mqtt_3_10_3_2_unsubscribe_without_a_filter_closes_the_connection() {
    closed_after(&["A2 (0001)"]);
}

#[test]
fn mqtt_3_10_4_1_only_the_very_same_filter_is_removed() {
    v3("
        a: connect
        a: subscribe t/+ 00
        a> A2 (0001 =t/#)
        a< B0 (0001)
        a> A2 (0002 =t/1)
        a< B0 (0002)
        a> A2 (0003 =T/+)
        a< B0 (0003)
        a> 30 (=t/1 'x')
        a< 30 (=t/1 'x')
        a> A2 (0004 =t/+)
        a< B0 (0004)
        a> 30 (=t/1 'x')
        a: quiet
        # Removed for good.
        b: stay
        b: subscribe t 01
        b> A2 (0001 =t)
        b< B0 (0001)
        gateway: crash
        b: back
        b> 30 (=t 'x')
        b: quiet
    ");
}

#[test]
fn mqtt_3_10_4_2_no_new_messages_after_unsubscribe() {
    v3("
        a: connect
        a: subscribe t 01
        p: connect
        p> 32 (=t 0001 'x')
        a< 32 (=t _ _ 'x')
        a> A2 (0001 =t)
        a< B0 (0001)
        p> 32 (=t 0002 'y')
        p< 40 (0001)
        p< 40 (0002)
        a: quiet
    ");
}

#[test]
fn mqtt_3_10_4_3_messages_that_were_begun_are_brought_to_their_end() {
    v3("
        a: stay
        a: subscribe t 02
        p: connect
        p> 32 (=t 0001 'one') 34 (=t 0002 'two')
        p< 40 (0001)
        p< 50 (0002)
        a< 32 (=t 0001 'one')
        a< 34 (=t 0002 'two')
        a> A2 (0001 =t)
        a< B0 (0001)
        a> 50 (0002)
        a< 62 (0002)
        a: gone
        a: back
        a< 3A (=t 0001 'one')
        a< 62 (0002)
        a> 40 (0001) 70 (0002)
        a: quiet
    ");
}

#[test]
fn mqtt_3_10_4_4_unsuback_has_the_identifier_of_unsubscribe() {
    v3("
        a: connect
        a> 82 (0001 =t 00) A2 (FFFF =t) A2 (0100 =t)
        a< 90 (0001 00)
        a< B0 (FFFF)
        a< B0 (0100)
    ");
}

#[test]
fn mqtt_3_10_4_5_unsubscribe_of_nothing_is_answered() {
    v3("
        a: connect
        a> A2 (0001 =never/subscribed)
        a< B0 (0001)
        a> A2 (0002 =not/#/valid)
        a< B0 (0002)
    ");
}

#[test]
fn mqtt_3_10_4_6_several_filters_are_taken_as_one_after_the_other() {
    v3("
        a: connect
        a: subscribe t 00
        a: subscribe u 00
        a: subscribe v 00
        a> A2 (0001 =t =none =u =t)
        a< B0 (0001)
        a> 30 (=t 'x') 30 (=u 'y') 30 (=v 'z')
        a< 30 (=v 'z')
        a: quiet
    ");
}
