//! Sections 1.5 and 2: data representation and the format of packets.

use super::{closed_after, closed_at_once};
use crate::script::v3;

/// Packets with this text in every place that takes text.
fn text_everywhere(text: &str) {
    let topic = format!("30 ({text} 'x')");
    let filter = format!("82 (0001 {text} 00)");
    let unsubscribed = format!("A2 (0001 {text})");
    closed_after(&[&topic, &filter, &unsubscribed]);
    let client_id = format!("10 (=MQTT 04 02 0000 {text})");
    let will_topic = format!("10 (=MQTT 04 06 0000 =c {text} =x)");
    let user_name = format!("10 (=MQTT 04 82 0000 =c {text})");
    closed_at_once(&[&client_id, &will_topic, &user_name]);
}

#[test]
fn mqtt_1_5_3_1_text_that_is_not_utf_8_closes_the_connection() {
    // A byte that is in no text, an overlong slash, surrogates, above U+10FFFF, cut short.
    for text in ["0001 FF", "0002 C0AF", "0003 EDA080", "0003 EDBFBF", "0004 F4908080", "0002 E282"] {
        text_everywhere(text);
    }
}

#[test]
fn mqtt_1_5_3_2_the_nul_character_closes_the_connection() {
    text_everywhere("0003 'a' 00 'b'");
}

#[test]
fn mqtt_1_5_3_3_a_byte_order_mark_stays_where_it_is() {
    v3("
        a: connect
        a: subscribe # 00
        a> 30 (0004 EFBBBF 'a' 'x')
        a< 30 (0004 EFBBBF 'a' 'x')
        a: subscribe a 00
        a> 30 (0004 EFBBBF 'a' 'x')
        a< 30 (0004 EFBBBF 'a' 'x')
        a: quiet
    ");
}

#[test]
fn mqtt_2_2_2_1_packets_of_the_server_have_the_flags_of_the_table() {
    v3("
        a> 10 (=MQTT 04 02 0000 =a)
        a< 20 (0000)
        a> 82 (0001 =t 02)
        a< 90 (0001 02)
        a> 32 (=u 0002 'x')
        a< 40 (0002)
        a> 34 (=t 0003 'x')
        a< 50 (0003)
        a< 34 (=t 0001 'x')
        a> 62 (0003)
        a< 70 (0003)
        a> 50 (0001)
        a< 62 (0001)
        a> 70 (0001)
        a> A2 (0004 =t)
        a< B0 (0004)
        a> C0 00
        a< D0 00
    ");
}

#[test]
fn mqtt_2_2_2_2_invalid_flags_close_the_connection() {
    closed_after(&[
        "41 (0001)",
        "52 (0001)",
        "60 (0001)",
        "66 (0001)",
        "71 (0001)",
        "80 (0001 =t 00)",
        "83 (0001 =t 00)",
        "A0 (0001 =t)",
        "A6 (0001 =t)",
        "C1 00",
        "C8 00",
        "E1 00",
        "EF 00",
    ]);
    closed_at_once(&["11 (=MQTT 04 02 0000 =a)", "18 (=MQTT 04 02 0000 =a)"]);
}

#[test]
fn mqtt_2_3_1_1_packet_identifier_0_closes_the_connection() {
    closed_after(&["32 (=t 0000 'x')", "34 (=t 0000 'x')", "82 (0000 =t 00)", "A2 (0000 =t)"]);
}

#[test]
fn mqtt_2_3_1_4_identifiers_of_the_server_are_unused_ones_and_stay_the_same_when_sent_again() {
    v3("
        a: stay
        a: subscribe t 02
        p: connect
        p> 32 (=t 0001 'x') 34 (=t 0002 'y') 32 (=t 0003 'z')
        p< 40 (0001)
        p< 50 (0002)
        p< 40 (0003)
        a< 32 (=t 0001 'x')
        a< 34 (=t 0002 'y')
        a< 32 (=t 0003 'z')
        a: gone
        a: back
        a< 3A (=t 0001 'x')
        a< 3C (=t 0002 'y')
        a< 3A (=t 0003 'z')
        a> 40 (0001) 50 (0002)
        a< 62 (0002)
        a: gone
        a: back
        # 2 is in use until PUBCOMP: what was sent as PUBLISH before is a PUBREL now.
        a< 62 (0002)
        a< 3A (=t 0003 'z')
    ");
}

#[test]
fn mqtt_2_3_1_5_publish_of_qos_0_has_no_packet_identifier() {
    v3("
        a: connect
        a: subscribe t 00
        a> 32 (=t 0007 'x')
        a< 40 (0007)
        a< 30 (=t 'x')
        a> 30 (=t 0007)
        a< 30 (=t 0007)
    ");
}

#[test]
fn mqtt_2_3_1_6_acknowledgements_have_the_identifier_of_the_publish() {
    v3("
        a: connect
        a> 32 (=t FFFF 'x') 32 (=t 0001 'x') 34 (=t 8000 'x')
        a< 40 (FFFF)
        a< 40 (0001)
        a< 50 (8000)
        a> 62 (8000)
        a< 70 (8000)
    ");
}

#[test]
fn mqtt_2_3_1_7_suback_and_unsuback_have_the_identifier_of_the_request() {
    v3("
        a: connect
        a> 82 (FFFF =t 00) A2 (8001 =t) 82 (0001 =t 00)
        a< 90 (FFFF 00)
        a< B0 (8001)
        a< 90 (0001 00)
    ");
}
