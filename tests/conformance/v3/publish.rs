//! Section 3.3: PUBLISH, but for its retain flag.

use super::closed_after;
use crate::script::v3;

#[test]
fn mqtt_3_3_1_1_dup_is_set_when_a_message_is_sent_again() {
    v3("
        a: stay
        a: subscribe t 02
        p: connect
        p> 32 (=t 0001 'x') 34 (=t 0002 'y')
        p< 40 (0001)
        p< 50 (0002)
        a< 32 (=t 0001 'x')
        a< 34 (=t 0002 'y')
        a: gone
        p> 32 (=t 0003 'z')
        p< 40 (0003)
        a: back
        a< 3A (=t 0001 'x')
        a< 3C (=t 0002 'y')
        # Not sent before.
        a< 32 (=t 0003 'z')
        gateway: restart
        a: back
        a< 3A (=t 0001 'x')
        a< 3C (=t 0002 'y')
        a< 3A (=t 0003 'z')
    ");
}

#[test]
fn mqtt_3_3_1_2_dup_with_qos_0_closes_the_connection() {
    closed_after(&["38 (=t 'x')", "39 (=t 'x')"]);
}

#[test]
fn mqtt_3_3_1_3_dup_of_the_publisher_is_not_passed_on() {
    v3("
        a: connect
        a: subscribe t 02
        p: connect
        p> 3A (=t 0001 'x') 3C (=t 0002 'y')
        p< 40 (0001)
        p< 50 (0002)
        a< 32 (=t _ _ 'x')
        a< 34 (=t _ _ 'y')
    ");
}

#[test]
fn mqtt_3_3_1_4_qos_3_closes_the_connection() {
    closed_after(&["36 (=t 0001 'x')", "37 (=t 0001 'x')", "3E (=t 0001 'x')"]);
}

#[test]
fn mqtt_3_3_2_1_the_topic_name_comes_first_and_is_text() {
    closed_after(&["30 00", "30 (00)", "30 (0002 'a')", "30 (0002 C328 'x')", "32 (=t 00)", "32 (=t)"]);
}

#[test]
fn mqtt_3_3_2_2_a_topic_name_with_wildcards_closes_the_connection() {
    closed_after(&[
        "30 (=# 'x')",
        "30 (=+ 'x')",
        "30 (=a/+/b 'x')",
        "32 (=a/# 0001 'x')",
        "30 (=a# 'x')",
        "30 (=a+ 'x')",
    ]);
}

#[test]
fn mqtt_3_3_2_3_the_topic_name_is_the_published_one_and_matches_the_filter() {
    v3("
        a: connect
        a: subscribe +/temp 00
        p: connect
        p> 30 (=hall/temp '1') 30 (=hall/temp/raw '2') 30 (=temp '3') 30 (=yard/temp '4')
        a< 30 (=hall/temp '1')
        a< 30 (=yard/temp '4')
        p: quiet
        a: quiet
    ");
}

#[test]
fn mqtt_3_3_4_1_each_qos_gets_the_answer_of_the_table() {
    v3("
        a: connect
        a> 30 (=t 'x')
        a: quiet
        a> 32 (=t 0001 'x')
        a< 40 (0001)
        a> 34 (=t 0002 'x')
        a< 50 (0002)
        a: quiet
    ");
    // And asks it of clients: PUBREC and PUBCOMP for QoS 1, PUBACK and an early PUBCOMP for QoS 2. What it does not know it
    // passes over: that may be an answer to an earlier connection.
    for (qos, answer) in [("2", "50 (0001)"), ("2", "70 (0001)"), ("4", "40 (0001)"), ("4", "70 (0001)")] {
        for verb in ["connect", "stay"] {
            v3(&format!(
                "a: {verb}\na: subscribe t 02\na> 40 (0009) 70 (0009)\na: quiet\np: connect\np> 3{qos} (=t 0001 'x')\n\
                 a< 3{qos} (=t 0001 'x')\na> {answer}\na: closed"
            ));
        }
    }
}

#[test]
fn mqtt_3_3_5_1_overlapping_subscriptions_respect_the_highest_qos() {
    v3("
        a: connect
        a: subscribe t/+ 00
        a: subscribe t/# 02
        a: subscribe # 01
        p: connect
        p> 34 (=t/1 0001 'x')
        p< 50 (0001)
        a< 34 (=t/1 _ _ 'x')
        a: quiet
    ");
}
