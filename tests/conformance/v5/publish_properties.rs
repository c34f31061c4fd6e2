//! Section 3.3.2.3: the properties of PUBLISH.

use std::time::Instant;

use super::offences;
use crate::{
    rig::Options,
    script::{stage, v5},
};

#[test]
fn mqtt_3_3_2_4_the_payload_format_goes_on_unaltered() {
    v5("
        s: connect
        s: subscribe t 01
        p: connect
        p> 30 (=t (01 01) 'text')
        s< 30 (=t (01 01) 'text')
        p> 30 (=t (01 00) FF)
        s< 30 (=t (01 00) FF)
        p> 30 (=t () FF)
        s< 30 (=t () FF)
    ");
    // Neither 0 nor 1; and a payload that is not what it says, which ends no connection.
    offences(&[("30 (=t (01 02) 'x')", "82"), ("30 (=t (01 00 01 00) 'x')", "82")]);
    v5("
        p: connect
        p> 32 (=t 0001 (01 01) FF)
        p< 40 (0001 99)
        p> 34 (=t 0001 (01 01) FF)
        p< 50 (0001 99)
        p: quiet
    ");
}

#[test]
fn mqtt_3_3_2_5_an_expired_message_is_not_delivered() {
    v5("
        s: stay
        s: subscribe t 01
        s: gone
        p: connect
        p> 32 (=t 0001 (02 00000001) 'old')
        p< 40 (0001)
        p> 33 (=r 0001 (02 00000001) 'old')
        p< 40 (0001)
        p> 32 (=t 0001 (02 0000003C) 'new')
        p< 40 (0001)
        time: 1100
        s: back
        s< 32 (=t _ _ (02 000000 _) 'new')
        s: quiet
        late: connect
        late: subscribe r 00
        late: quiet
    ");
}

#[test]
fn mqtt_3_3_2_6_the_expiry_is_lowered_by_the_time_that_the_message_has_waited() {
    stage(5, Options::default(), async |stage| {
        stage.play("s: stay\ns: subscribe t 01\ns: gone\np: connect").await;
        let start = Instant::now();
        stage.play("p> 32 (=t 0001 (02 00000064) 'x')\np< 40 (0001)\ntime: 1050\ns: back").await;
        let packet = stage.packet("s").await;
        assert_eq!(packet[..3], [0x32, 12, 0]);
        let waited = 100 - u64::from(packet[12]);
        assert!(waited >= 1 && waited <= start.elapsed().as_secs(), "{packet:02X?}");
    });
}

#[test]
fn mqtt_3_3_2_7_topic_aliases_end_with_their_connection() {
    v5("
        p: stay
        p> 30 (=t (23 0001) 'x')
        p: leave
        p: back
        p> 30 (0000 (23 0001) 'x')
        p< E0 01 82
        p: closed
    ");
    // Those of the gateway, too: the topic is there again.
    v5("
        s> 10 (=MQTT 05 00 0000 (22 0001 11 0000003C) =s)
        s< 20 _ 00 00 ...
        s: subscribe t/long/enough 00
        p: connect
        p> 30 (=t/long/enough () 'x')
        s< 30 (=t/long/enough (23 0001) 'x')
        s: gone
        s> 10 (=MQTT 05 00 0000 (22 0001 11 0000003C) =s)
        s< 20 _ 01 00 ...
        p> 30 (=t/long/enough () 'x')
        s< 30 (=t/long/enough (23 0001) 'x')
        p> 30 (=t/long/enough () 'x')
        s< 30 (0000 (23 0001) 'x')
    ");
}

#[test]
fn mqtt_3_3_2_8_a_topic_alias_of_zero_is_invalid() {
    offences(&[("30 (=t (23 0000) 'x')", "94"), ("30 (0000 (23 0000) 'x')", "94")]);
}

#[test]
fn mqtt_3_3_2_9_a_client_may_not_exceed_the_topic_alias_maximum() {
    offences(&[("30 (=t (23 0021) 'x')", "94"), ("32 (=t 0001 (23 0100) 'x')", "94")]);
}

#[test]
fn mqtt_3_3_2_11_the_gateway_does_not_exceed_the_topic_alias_maximum() {
    v5("
        s> 10 (=MQTT 05 02 0000 (22 0001) =s)
        s< 20 _ 00 00 ...
        s: subscribe # 00
        p: connect
        p> 30 (=first/topic () 'x')
        s< 30 (=first/topic (23 0001) 'x')
        p> 30 (=first/topic () 'x')
        s< 30 (0000 (23 0001) 'x')
        p> 30 (=other/topic () 'x')
        s< 30 (=other/topic () 'x')
        p> 30 (=other/topic () 'x')
        s< 30 (=other/topic (23 0001) 'x')
        p> 30 (=other/topic () 'x')
        s< 30 (0000 (23 0001) 'x')
    ");
}

#[test]
fn mqtt_3_3_2_12_every_topic_alias_up_to_the_maximum_is_taken() {
    let mut script = vec!["s: connect\ns: subscribe # 00\np: connect".to_owned()];
    for alias in 1..=32 {
        script.push(format!("p> 30 (=t/{alias} (23 {alias:04X}) 'x')\ns< 30 (=t/{alias} () 'x')"));
    }
    for alias in 1..=32 {
        script.push(format!("p> 30 (0000 (23 {alias:04X}) 'y')\ns< 30 (=t/{alias} () 'y')"));
    }
    // An alias may get another topic.
    script.push(
        "p> 30 (=new (23 0005) 'x')\ns< 30 (=new () 'x')\np> 30 (0000 (23 0005) 'x')\ns< 30 (=new () 'x')".to_owned(),
    );
    v5(&script.join("\n"));
    // Neither topic nor alias; an alias that stands for nothing; an alias twice.
    offences(&[("30 (0000 () 'x')", "82"), ("30 (0000 (23 0007) 'x')", "82"), ("30 (=t (23 0001 23 0001) 'x')", "82")]);
}

#[test]
fn mqtt_3_3_2_13_the_response_topic_is_utf_8() {
    offences(&[("30 (=t (08 0001 FF) 'x')", "81"), ("30 (=t (08 0001 00) 'x')", "81")]);
}

#[test]
fn mqtt_3_3_2_14_the_response_topic_has_no_wildcards() {
    offences(&[("30 (=t (08 =a/#) 'x')", "82"), ("30 (=t (08 =+) 'x')", "82"), ("30 (=t (08 0000) 'x')", "82")]);
}

#[test]
fn mqtt_3_3_2_15_the_response_topic_goes_on_unaltered() {
    for subscription in ["00", "01", "02"] {
        v5(&format!(
            "
            s: connect
            s: subscribe t {subscription}
            p: connect
            p> 30 (=t (08 =answers/p) 'x')
            s< 30 (=t (08 =answers/p) 'x')
        "
        ));
    }
}

#[test]
fn mqtt_3_3_2_16_correlation_data_goes_on_unaltered() {
    v5("
        s: connect
        s: subscribe t 01
        p: connect
        p> 32 (=t 0001 (09 0004 00FF00C0) 'x')
        p< 40 (0001)
        s< 32 (=t 0001 (09 0004 00FF00C0) 'x')
        p> 30 (=t (09 0000) 'x')
        s< 30 (=t (09 0000) 'x')
    ");
}

#[test]
fn mqtt_3_3_2_17_user_properties_go_on_unaltered() {
    v5("
        s: connect
        s: subscribe t 01
        p: connect
        p> 33 (=t 0001 (26 =k =v 26 0000 0000 26 =K =V~V) 'x')
        p< 40 (0001)
        s< 32 (=t 0001 (26 =k =v 26 0000 0000 26 =K =V~V) 'x')
        gateway: restart
        s: connect
        s: subscribe t 00
        s< 31 (=t (26 =k =v 26 0000 0000 26 =K =V~V) 'x')
    ");
}

#[test]
fn mqtt_3_3_2_18_user_properties_keep_their_order() {
    v5("
        s: connect
        s: subscribe t 00
        p: connect
        p> 30 (=t (26 =b =2 26 =a =1 03 =type 26 =b =1 26 =a =1) 'x')
        s< 30 (=t (03 =type 26 =b =2 26 =a =1 26 =b =1 26 =a =1) 'x')
    ");
}

#[test]
fn mqtt_3_3_2_19_the_content_type_is_utf_8() {
    offences(&[("30 (=t (03 0001 FF) 'x')", "81"), ("30 (=t (03 0001 00) 'x')", "81")]);
}

#[test]
fn mqtt_3_3_2_20_the_content_type_goes_on_unaltered() {
    v5("
        s: connect
        s: subscribe t 00
        p: connect
        p> 30 (=t (03 =application/json) '{}')
        s< 30 (=t (03 =application/json) '{}')
        p> 30 (=t (03 0000) 'x')
        s< 30 (=t (03 0000) 'x')
    ");
}
