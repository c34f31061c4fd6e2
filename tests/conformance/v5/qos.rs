//! Section 4.3: the delivery protocols.

use crate::{
    rig::Options,
    script::{stage, v5, with},
};

#[test]
fn mqtt_4_3_1_1_qos_0_is_sent_without_dup() {
    v5("
        s: connect
        s: subscribe t 02
        s> 30 (=t () 'x')
        s< 30 (=t () 'x')
        s: quiet
    ");
}

/// Messages for a subscriber of QoS 2 that acknowledges none.
fn unacknowledged(publish: &str, ack: &str) {
    stage(5, Options::default(), async |stage| {
        stage.play("s: connect\ns: subscribe t 02\np: connect").await;
        let mut ids = Vec::new();
        for _ in 0..20 {
            stage.play(&format!("p> {publish} (=t 0001 () 'x')\np< {ack} (0001)")).await;
            if publish == "34" {
                stage.play("p> 62 (0001)\np< 70 (0001)").await;
            }
            let packet = stage.packet("s").await;
            let id = [packet[5], packet[6]];
            assert!(format!("{:02X}", packet[0]) == publish && id != [0, 0] && !ids.contains(&id), "{packet:02X?}");
            ids.push(id);
        }
    });
}

#[test]
fn mqtt_4_3_2_1_qos_1_takes_an_unused_packet_identifier() {
    unacknowledged("32", "40");
}

#[test]
fn mqtt_4_3_2_2_qos_1_is_first_sent_without_dup() {
    v5("
        s: connect
        s: subscribe t 01
        p: connect
        p> 3A (=t 0001 () 'x')
        p< 40 (0001)
        s< 32 (=t 0001 () 'x')
    ");
}

#[test]
fn mqtt_4_3_2_3_qos_1_is_unacknowledged_until_puback() {
    v5("
        s: stay
        s: subscribe t 01
        p: connect
        p> 32 (=t 0001 () '1')
        p< 40 (0001)
        p> 32 (=t 0001 () '2')
        p< 40 (0001)
        s< 32 (=t 0001 () '1')
        s< 32 (=t 0002 () '2')
        # Acknowledgements of something unknown.
        s> 50 (0009) 70 (0009) 40 (0007)
        s< 62 (0009 92)
        s> 40 (0002)
        s: quiet
        s: gone
        s: back
        s< 3A (=t 0001 () '1')
        s> 40 (0001)
        s: quiet
        s: gone
        s: back
        s: quiet
    ");
}

#[test]
fn mqtt_4_3_2_4_puback_comes_once_the_message_is_safe() {
    // What was acknowledged is there after a crash at that very moment.
    stage(5, Options::default(), async |stage| {
        stage.play("p: connect\np> 32 (=s/1 FFFF () 'x')\np< 40 (FFFF)\ngateway: crash").await;
        assert_eq!(stage.rig().backlog(), 1);
    });
}

#[test]
fn mqtt_4_3_2_5_after_puback_the_same_identifier_is_a_new_message() {
    v5("
        s: connect
        s: subscribe t 00
        p: connect
        p> 32 (=t 0001 () '1')
        p< 40 (0001)
        p> 3A (=t 0001 () '2')
        p< 40 (0001)
        s< 30 (=t () '1')
        s< 30 (=t () '2')
    ");
}

#[test]
fn mqtt_4_3_3_1_qos_2_takes_an_unused_packet_identifier() {
    unacknowledged("34", "50");
}

#[test]
fn mqtt_4_3_3_2_qos_2_is_first_sent_without_dup() {
    v5("
        s: connect
        s: subscribe t 02
        p: connect
        p> 3C (=t 0001 () 'x')
        p< 50 (0001)
        s< 34 (=t 0001 () 'x')
    ");
}

/// A QoS 2 message on its way to a subscriber whose session stays.
const SENT: &str = "
    s: stay
    s: subscribe t 02
    p: connect
    p> 34 (=t 0001 () 'x')
    p< 50 (0001)
    s< 34 (=t 0001 () 'x')
";

#[test]
fn mqtt_4_3_3_3_qos_2_is_unacknowledged_until_pubrec() {
    v5(&format!(
        "
        {SENT}
        s> 40 (0009)
        s: quiet
        s: gone
        s: back
        s< 3C (=t 0001 () 'x')
        s> 50 (0001)
        s< 62 (0001)
        s: gone
        s: back
        s< 62 (0001)
        s: quiet
    "
    ));
}

#[test]
fn mqtt_4_3_3_4_pubrec_is_answered_with_pubrel() {
    v5(&format!("{SENT}\ns> 50 (0001)\ns< 62 (0001)\ns> 50 (0001)\ns< 62 (0001)"));
    v5(&format!("{SENT}\ns> 50 (0001 10)\ns< 62 (0001)"));
    // One that says no ends the exchange.
    v5(&format!("{SENT}\ns> 50 (0001 80)\ns: quiet\ns: gone\ns: back\ns: quiet"));
}

#[test]
fn mqtt_4_3_3_5_pubrel_is_unacknowledged_until_pubcomp() {
    v5(&format!(
        "
        {SENT}
        s> 50 (0001)
        s< 62 (0001)
        s: gone
        s: back
        s< 62 (0001)
        s> 70 (0001)
        s: quiet
        s: gone
        s: back
        s: quiet
    "
    ));
}

#[test]
fn mqtt_4_3_3_6_after_pubrel_the_message_is_not_sent_again() {
    v5(&format!(
        "
        {SENT}
        s> 50 (0001)
        s< 62 (0001)
        s: gone
        s: back
        s< 62 (0001)
        s: quiet
        gateway: restart
        s: back
        s< 62 (0001)
        s: quiet
    "
    ));
}

#[test]
fn mqtt_4_3_3_7_a_message_that_was_sent_does_not_expire() {
    v5("
        s: stay
        s: subscribe t 02
        p: connect
        p> 34 (=t 0001 (02 00000003) 'x')
        p< 50 (0001)
        s< 34 (=t 0001 (02 000000 _) 'x')
        s: gone
        time: 3100
        s: back
        s< 3C (=t 0001 (02 00000001) 'x')
    ");
}

#[test]
fn mqtt_4_3_3_8_pubrec_comes_once_the_message_is_safe() {
    stage(5, Options::default(), async |stage| {
        stage.play("p: connect\np> 34 (=s/1 FFFF () 'x')\np< 50 (FFFF)\ngateway: crash").await;
        assert_eq!(stage.rig().backlog(), 1);
    });
}

#[test]
fn mqtt_4_3_3_9_after_a_pubrec_that_refuses_the_identifier_is_free() {
    with(
        5,
        Options { max_messages: Some(1), ..Options::default() },
        "
        s: connect
        s: subscribe # 00
        p: connect
        p> 34 (=s/1 0001 () '1')
        p< 50 (0001)
        s< 30 (=s/1 () '1')
        p> 34 (=s/1 0002 () '2')
        p< 50 (0002 97)
        p> 34 (=t 0002 () '3')
        p< 50 (0002)
        s< 30 (=t () '3')
        p> 62 (0002)
        p< 70 (0002)
    ",
    );
}

#[test]
fn mqtt_4_3_3_10_until_pubrel_the_same_identifier_is_the_same_message() {
    for session in ["connect", "stay"] {
        v5(&format!(
            "
            s: connect
            s: subscribe # 00
            p: {session}
            p> 34 (=s/1 0001 () 'x')
            p< 50 (0001)
            s< 30 (=s/1 () 'x')
            p> 3C (=s/1 0001 () 'x')
            p< 50 (0001)
            p> 34 (=s/1 0001 () 'x')
            p< 50 (0001)
            s: quiet
            p> 62 (0001)
            p< 70 (0001)
        "
        ));
    }
    // Across connections and a crash.
    stage(5, Options::default(), async |stage| {
        stage.play("p: stay\np> 34 (=s/1 0001 () 'x')\np< 50 (0001)\np: gone\np: back").await;
        stage.play("p> 3C (=s/1 0001 () 'x')\np< 50 (0001)\ngateway: crash\np: back").await;
        stage.play("p> 3C (=s/1 0001 () 'x')\np< 50 (0001)\np> 62 (0001)\np< 70 (0001)").await;
        assert_eq!(stage.rig().backlog(), 1);
    });
}

#[test]
fn mqtt_4_3_3_11_pubrel_is_answered_with_pubcomp() {
    v5("
        p: connect
        p> 34 (=t 1234 () 'x')
        p< 50 (1234)
        p> 62 (1234)
        p< 70 (1234)
        p> 62 (1234)
        p< 70 (1234 92)
    ");
}

#[test]
fn mqtt_4_3_3_12_after_pubcomp_the_same_identifier_is_a_new_message() {
    v5("
        s: connect
        s: subscribe t 00
        p: connect
        p> 34 (=t 0001 () '1')
        p< 50 (0001)
        p> 62 (0001)
        p< 70 (0001)
        p> 3C (=t 0001 () '2')
        p< 50 (0001)
        s< 30 (=t () '1')
        s< 30 (=t () '2')
    ");
}

#[test]
fn mqtt_4_3_3_13_the_exchange_goes_on_when_the_message_has_expired() {
    // From a publisher, and to a subscriber that has it already.
    v5("
        p: connect
        p> 34 (=s/1 0001 (02 00000001) 'x')
        p< 50 (0001)
        time: 1100
        p> 3C (=s/1 0001 (02 00000001) 'x')
        p< 50 (0001)
        p> 62 (0001)
        p< 70 (0001)
    ");
    v5("
        s: connect
        s: subscribe t 02
        s> 34 (=t 0001 (02 00000003) 'x')
        s< 50 (0001)
        s< 34 (=t 0001 (02 000000 _) 'x')
        time: 3100
        s> 50 (0001)
        s< 62 (0001)
        s> 70 (0001)
        s: quiet
    ");
}
