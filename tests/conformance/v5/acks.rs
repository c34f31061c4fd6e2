//! Sections 3.4 to 3.7: PUBACK, PUBREC, PUBREL, PUBCOMP.

use super::offences;
use crate::{rig::Options, script::with};

/// A stream that takes one message; clients that want to know why the next is refused.
fn refused(connect: &str, script: &str) {
    let script = format!(
        "a> 10 (=MQTT 05 02 0000 ({connect}) =a)\na< 20 _ 00 00 ...\na> 32 (=s/1 0001 () 'x')\na< 40 (0001)\n{script}"
    );
    with(5, Options { max_messages: Some(1), ..Options::default() }, &script);
}

#[test]
fn mqtt_3_4_2_1_puback_has_one_of_its_reasons() {
    refused(
        "",
        "
        a> 32 (=s/1 0002 () 'x')
        a< 40 (0002 97)
        a> 32 (=s/1 0002 (01 01) FF)
        a< 40 (0002 99)
    ",
    );
    // From a client, too; with and without properties.
    offences(&[
        ("40 (0001 01)", "81"),
        ("40 (0001 92)", "81"),
        ("40 (0001 00 (11 00000001))", "81"),
        ("40 (00)", "81"),
    ]);
    refused("", "a> 40 (0001) 40 (0001 00) 40 (0001 10 ()) 40 (0001 80 (1F =why 26 =k =v 26 =k =v))\na: quiet");
}

#[test]
fn mqtt_3_4_2_2_a_reason_string_does_not_make_puback_too_large() {
    refused("17 01", "a> 32 (=s/1 0002 () 'x')\na< 40 _ 0002 97 _ 1F ...");
    refused("17 01 27 00000012", "a> 32 (=s/1 0002 () 'x')\na< 40 (0002 97)");
}

#[test]
fn mqtt_3_4_2_3_there_are_no_user_properties_that_make_puback_too_large() {
    refused("27 00000020", "a> 32 (=s/1 0002 (26 =k =value~that~is~long) 'x')\na< 40 (0002 97)");
}

#[test]
fn mqtt_3_5_2_1_pubrec_has_one_of_its_reasons() {
    refused(
        "",
        "
        a> 34 (=s/1 0002 () 'x')
        a< 50 (0002 97)
        a> 34 (=s/1 0002 (01 01) FF)
        a< 50 (0002 99)
    ",
    );
    offences(&[("50 (0001 01)", "81"), ("50 (0001 92)", "81"), ("50 (0001 00 (23 0001))", "81")]);
}

#[test]
fn mqtt_3_5_2_2_a_reason_string_does_not_make_pubrec_too_large() {
    refused("17 01", "a> 34 (=s/1 0002 () 'x')\na< 50 _ 0002 97 _ 1F ...");
    refused("17 01 27 00000012", "a> 34 (=s/1 0002 () 'x')\na< 50 (0002 97)");
}

#[test]
fn mqtt_3_5_2_3_there_are_no_user_properties_that_make_pubrec_too_large() {
    refused("27 00000020", "a> 34 (=s/1 0002 (26 =k =value~that~is~long) 'x')\na< 50 (0002 97)");
}

#[test]
fn mqtt_3_6_1_1_the_reserved_flags_of_pubrel_are_checked() {
    offences(&[
        ("60 (0001)", "81"),
        ("61 (0001)", "81"),
        ("63 (0001)", "81"),
        ("66 (0001)", "81"),
        ("6A (0001)", "81"),
    ]);
}

#[test]
fn mqtt_3_6_2_1_pubrel_has_one_of_its_reasons() {
    refused("", "a> 50 (0009)\na< 62 (0009 92)");
    offences(&[("62 (0001 80)", "81"), ("62 (0001 10)", "81"), ("62 (0001 00 (11 00000001))", "81")]);
    refused("", "a> 34 (=t 0002 () 'x')\na< 50 (0002)\na> 62 (0002 92 (1F =why))\na< 70 (0002)");
}

#[test]
fn mqtt_3_6_2_2_a_reason_string_does_not_make_pubrel_too_large() {
    refused("17 01 27 00000012", "a> 50 (0009)\na< 62 (0009 92)");
}

#[test]
fn mqtt_3_6_2_3_there_are_no_user_properties_that_make_pubrel_too_large() {
    refused("27 00000020", "a> 50 (0009 00 (26 =k =v))\na< 62 (0009 92)");
}

#[test]
fn mqtt_3_7_2_1_pubcomp_has_one_of_its_reasons() {
    refused("", "a> 62 (0009)\na< 70 (0009 92)\na> 34 (=t 0009 () 'x')\na< 50 (0009)\na> 62 (0009)\na< 70 (0009)");
    offences(&[("70 (0001 80)", "81"), ("70 (0001 97)", "81")]);
    refused("", "a> 70 (0001) 70 (0001 00) 70 (0001 92 (1F =why))\na: quiet");
}

#[test]
fn mqtt_3_7_2_2_a_reason_string_does_not_make_pubcomp_too_large() {
    refused("17 01 27 00000012", "a> 62 (0009)\na< 70 (0009 92)");
}

#[test]
fn mqtt_3_7_2_3_there_are_no_user_properties_that_make_pubcomp_too_large() {
    refused("27 00000020", "a> 62 (0009 00 (26 =k =v))\na< 70 (0009 92)");
}
