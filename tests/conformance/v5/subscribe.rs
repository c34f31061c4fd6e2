//! Sections 3.8 and 3.9: SUBSCRIBE and SUBACK.

use super::offences;
use crate::{
    rig::Options,
    script::{stage, v5},
};

#[test]
fn mqtt_3_8_1_1_the_reserved_flags_of_subscribe_are_checked() {
    offences(&[("80 (0001 () =t 00)", "81"), ("81 (0001 () =t 00)", "81"), ("8A (0001 () =t 00)", "81")]);
}

#[test]
fn mqtt_3_8_3_1_topic_filters_are_utf_8() {
    offences(&[("82 (0001 () 0001 FF 00)", "81"), ("82 (0001 () =t 00 0003 EDA080 00)", "81")]);
}

#[test]
fn mqtt_3_8_3_2_there_is_at_least_one_filter_with_its_options() {
    offences(&[("82 (0001 ())", "82"), ("82 (0001 () =t)", "81"), ("82 (0001 () =t 00 =u)", "81")]);
}

#[test]
fn mqtt_3_8_3_3_with_no_local_a_client_does_not_get_its_own_messages() {
    v5("
        a: connect
        a: subscribe t 04
        b: connect
        b: subscribe t 00
        a> 32 (=t 0001 () 'mine')
        a< 40 (0001)
        b< 30 (=t () 'mine')
        b> 32 (=t 0001 () 'yours')
        b< 40 (0001)
        b< 30 (=t () 'yours')
        a< 30 (=t () 'yours')
        a: quiet
    ");
    // Retained ones neither, and it is the client id that counts, not the connection.
    v5("
        a: stay
        a> 33 (=r 0001 () 'mine')
        a< 40 (0001)
        a: leave
        a: back
        a: subscribe r 04
        a: quiet
        a: subscribe r 00
        a< 31 (=r () 'mine')
    ");
}

#[test]
fn mqtt_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() {
    offences(&[("82 (0001 () =$share/g/t 04)", "82"), ("82 (0001 () =t 00 =$share/g/t 06)", "82")]);
}

#[test]
fn mqtt_3_8_3_5_reserved_bits_of_the_options_are_malformed() {
    offences(&[
        ("82 (0001 () =t 40)", "81"),
        ("82 (0001 () =t 80)", "81"),
        ("82 (0001 () =t 00 =u C1)", "81"),
        // Values that are not allowed, and an identifier that is zero or there twice.
        ("82 (0001 () =t 03)", "81"),
        ("82 (0001 () =t 30)", "82"),
        ("82 (0001 (0B 00) =t 00)", "82"),
        ("82 (0001 (0B 01 0B 02) =t 00)", "82"),
    ]);
}

#[test]
fn mqtt_3_8_4_1_every_subscribe_is_answered() {
    v5("
        a: connect
        a> 82 (0001 () =t 00) 82 (0002 () =t 01) 82 (0003 () =# 02)
        a< 90 (0001 () 00)
        a< 90 (0002 () 01)
        a< 90 (0003 () 02)
        b: stay
        b> 82 (0001 () =t 00) 82 (0002 () =t 01) 82 (0003 () =# 02)
        b< 90 (0001 () 00)
        b< 90 (0002 () 01)
        b< 90 (0003 () 02)
    ");
}

#[test]
fn mqtt_3_8_4_2_suback_has_the_identifier_of_its_subscribe() {
    v5("
        a: connect
        a> 82 (FFFF () =t 00)
        a< 90 (FFFF () 00)
        a> 82 (0100 () =t 00)
        a< 90 (0100 () 00)
    ");
}

#[test]
fn mqtt_3_8_4_3_a_subscription_to_the_same_filter_replaces_the_old_one() {
    v5("
        s: connect
        s> 82 (0001 (0B 01) =t 02)
        s< 90 (0001 () 02)
        s> 82 (0002 (0B 02) =t 08)
        s< 90 (0002 () 00)
        p: connect
        p> 33 (=t 0001 () 'x')
        p< 40 (0001)
        s< 31 (=t (0B 02) 'x')
        s: quiet
        s> A2 (0003 () =t)
        s< B0 (0003 () 00)
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        s: quiet
    ");
}

#[test]
fn mqtt_3_8_4_4_replacing_a_subscription_sends_retained_messages_again_and_loses_none() {
    stage(5, Options::default(), async |stage| {
        stage.play("p: connect\np> 33 (=t 0001 () 'kept')\np< 40 (0001)").await;
        stage.play("s: connect\ns: subscribe t 00\ns< 31 (=t () 'kept')").await;
        let burst: Vec<String> = (1..=50).map(|at| format!("30 (=t () {at:02X})")).collect();
        stage.play(&format!("p> {}\ns> 82 (0001 () =t 00)", burst.join(" "))).await;
        // The answer and the retained message come at some place among the others, in this order.
        let (mut live, mut others) = (Vec::new(), Vec::new());
        while live.len() < 50 || others.len() < 2 {
            let packet = stage.packet("s").await;
            if packet[0] == 0x30 { live.push(packet[6]) } else { others.push(packet[0]) }
        }
        assert_eq!((live, others), ((1..=50).collect(), vec![0x90, 0x31]));
        stage.play("s: quiet").await;
    });
}

#[test]
fn mqtt_3_8_4_5_many_filters_are_as_many_subscribes_with_one_answer() {
    v5("
        p: connect
        p> 33 (=a 0001 () 'a')
        p< 40 (0001)
        p> 33 (=b 0001 () 'b')
        p< 40 (0001)
        s: connect
        s> 82 (0001 () =a 00 =b 01 =a 01 =b 21)
        s< 90 (0001 () 00 01 01 01)
        s< 31 (=a () 'a')
        s< 33 (=b 0001 () 'b')
        s< 33 (=a 0002 () 'a')
        s: quiet
        p> 32 (=a 0001 () 'x')
        p< 40 (0001)
        s< 32 (=a 0003 () 'x')
    ");
}

#[test]
fn mqtt_3_8_4_6_suback_has_a_code_for_each_filter() {
    v5("
        a: connect
        a> 82 (0001 () =a 00 =b# 00 =c 02 =+ 01 =+x 00)
        a< 90 (0001 () 00 8F 02 01 8F)
    ");
}

#[test]
fn mqtt_3_8_4_7_a_code_is_the_granted_qos_or_a_failure() {
    v5("
        a: connect
        a> 82 (0001 () =a 00 =b 01 =c 02 =# 02 =# 2D)
        a< 90 (0001 () 00 01 02 02 01)
        a> 82 (0001 () =a/#/b 02 =## 01 =a+/b 00)
        a< 90 (0001 () 8F 8F 8F)
    ");
}

#[test]
fn mqtt_3_8_4_8_the_qos_of_a_delivery_is_the_lower_one() {
    for granted in 0..3 {
        let mut script = vec![format!("s: connect\ns: subscribe t 0{granted}\np: connect")];
        for (qos, publish) in ["30 (=t () '0')", "32 (=t 0001 () '1')", "34 (=t 0002 () '2')"].iter().enumerate() {
            script.push(format!("p> {publish}"));
            script.push(["p: quiet", "p< 40 (0001)", "p< 50 (0002)"][qos].to_owned());
            let delivery = match granted.min(qos) {
                0 => "s< 30 (=t () _)",
                1 => "s< 32 (=t _ _ () _)",
                _ => "s< 34 (=t _ _ () _)",
            };
            script.push(delivery.to_owned());
        }
        v5(&script.join("\n"));
    }
}

#[test]
fn mqtt_3_9_2_1_there_is_no_reason_string_that_makes_suback_too_large() {
    v5("
        a> 10 (=MQTT 05 02 0000 (17 01 27 00000020) =a)
        a< 20 _ 00 00 ...
        a> 82 (0001 () =a# 00)
        a< 90 (0001 () 8F)
    ");
}

#[test]
fn mqtt_3_9_2_2_there_are_no_user_properties_that_make_suback_too_large() {
    v5("
        a: connect
        a> 82 (0001 (26 =k =v) =a# 00)
        a< 90 (0001 () 8F)
    ");
}

#[test]
fn mqtt_3_9_3_1_the_codes_come_in_the_order_of_the_filters() {
    v5("
        a: connect
        a> 82 (0001 () =a 02 =b 00 =c# 00 =d 01)
        a< 90 (0001 () 02 00 8F 01)
    ");
}

#[test]
fn mqtt_3_9_3_2_the_codes_are_those_of_suback() {
    // Too many levels, too many subscriptions.
    let deep = "/".repeat(300);
    v5(&format!("a: connect\na> 82 (0001 () ={deep} 00 =ok 00)\na< 90 (0001 () 8F 00)"));
    let mut script = vec!["a: connect".to_owned()];
    for at in 0..1025 {
        let code = if at < 1024 { "00" } else { "97" };
        script.push(format!("a> 82 (0001 () ={at} 00)\na< 90 (0001 () {code})"));
    }
    v5(&script.join("\n"));
}
