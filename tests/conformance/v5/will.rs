//! Sections 3.1.2.5 to 3.1.2.7 and 3.1.3.2: wills.

use crate::script::v5;

#[test]
fn mqtt_3_1_2_7_a_will_is_kept_with_the_session() {
    // Without a delay and with one; the second belongs to a session and survives the gateway.
    v5("
        w> 10 (=MQTT 05 0E 0000 () =w () =will =gone)
        w< 20 _ 00 00 ...
        s: connect
        s: subscribe will 01
        w: gone
        s< 32 (=will 0001 () 'gone')
    ");
    v5("
        s: stay
        s: subscribe will 01
        w> 10 (=MQTT 05 0E 0000 (11 0000003C) =w (18 00000001) =will =gone)
        w< 20 _ 00 00 ...
        w: gone
        gateway: restart
        s: back
        s< 32 (=will _ _ () 'gone')
    ");
}

#[test]
fn mqtt_3_1_2_8_a_will_is_published_when_its_delay_or_the_session_is_over() {
    for (flags, expiry, delay) in [
        // At once: no delay, no session.
        ("06", "00000000", "00000000"),
        ("06", "00000000", "0000FFFF"),
        // After the delay, after the session.
        ("06", "0000003C", "00000001"),
        ("06", "00000001", "0000003C"),
    ] {
        v5(&format!(
            "
            s: connect
            s: subscribe will 00
            w> 10 (=MQTT 05 {flags} 0000 (11 {expiry}) =w (18 {delay}) =will =gone)
            w< 20 _ 00 00 ...
            w: gone
            s< 30 (=will () 'gone')
        "
        ));
    }
    // A protocol error, a DISCONNECT that asks for it, and a silent takeover are no normal ends either.
    for end in ["w> 00 00\nw< E0 01 81\nw: closed", "w> E0 01 04\nw: closed", "w> E0 01 80\nw: closed"] {
        v5(&format!(
            "
            s: connect
            s: subscribe will 00
            w> 10 (=MQTT 05 06 0000 () =w () =will =gone)
            w< 20 _ 00 00 ...
            {end}
            s< 30 (=will () 'gone')
        "
        ));
    }
}

#[test]
fn mqtt_3_1_2_10_a_will_is_removed_once_published_or_after_a_normal_disconnect() {
    v5("
        s: connect
        s: subscribe will 00
        w> 10 (=MQTT 05 06 0000 (11 0000003C) =w () =will =gone)
        w< 20 _ 00 00 ...
        w: gone
        s< 30 (=will () 'gone')
        w: back
        w: gone
        s: quiet
        w> 10 (=MQTT 05 04 0000 (11 0000003C) =w () =will =gone)
        w< 20 _ 01 00 ...
        w: leave
        w: back
        w: gone
        s: quiet
    ");
}

#[test]
fn mqtt_3_1_2_14_a_will_without_retain_is_not_retained() {
    v5("
        s: connect
        s: subscribe will 08
        w> 10 (=MQTT 05 06 0000 () =w () =will =gone)
        w< 20 _ 00 00 ...
        w: gone
        s< 30 (=will () 'gone')
        late: connect
        late: subscribe will 00
        late: quiet
    ");
}

#[test]
fn mqtt_3_1_2_15_a_will_with_retain_is_retained() {
    v5("
        s: connect
        s: subscribe will 08
        w> 10 (=MQTT 05 26 0000 () =w () =will =gone)
        w< 20 _ 00 00 ...
        w: gone
        s< 31 (=will () 'gone')
        late: connect
        late: subscribe will 00
        late< 31 (=will () 'gone')
    ");
}

#[test]
fn mqtt_3_1_3_9_a_will_is_not_sent_when_the_client_is_back_before_its_delay_is_over() {
    v5("
        s: connect
        s: subscribe will 00
        w> 10 (=MQTT 05 06 0000 (11 0000003C) =w (18 00000003) =will =gone)
        w< 20 _ 00 00 ...
        w: gone
        w: back
        time: 4200
        s: quiet
        w: quiet
    ");
}

#[test]
fn mqtt_3_1_3_10_the_user_properties_of_a_will_keep_their_order() {
    v5("
        s: connect
        s: subscribe will 00
        w> 10 (=MQTT 05 06 0000 () =w (26 =b =2 26 =a =1 26 =b =1 03 =text 01 01 08 =re 09 =id) =will =gone)
        w< 20 _ 00 00 ...
        w: gone
        s< 30 (=will (01 01 03 =text 08 =re 09 =id 26 =b =2 26 =a =1 26 =b =1) 'gone')
    ");
}
