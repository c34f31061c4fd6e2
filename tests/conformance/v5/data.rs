//! Section 1.5: data representation.

use crate::script::v5;

#[test]
fn mqtt_1_5_4_1_text_that_is_not_utf_8_is_malformed() {
    for text in ["FF", "C0AF", "EDA080", "EDBFBF", "F4908080"] {
        v5(&format!("a: connect\na> 30 (00{:02X} {text} ())\na< E0 01 81\na: closed", text.len() / 2));
    }
}

#[test]
fn mqtt_1_5_4_2_text_with_the_nul_character_is_malformed() {
    v5("
        a: connect
        a> 30 (0003 'a' 00 'b' ())
        a< E0 01 81
        a: closed
        b> 10 (=MQTT 05 02 0000 () 0001 00)
        b< 20 (00 81 00)
        b: closed
    ");
}

#[test]
fn mqtt_1_5_4_3_a_byte_order_mark_stays_where_it_is() {
    v5("
        a: connect
        a: subscribe # 00
        a> 30 (0004 EFBBBF 'a' (26 0004 EFBBBF 'k' 0003 EFBBBF) 'x')
        a< 30 (0004 EFBBBF 'a' (26 0004 EFBBBF 'k' 0003 EFBBBF) 'x')
    ");
}
