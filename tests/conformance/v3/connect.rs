//! Section 3.1: CONNECT.

use std::time::{Duration, Instant};

use super::closed_at_once;
use crate::{
    rig::Options,
    script::{stage, v3},
};

#[test]
fn mqtt_3_1_0_1_anything_before_connect_closes_the_connection() {
    closed_at_once(&["C0 00", "30 (=t 'x')", "32 (=t 0001 'x')", "82 (0001 =t 00)", "E0 00", "20 (0000)", "'GET~/'"]);
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_closes_the_connection() {
    v3("
        a: connect
        a> 10 (=MQTT 04 02 0000 =a)
        a: closed
        b: connect
        b> 10 (=MQTT 04 02 0000 =other)
        b: closed
    ");
}

#[test]
fn mqtt_3_1_2_1_another_protocol_name_is_not_let_in() {
    closed_at_once(&[
        "10 (=MQTt 04 02 0000 =a)",
        "10 (=HTTP 04 02 0000 =a)",
        "10 (=MQTTT 04 02 0000 =a)",
        "10 (0000 04 02 0000 =a)",
    ]);
}

#[test]
fn mqtt_3_1_2_2_another_protocol_level_gets_code_1_and_is_closed() {
    // 3.1, which has a name of its own; levels that never were; and 3.1 and 3.1.1 with the top bit of Mosquitto's bridges.
    for connect in ["=MQIsdp 03", "=MQTT 03", "=MQTT 00", "=MQTT 02", "=MQIsdp 83", "=MQTT 84"] {
        v3(&format!("a> 10 ({connect} 02 0000 =a)\na< 20 (0001)\na: closed"));
    }
}

#[test]
fn mqtt_3_1_2_3_the_reserved_flag_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 03 0000 =a)", "10 (=MQTT 04 01 0000 =a)"]);
}

#[test]
fn mqtt_3_1_2_18_a_user_name_without_its_flag_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 02 0000 =a =user)"]);
}

#[test]
fn mqtt_3_1_2_19_a_flag_without_a_user_name_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 82 0000 =a)"]);
}

#[test]
fn mqtt_3_1_2_20_a_password_without_its_flag_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 82 0000 =a =user =password)"]);
}

#[test]
fn mqtt_3_1_2_21_a_flag_without_a_password_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 C2 0000 =a =user)"]);
}

#[test]
fn mqtt_3_1_2_22_a_password_without_a_user_name_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 42 0000 =a =password)"]);
}

#[test]
fn mqtt_3_1_2_24_who_is_silent_for_one_and_a_half_times_its_keep_alive_is_disconnected() {
    stage(4, Options::default(), async |stage| {
        stage.play("off: connect\na> 10 (=MQTT 04 06 0001 =a =w =gone)\na< 20 (0000)").await;
        stage.play("w: connect\nw: subscribe w 00").await;
        // Whatever it says keeps it alive.
        stage.play("time: 800\na> 30 (=t 'x')\ntime: 800\na: quiet").await;
        let silent = Instant::now();
        stage.play("a: closed").await;
        let took = silent.elapsed();
        let right = Duration::from_millis(1450)..Duration::from_millis(3500);
        assert!(right.contains(&took), "closed after {took:?}");
        // As if the network had failed, so the will is sent; and no keep alive is no limit.
        stage.play("w< 30 (=w 'gone')\noff: quiet").await;
    });
}

#[test]
fn mqtt_3_1_3_1_fields_of_the_payload_come_in_their_order() {
    v3("
        w: connect
        w: subscribe # 00
        a> 10 (=MQTT 04 C6 0000 =a =will/topic =will~message =user =password)
        a< 20 (0000)
        a: gone
        w< 30 (=will/topic 'will~message')
    ");
}

#[test]
fn mqtt_3_1_3_2_state_belongs_to_the_client_id() {
    v3("
        a: stay
        a: subscribe for/a 01
        a: leave
        b: stay
        b: subscribe for/b 01
        b: leave
        p: connect
        p> 32 (=for/a 0001 'a') 32 (=for/b 0002 'b')
        p< 40 (0001)
        p< 40 (0002)
        b: back
        b< 32 (=for/b _ _ 'b')
        b: quiet
        a: back
        a< 32 (=for/a _ _ 'a')
        a: quiet
        # Ids are compared byte by byte.
        A: stay
    ");
}

#[test]
fn mqtt_3_1_3_3_a_connect_without_client_id_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 02 0000)", "10 (=MQTT 04 02 0000 00)"]);
}

#[test]
fn mqtt_3_1_3_4_a_client_id_that_is_not_utf_8_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 02 0000 0002 C328)", "10 (=MQTT 04 00 0000 0001 80)"]);
}

#[test]
fn mqtt_3_1_3_5_ids_of_1_to_23_letters_and_digits_are_taken() {
    for id in ["0", "Z", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
        v3(&format!("{id}: connect\n{id}: quiet"));
    }
}

#[test]
fn mqtt_3_1_3_6_clients_without_id_get_one_each() {
    v3("
        a> 10 (=MQTT 04 02 0000 0000)
        a< 20 (0000)
        b> 10 (=MQTT 04 02 0000 0000)
        b< 20 (0000)
        a: subscribe t 00
        b> 30 (=t 'x')
        a< 30 (=t 'x')
        b: quiet
        a: quiet
    ");
}

#[test]
fn mqtt_3_1_3_8_no_id_and_no_clean_session_gets_code_2_and_is_closed() {
    v3("
        a> 10 (=MQTT 04 00 0000 0000)
        a< 20 (0002)
        a: closed
    ");
}

#[test]
fn mqtt_3_1_3_9_a_refused_id_gets_code_2_and_is_closed() {
    v3("
        a> 10 (=MQTT 04 02 0000 =x*256)
        a< 20 (0000)
        b> 10 (=MQTT 04 02 0000 =x*257)
        b< 20 (0002)
        b: closed
    ");
}

#[test]
fn mqtt_3_1_3_10_a_will_topic_that_is_not_utf_8_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 06 0000 =a 0002 C328 =x)"]);
}

#[test]
fn mqtt_3_1_3_11_a_user_name_that_is_not_utf_8_closes_the_connection() {
    closed_at_once(&["10 (=MQTT 04 82 0000 =a 0002 C328)"]);
}

#[test]
fn mqtt_3_1_4_1_a_connect_that_does_not_conform_is_closed_without_connack() {
    closed_at_once(&[
        // Cut short at each field.
        "10 (=MQTT)",
        "10 (=MQTT 04)",
        "10 (=MQTT 04 02)",
        "10 (=MQTT 04 02 00)",
        "10 (=MQTT 04 06 0000 =a)",
        "10 (=MQTT 04 06 0000 =a =w)",
        "10 (=MQTT 04 06 0000 =a =w 0005 'x')",
        "10 00",
        // More than its flags say.
        "10 (=MQTT 04 02 0000 =a 00)",
        // A will topic that cannot be published to.
        "10 (=MQTT 04 06 0000 =a =w/# =x)",
        "10 (=MQTT 04 06 0000 =a 0000 =x)",
        // A length in five bytes.
        "10 FF FF FF FF 01",
    ]);
}

#[test]
fn mqtt_3_1_4_2_the_same_id_again_disconnects_the_client_that_is_there() {
    v3("
        a: connect
        again> 10 (=MQTT 04 02 0000 =a)
        again< 20 (0000)
        a: closed
        again: quiet
        # With sessions that stay, and in another version.
        b: stay
        late> 10 (=MQTT 05 00 0000 (11 FFFFFFFF) =b)
        late< 20 _ 01 00 ...
        b: closed
        late: quiet
    ");
}

#[test]
fn mqtt_3_1_4_3_both_values_of_clean_session_are_processed() {
    v3("
        a: stay
        a: subscribe t 01
        a: leave
        a: back
        a: leave
        a: connect
        p: connect
        p> 30 (=t 'x')
        p: quiet
        a: quiet
        a: leave
        a: stay
    ");
}

#[test]
fn mqtt_3_1_4_4_a_connect_that_conforms_gets_code_0() {
    v3("
        a> 10 (=MQTT 04 02 0000 =a)
        a< 20 (0000)
        b> 10 (=MQTT 04 00 FFFF =b)
        b< 20 (0000)
        c> 10 (=MQTT 04 F6 000A =c =will =x =user =password)
        c< 20 (0000)
        d> 10 (=MQTT 04 CE 000A =d =will 0000 0000 0000)
        d< 20 (0000)
    ");
}

#[test]
fn mqtt_3_1_4_5_nothing_after_a_refused_connect_is_processed() {
    v3("
        w: connect
        w: subscribe # 00
        a> 10 (=MQTT 04 00 0000 0000) 30 (=t 'x')
        a< 20 (0002)
        a: closed
        b> 10 (=MQTT 04 03 0000 =b) 30 (=t 'x')
        b: closed
        c> 10 (=MQTT 03 02 0000 =c) 30 (=t 'x')
        c< 20 (0001)
        c: closed
        w: quiet
    ");
}
