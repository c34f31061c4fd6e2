//! Sections 3.12 to 3.14: PINGREQ and DISCONNECT.

use super::closed_after;
use crate::script::v3;

#[test]
fn mqtt_3_12_4_1_pingreq_is_answered() {
    v3("
        a: connect
        a> C0 00 C0 00
        a< D0 00
        a< D0 00
    ");
    closed_after(&["C0 (00)"]);
}

#[test]
fn mqtt_3_14_1_1_other_flags_of_disconnect_close_the_connection() {
    for flags in ["E1", "E2", "E8", "EF"] {
        // Not a DISCONNECT, so the will is sent.
        v3(&format!(
            "w: connect\nw: subscribe w 00\na> 10 (=MQTT 04 06 0000 =a =w =x)\na< 20 (0000)\na> {flags} 00\na: closed\nw< 30 (=w 'x')"
        ));
    }
}

#[test]
fn mqtt_3_14_4_3_disconnect_discards_the_will() {
    v3("
        w: connect
        w: subscribe # 00
        a> 10 (=MQTT 04 06 0000 =a =w =x)
        a< 20 (0000)
        a: leave
        # What was said before DISCONNECT counts.
        b> 10 (=MQTT 04 06 0000 =b =w =x)
        b< 20 (0000)
        b> 30 (=last 'words') E0 00
        b: closed
        w< 30 (=last 'words')
        # Also where the client is back at once.
        c> 10 (=MQTT 04 04 0000 =c =w =x)
        c< 20 (0000)
        c> 30 (=last 'words') E0 00
        c2> 10 (=MQTT 04 00 0000 =c)
        c2< 20 (0100)
        w< 30 (=last 'words')
        w: quiet
    ");
}
