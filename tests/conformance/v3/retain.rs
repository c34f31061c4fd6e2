//! Section 3.3.1.3: retained messages.

use crate::script::v3;

#[test]
fn mqtt_3_3_1_5_a_retained_message_is_kept_with_its_qos() {
    v3("
        p: connect
        p> 31 (=t/0 'zero') 33 (=t/1 0001 'one') 35 (=t/2 0002 'two')
        p< 40 (0001)
        p< 50 (0002)
        a: connect
        a: subscribe t/0 02
        a< 31 (=t/0 'zero')
        a: subscribe t/1 02
        a< 33 (=t/1 _ _ 'one')
        a: subscribe t/2 02
        a< 35 (=t/2 _ _ 'two')
        gateway: crash
        a: connect
        a: subscribe t/2 02
        a< 35 (=t/2 _ _ 'two')
        a: subscribe t/0 02
        a< 31 (=t/0 'zero')
    ");
}

#[test]
fn mqtt_3_3_1_6_a_new_subscription_gets_the_last_one_of_each_matching_topic() {
    v3("
        p: connect
        p> 31 (=t/1 'old') 31 (=t/1 'new') 31 (=t/2/3 'deep') 31 (=u/1 'other')
        p: quiet
        a: connect
        a: subscribe t/+ 00
        a< 31 (=t/1 'new')
        a: quiet
        a: subscribe t/2/# 00
        a< 31 (=t/2/3 'deep')
        a: quiet
        a: subscribe none 00
        a: quiet
    ");
}

#[test]
fn mqtt_3_3_1_7_a_retained_message_of_qos_0_replaces_the_one_before() {
    v3("
        p: connect
        p> 33 (=t 0001 'old')
        p< 40 (0001)
        p> 31 (=t 'new')
        p: quiet
        a: connect
        a: subscribe t 02
        a< 31 (=t 'new')
        a: quiet
    ");
}

#[test]
fn mqtt_3_3_1_8_retain_is_set_for_a_new_subscription() {
    v3("
        a: connect
        a> 31 (=t 'x')
        a: subscribe t 00
        a< 31 (=t 'x')
        # What a client published before it subscribed is not news to it, however fast it was.
        b: connect
        b> 33 (=u 0001 'y') 82 (0002 =u 01)
        b< 40 (0001)
        b< 90 (0002 01)
        b< 33 (=u _ _ 'y')
        b: quiet
    ");
}

#[test]
fn mqtt_3_3_1_9_retain_is_not_set_for_an_established_subscription() {
    v3("
        a: connect
        a: subscribe t 02
        p: connect
        p> 31 (=t 'x') 33 (=t 0001 'y') 35 (=t 0002 'z')
        a< 30 (=t 'x')
        a< 32 (=t _ _ 'y')
        a< 34 (=t _ _ 'z')
    ");
}

#[test]
fn mqtt_3_3_1_10_an_empty_retained_message_is_passed_on_and_removes_the_kept_one() {
    v3("
        a: connect
        a: subscribe t 00
        p: connect
        p> 31 (=t 'x')
        a< 30 (=t 'x')
        p> 31 (=t)
        a< 30 (=t)
        b: connect
        b: subscribe t 00
        b: quiet
        gateway: crash
        b: connect
        b: subscribe t 00
        b: quiet
    ");
}

#[test]
fn mqtt_3_3_1_11_an_empty_message_is_not_kept() {
    v3("
        p: connect
        p> 33 (=t 0001)
        p< 40 (0001)
        b: connect
        b: subscribe # 00
        b: quiet
    ");
}

#[test]
fn mqtt_3_3_1_12_a_message_without_the_flag_neither_is_kept_nor_removes_one() {
    v3("
        p: connect
        p> 33 (=t 0001 'kept') 32 (=t 0002 'live') 30 (=t) 32 (=u 0003 'live')
        p< 40 (0001)
        p< 40 (0002)
        p< 40 (0003)
        b: connect
        b: subscribe # 00
        b< 31 (=t 'kept')
        b: quiet
    ");
}
