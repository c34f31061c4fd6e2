//! Sections 3.3.1 and 3.3.2.1: DUP, QoS, RETAIN and topic of PUBLISH.

use super::offences;
use crate::script::v5;

#[test]
fn mqtt_3_3_1_1_what_is_sent_again_says_so() {
    for (flags, again, subscription) in [("32", "3A", "01"), ("34", "3C", "02")] {
        v5(&format!(
            "
            s: stay
            s: subscribe t {subscription}
            p: connect
            p> {flags} (=t 0001 () 'x')
            p< {} (0001)
            s< {flags} (=t 0001 () 'x')
            s: gone
            s: back
            s< {again} (=t 0001 () 'x')
            s: quiet
        ",
            if flags == "32" { "40" } else { "50" }
        ));
    }
}

#[test]
fn mqtt_3_3_1_2_dup_is_zero_with_qos_0() {
    offences(&[("38 (=t () 'x')", "81")]);
    v5("
        s: connect
        s: subscribe t 00
        p: connect
        p> 3A (=t 0001 () 'x')
        p< 40 (0001)
        s< 30 (=t () 'x')
    ");
}

#[test]
fn mqtt_3_3_1_3_dup_to_the_subscriber_is_not_dup_from_the_publisher() {
    v5("
        s: connect
        s: subscribe t 02
        p: connect
        p> 3A (=t 0001 () 'x')
        p< 40 (0001)
        p> 3C (=t 0002 () 'y')
        p< 50 (0002)
        s< 32 (=t 0001 () 'x')
        s< 34 (=t 0002 () 'y')
    ");
}

#[test]
fn mqtt_3_3_1_4_qos_3_is_malformed() {
    offences(&[("36 (=t 0001 () 'x')", "81"), ("3E (=t 0001 () 'x')", "81"), ("37 (=t 0001 () 'x')", "81")]);
}

#[test]
fn mqtt_3_3_1_5_a_retained_message_is_stored_and_replaces_the_one_before() {
    v5("
        p: connect
        p> 33 (=t 0001 () 'old')
        p< 40 (0001)
        p> 33 (=t 0001 () 'new')
        p< 40 (0001)
        s: connect
        s: subscribe t 01
        s< 33 (=t 0001 () 'new')
        s: quiet
        gateway: restart
        s: connect
        s: subscribe t 00
        s< 31 (=t () 'new')
        s: quiet
    ");
}

#[test]
fn mqtt_3_3_1_6_an_empty_retained_message_removes_the_one_that_is_there() {
    v5("
        s: connect
        s: subscribe t 09
        p: connect
        p> 33 (=t 0001 () 'x')
        p< 40 (0001)
        p> 33 (=t 0001 () )
        p< 40 (0001)
        s< 33 (=t 0001 () 'x')
        s< 33 (=t 0002 ())
        late: connect
        late: subscribe t 00
        late: quiet
        gateway: restart
        late: connect
        late: subscribe t 00
        late: quiet
    ");
}

#[test]
fn mqtt_3_3_1_7_an_empty_retained_message_is_not_stored() {
    v5("
        p: connect
        p> 33 (=t 0001 () )
        p< 40 (0001)
        s: connect
        s: subscribe # 00
        s: quiet
    ");
}

#[test]
fn mqtt_3_3_1_8_a_message_without_retain_leaves_the_retained_one_alone() {
    v5("
        p: connect
        p> 33 (=t 0001 () 'kept')
        p< 40 (0001)
        p> 32 (=t 0001 () 'passing')
        p< 40 (0001)
        p> 32 (=t 0001 ())
        p< 40 (0001)
        p> 32 (=other 0001 () 'passing')
        p< 40 (0001)
        s: connect
        s: subscribe # 00
        s< 31 (=t () 'kept')
        s: quiet
    ");
}

const RETAINED: &str = "
    p: connect
    p> 33 (=r/1 0001 () 'one')
    p< 40 (0001)
    s: connect
";

#[test]
fn mqtt_3_3_1_9_retain_handling_0_sends_retained_messages_at_every_subscribe() {
    v5(&format!(
        "
        {RETAINED}
        s: subscribe r/+ 00
        s< 31 (=r/1 () 'one')
        s: subscribe r/+ 01
        s< 33 (=r/1 0001 () 'one')
        s: quiet
    "
    ));
}

#[test]
fn mqtt_3_3_1_10_retain_handling_1_sends_them_for_new_subscriptions_only() {
    v5(&format!(
        "
        {RETAINED}
        s: subscribe r/+ 10
        s< 31 (=r/1 () 'one')
        s: subscribe r/+ 11
        s: quiet
        s: subscribe r/# 10
        s< 31 (=r/1 () 'one')
        s> A2 (0001 () =r/+)
        s< B0 (0001 () 00)
        s: subscribe r/+ 10
        s< 31 (=r/1 () 'one')
        s: quiet
    "
    ));
}

#[test]
fn mqtt_3_3_1_11_retain_handling_2_sends_none() {
    v5(&format!(
        "
        {RETAINED}
        s: subscribe r/+ 20
        s: subscribe r/+ 21
        s: quiet
    "
    ));
}

#[test]
fn mqtt_3_3_1_12_without_retain_as_published_retain_is_zero() {
    v5("
        s: connect
        s: subscribe t 01
        p: connect
        p> 33 (=t 0001 () 'x')
        p< 40 (0001)
        p> 32 (=t 0001 () 'y')
        p< 40 (0001)
        s< 32 (=t 0001 () 'x')
        s< 32 (=t 0002 () 'y')
    ");
}

#[test]
fn mqtt_3_3_1_13_with_retain_as_published_retain_is_as_it_came() {
    v5("
        s: connect
        s: subscribe t 09
        p: connect
        p> 33 (=t 0001 () 'x')
        p< 40 (0001)
        p> 32 (=t 0001 () 'y')
        p< 40 (0001)
        s< 33 (=t 0001 () 'x')
        s< 32 (=t 0002 () 'y')
    ");
}

#[test]
fn mqtt_3_3_2_1_the_topic_name_is_first_and_utf_8() {
    offences(&[("30 00", "81"), ("30 (00)", "81"), ("30 (0005 't')", "81"), ("30 (0001 FF ())", "81")]);
}

#[test]
fn mqtt_3_3_2_2_a_topic_name_has_no_wildcards() {
    offences(&[("30 (=a/# () 'x')", "90"), ("30 (=a/+/b () 'x')", "90"), ("32 (=a+ 0001 () 'x')", "90")]);
}

#[test]
fn mqtt_3_3_2_3_the_topic_name_is_one_that_matches_and_is_unchanged() {
    v5("
        s: connect
        s: subscribe a/+/c 00
        p: connect
        p> 30 (=a/b/c () 'x')
        p> 30 (=a//c () 'y')
        p> 30 (=a/b/d () 'z')
        p: quiet
        s< 30 (=a/b/c () 'x')
        s< 30 (=a//c () 'y')
        s: quiet
    ");
}
