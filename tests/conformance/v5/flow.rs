//! Section 4.9: flow control.

use crate::{
    rig::Options,
    script::{stage, v5, with},
};

/// Subscriber with a window of one, two messages waiting.
const WINDOW: &str = "
    s> 10 (=MQTT 05 02 0000 (21 0001) =s)
    s< 20 _ 00 00 ...
    s: subscribe t 02
    p: connect
    p> 32 (=t 0001 () '1')
    p< 40 (0001)
    p> 32 (=t 0001 () '2')
    p< 40 (0001)
    p> 30 (=t () '0')
    p: quiet
";

#[test]
fn mqtt_4_9_0_1_the_first_window_is_the_receive_maximum() {
    stage(5, Options::default(), async |stage| {
        stage.play("s> 10 (=MQTT 05 02 0000 (21 0005) =s)\ns< 20 _ 00 00 ...\ns: subscribe t 01\np: connect").await;
        for at in 1..=9 {
            stage.play(&format!("p> 32 (=t 0001 () {at:02X})\np< 40 (0001)")).await;
        }
        for at in 1..=5 {
            stage.play(&format!("s< 32 (=t {at:04X} () {at:02X})")).await;
        }
        stage.play("s: quiet").await;
    });
    // What the gateway offers is in its CONNACK, and can be used to the full.
    with(
        5,
        Options { max_inflight: 3, ..Options::default() },
        "
        a> 10 (=MQTT 05 02 0000 () =a)
        a< 20 _ 00 00 _ 21 0003 ...
        a> 34 (=t 0001 () 'x') 34 (=t 0002 () 'x') 34 (=t 0003 () 'x')
        a< 50 (0001)
        a< 50 (0002)
        a< 50 (0003)
        a: quiet
    ",
    );
}

#[test]
fn mqtt_4_9_0_2_a_window_of_zero_stops_publishes_above_qos_0() {
    v5(&format!(
        "
        {WINDOW}
        s< 32 (=t 0001 () '1')
        s: quiet
        s> 40 (0001)
        s< 32 (=t _ _ () '2')
        s< 30 (=t () '0')
        s: quiet
    "
    ));
    // It grows only by what ends an exchange, and never above its first size.
    v5("
        s> 10 (=MQTT 05 02 0000 (21 0001) =s)
        s< 20 _ 00 00 ...
        s: subscribe t 02
        p: connect
        p> 34 (=t 0001 () '1') 34 (=t 0002 () '2') 34 (=t 0003 () '3')
        p< 50 (0001)
        p< 50 (0002)
        p< 50 (0003)
        s< 34 (=t 0001 () '1')
        s> 40 (0009) 70 (0009) 50 (0001)
        s< 62 (0001)
        s: quiet
        s> 70 (0001) 70 (0001) 40 (0005)
        s< 34 (=t _ _ () '2')
        s: quiet
    ");
}

#[test]
fn mqtt_4_9_0_3_other_packets_are_answered_with_a_window_of_zero() {
    v5(&format!(
        "
        {WINDOW}
        s< 32 (=t 0001 () '1')
        s> C0 00 82 (0007 () =u 01) A2 (0008 () =u)
        s< D0 00
        s< 90 (0007 () 01)
        s< B0 (0008 () 00)
        s> 34 (=other 0002 () 'x')
        s< 50 (0002)
        s> 62 (0002)
        s< 70 (0002)
    "
    ));
    // Towards the gateway: its window is used up, and everything else goes on.
    with(
        5,
        Options { max_inflight: 1, ..Options::default() },
        "
        a: connect
        a> 34 (=t 0001 () 'x')
        a< 50 (0001)
        a> C0 00 82 (0007 () =u 01) 30 (=u () 'y')
        a< D0 00
        a< 90 (0007 () 01)
        a< 30 (=u () 'y')
    ",
    );
}
