//! Sections 3.1.2.4 and 4.1: clean session, and what a session is.

use crate::script::v3;

/// A session with a subscription and a message for it, and what comes between its connections.
fn between(what: &str) {
    v3(&format!(
        "
        a: stay
        a: subscribe t/+ 02
        a: leave
        p: connect
        p> 32 (=t/1 0001 'one') 34 (=t/2 0002 'two')
        p< 40 (0001)
        p< 50 (0002)
        {what}
        a: back
        a< 32 (=t/1 _ _ 'one')
        a< 34 (=t/2 _ _ 'two')
        q: connect
        q> 30 (=t/3 'live')
        a< 30 (=t/3 'live')
        a: quiet
        "
    ));
}

#[test]
fn mqtt_3_1_2_4_a_session_is_resumed_and_otherwise_begun() {
    v3("
        a> 10 (=MQTT 04 00 0000 =a)
        a< 20 (0000)
        a: subscribe t 00
        a: gone
        a> 10 (=MQTT 04 00 0000 =a)
        a< 20 (0100)
        a> 30 (=t 'x')
        a< 30 (=t 'x')
        # Stored also where the gateway stops or dies.
        gateway: restart
        a: back
        a> 30 (=t 'x')
        a< 30 (=t 'x')
        gateway: crash
        a: back
        a> 30 (=t 'x')
        a< 30 (=t 'x')
    ");
}

#[test]
fn mqtt_3_1_2_5_messages_of_qos_1_and_2_are_stored_for_who_is_away() {
    between("");
    between("gateway: restart");
    between("gateway: crash");
}

#[test]
fn mqtt_3_1_2_6_a_clean_session_discards_the_old_one_and_leaves_nothing() {
    v3("
        a: stay
        a: subscribe t 01
        a: leave
        p: connect
        p> 32 (=t 0001 'x')
        p< 40 (0001)
        a: connect
        p> 32 (=t 0002 'y')
        p< 40 (0002)
        a: subscribe u 01
        p> 32 (=u 0003 'z')
        p< 40 (0003)
        a< 32 (=u _ _ 'z')
        a: gone
        a: stay
        p> 32 (=t 0004 'x') 32 (=u 0005 'y')
        p< 40 (0004)
        p< 40 (0005)
        a: quiet
        # Nor after a restart.
        b: stay
        b: subscribe t 01
        b: leave
        b: connect
        b: leave
        gateway: restart
        b: stay
        b: quiet
    ");
}

#[test]
fn mqtt_3_1_2_7_retained_messages_stay_when_the_session_ends() {
    v3("
        a: connect
        a> 33 (=t 0001 'kept')
        a< 40 (0001)
        a: leave
        a: connect
        a: subscribe t 00
        a< 31 (=t 'kept')
        gateway: crash
        a: connect
        a: subscribe t 00
        a< 31 (=t 'kept')
    ");
}

#[test]
fn mqtt_4_1_0_1_session_state_is_kept_for_the_whole_session() {
    // Everything that belongs to it: subscriptions, messages not acknowledged both ways, messages not sent yet.
    v3("
        a: stay
        a: subscribe t 02
        a> 34 (=in 0005 'in')
        a< 50 (0005)
        p: connect
        p> 32 (=t 0001 'one') 34 (=t 0002 'two') 34 (=t 0003 'three')
        p< 40 (0001)
        p< 50 (0002)
        p< 50 (0003)
        a< 32 (=t 0001 'one')
        a< 34 (=t 0002 'two')
        a< 34 (=t 0003 'three')
        a> 50 (0002)
        a< 62 (0002)
        gateway: crash
        w: connect
        w: subscribe in 02
        p: connect
        p> 32 (=t 0004 'four')
        p< 40 (0004)
        a: back
        a< 3A (=t 0001 'one')
        a< 62 (0002)
        a< 3C (=t 0003 'three')
        a< 32 (=t 0004 'four')
        a> 70 (0002)
        # The message that the gateway has received is known, and not delivered once more.
        a> 3C (=in 0005 'in')
        a< 50 (0005)
        a> 62 (0005)
        a< 70 (0005)
        w: quiet
    ");
}

#[test]
fn mqtt_4_1_0_2_a_session_lasts_as_long_as_its_connection() {
    v3("
        a> 10 (=MQTT 04 02 0000 =a)
        a< 20 (0000)
        a: subscribe t 02
        a> 34 (=t 0001 'x')
        a< 50 (0001)
        a< 34 (=t 0001 'x')
        time: 300
        a> 3C (=t 0001 'x')
        a< 50 (0001)
        a> 50 (0001)
        a< 62 (0001)
        a> 62 (0001)
        a< 70 (0001)
        a> 70 (0001)
        a: quiet
    ");
}
