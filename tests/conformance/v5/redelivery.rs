//! Section 4.4: what is sent again, and when.

use crate::script::v5;

#[test]
fn mqtt_4_4_0_1_unacknowledged_packets_are_sent_again_with_their_identifiers_at_a_reconnect_only() {
    let script = |between: &str| {
        format!(
            "
            s: stay
            s: subscribe t 02
            p: connect
            p> 32 (=t 0001 () '1')
            p< 40 (0001)
            p> 34 (=t 0001 () '2')
            p< 50 (0001)
            p> 62 (0001)
            p< 70 (0001)
            p> 34 (=t 0001 () '3')
            p< 50 (0001)
            s< 32 (=t 0001 () '1')
            s< 34 (=t 0002 () '2')
            s< 34 (=t 0003 () '3')
            s> 50 (0002)
            s< 62 (0002)
            # Not while the connection stands, however long.
            time: 300
            s: quiet
            {between}
            s: back
            s< 3A (=t 0001 () '1')
            s< 62 (0002)
            s< 3C (=t 0003 () '3')
            s: quiet
        "
        )
    };
    for between in ["s: gone", "s: leave", "gateway: restart", "gateway: crash"] {
        v5(&script(between));
    }
    // A session that was discarded has nothing to send.
    v5("
        s: stay
        s: subscribe t 01
        p: connect
        p> 32 (=t 0001 () '1')
        p< 40 (0001)
        s< 32 (=t 0001 () '1')
        s: gone
        s: connect
        s: quiet
    ");
}

#[test]
fn mqtt_4_4_0_2_what_was_refused_is_not_sent_again() {
    v5("
        s: stay
        s: subscribe t 02
        p: connect
        p> 32 (=t 0001 () '1')
        p< 40 (0001)
        p> 34 (=t 0001 () '2')
        p< 50 (0001)
        s< 32 (=t 0001 () '1')
        s< 34 (=t 0002 () '2')
        s> 40 (0001 97) 50 (0002 83 (1F =why))
        s: quiet
        s: gone
        s: back
        s: quiet
    ");
}
