//! Sections 1.5 and 2: data representation, the fixed header, packet identifiers.

use super::{offences, refusals};
use crate::{
    rig::Options,
    script::{stage, v5},
};

#[test]
fn mqtt_1_5_4_1_text_that_is_not_utf_8_is_malformed() {
    let cases = ["0001 FF", "0002 C0AF", "0003 EDA080", "0003 EDBFBF", "0004 F4908080", "0001 C3"];
    let publishes = cases.map(|text| format!("30 ({text} ())"));
    offences(&publishes.each_ref().map(|publish| (publish.as_str(), "81")));
    let connects = cases.map(|text| format!("10 (=MQTT 05 02 0000 () {text})"));
    refusals(&connects.each_ref().map(|connect| (connect.as_str(), "81")));
}

#[test]
fn mqtt_1_5_4_2_text_with_the_nul_character_is_malformed() {
    offences(&[
        ("30 (0003 'a' 00 'b' ())", "81"),
        ("30 (=t (03 0001 00) 'x')", "81"),
        ("82 (0001 () 0003 'a' 00 'b' 00)", "81"),
        ("A2 (0001 () 0003 'a' 00 'b')", "81"),
    ]);
    refusals(&[("10 (=MQTT 05 02 0000 () 0001 00)", "81"), ("10 (=MQTT 05 06 0000 () =a () 0001 00 =x)", "81")]);
}

#[test]
fn mqtt_1_5_4_3_a_byte_order_mark_stays_where_it_is() {
    v5("
        a: connect
        a: subscribe # 00
        a> 30 (0004 EFBBBF 'a' (26 0004 EFBBBF 'k' 0003 EFBBBF) 'x')
        a< 30 (0004 EFBBBF 'a' (26 0004 EFBBBF 'k' 0003 EFBBBF) 'x')
    ");
}

#[test]
fn mqtt_1_5_5_1_a_variable_byte_integer_takes_no_more_bytes_than_it_needs() {
    offences(&[
        ("C0 80 00", "81"),
        ("30 (=a 8000 'x')", "81"),
        ("30 FF FF FF FF 01", "81"),
        ("82 (0001 80808080 01 =a 00)", "81"),
        ("82 (0001 (0B 8100) =a 00)", "81"),
    ]);
    // The largest numbers of every length, in a property.
    for id in ["7F", "FF7F", "FFFF7F", "FFFFFF7F"] {
        v5(&format!(
            "
            a: connect
            a> 82 (0001 (0B {id}) =a 00)
            a< 90 (0001 () 00)
            a> 30 (=a () 'x')
            a< 30 (=a (0B {id}) 'x')
        "
        ));
    }
}

#[test]
fn mqtt_1_5_7_1_both_strings_of_a_pair_are_utf_8_without_nul() {
    offences(&[
        ("30 (=a (26 0001 FF =v))", "81"),
        ("30 (=a (26 =k 0001 FF))", "81"),
        ("30 (=a (26 0001 00 =v))", "81"),
        ("30 (=a (26 =k 0001 00))", "81"),
        ("82 (0001 (26 =k 0003 EDA080) =a 00)", "81"),
    ]);
}

#[test]
fn mqtt_2_1_3_1_reserved_flags_of_the_fixed_header_are_checked() {
    let mut cases = Vec::new();
    for (packet, right, rest) in [
        (4, 0, "(0001)"),
        (5, 0, "(0001)"),
        (6, 2, "(0001)"),
        (7, 0, "(0001)"),
        (8, 2, "(0001 () =a 00)"),
        (10, 2, "(0001 () =a)"),
        (12, 0, "00"),
        (14, 0, "00"),
        (15, 0, "00"),
    ] {
        let wrong = (0..16).filter(|flags| *flags != right);
        cases.extend(wrong.map(|flags| format!("{packet:X}{flags:X} {rest}")));
    }
    offences(&cases.iter().map(|case| (case.as_str(), "81")).collect::<Vec<_>>());
}

#[test]
fn mqtt_2_2_1_2_a_publish_of_qos_0_has_no_packet_identifier() {
    v5("
        a: connect
        a: subscribe t 02
        a> 30 (=t () 'x')
        a< 30 (=t () 'x')
    ");
}

#[test]
fn mqtt_2_2_1_3_a_packet_identifier_of_zero_is_a_protocol_error() {
    offences(&[
        ("32 (=t 0000 () 'x')", "82"),
        ("34 (=t 0000 () 'x')", "82"),
        ("82 (0000 () =t 00)", "82"),
        ("A2 (0000 () =t)", "82"),
    ]);
}

#[test]
fn mqtt_2_2_1_4_a_publish_to_a_client_has_an_identifier_that_is_not_in_use() {
    stage(5, Options::default(), async |stage| {
        stage.play("s: connect\ns: subscribe t 02\np: connect").await;
        let mut in_use = Vec::new();
        for at in 0..50 {
            let (flags, ack) = [("32", "40"), ("34", "50")][at % 2];
            stage.play(&format!("p> {flags} (=t 0001 () 'x')\np< {ack} (0001)")).await;
            if flags == "34" {
                stage.play("p> 62 (0001)\np< 70 (0001)").await;
            }
            let packet = stage.packet("s").await;
            let id = u16::from_be_bytes([packet[5], packet[6]]);
            assert!(id != 0 && !in_use.contains(&id), "{id} of {in_use:?}");
            // Every fifth is finished, so that its identifier may come again.
            if at % 10 == 0 {
                stage.play(&format!("s> 40 ({id:04X})")).await;
            } else {
                in_use.push(id);
            }
        }
    });
}

#[test]
fn mqtt_2_2_1_5_acknowledgements_have_the_identifier_of_their_publish() {
    v5("
        s: connect
        s: subscribe t 02
        p: connect
        p> 32 (=t 1234 () 'x')
        p< 40 (1234)
        p> 34 (=t FFFF () 'x')
        p< 50 (FFFF)
        p> 62 (FFFF)
        p< 70 (FFFF)
        s< 32 (=t 0001 () 'x')
        s< 34 (=t 0002 () 'x')
        s> 50 (0002)
        s< 62 (0002)
    ");
}

#[test]
fn mqtt_2_2_1_6_suback_and_unsuback_have_the_identifier_of_their_request() {
    v5("
        a: connect
        a> 82 (ABCD () =t 01)
        a< 90 (ABCD () 01)
        a> A2 (0102 () =t)
        a< B0 (0102 () 00)
    ");
}

#[test]
fn mqtt_2_2_2_1_no_properties_are_a_property_length_of_zero() {
    v5("
        a: connect
        a> 82 (0001 00 =t 00)
        a< 90 (0001 00 00)
        a> 30 (=t 00 'x')
        a< 30 (=t 00 'x')
        a> A2 (0001 00 =t)
        a< B0 (0001 00 00)
    ");
    // Left out altogether it is not there.
    offences(&[("30 (=t)", "81"), ("82 (0001)", "81"), ("A2 (0001)", "81")]);
}
