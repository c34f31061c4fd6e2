//! Sections 4.5, 4.8 and 7: ownership of messages, errors, conformance.

use super::closed_after;
use crate::{
    rig::Options,
    script::{v3, with},
};

#[test]
fn mqtt_4_5_0_1_a_message_goes_to_every_session_with_a_matching_subscription() {
    v3("
        here: connect
        here: subscribe s/+ 01
        away: stay
        away: subscribe s/t 02
        away: leave
        other: connect
        other: subscribe u 02
        p: connect
        p: subscribe # 00
        p> 34 (=s/t 0001 'x')
        p< 50 (0001)
        p< 30 (=s/t 'x')
        here< 32 (=s/t _ _ 'x')
        other: quiet
        gateway: crash
        away: back
        away< 34 (=s/t _ _ 'x')
    ");
}

#[test]
fn mqtt_4_8_0_1_who_breaks_the_protocol_is_disconnected() {
    // Packets that only a server sends, types that 3.1.1 does not have, bytes beyond a packet's end.
    closed_after(&[
        "20 (0000)",
        "90 (0001 00)",
        "B0 (0001)",
        "D0 00",
        "00 00",
        "F0 00",
        "40 (0001 00)",
        "62 (0001 00)",
        "E0 (00)",
        "40 00",
        "40 (00)",
    ]);
    // Others do not notice.
    v3("
        a: connect
        b: connect
        b> 00 00
        b: closed
        a: quiet
    ");
}

#[test]
fn mqtt_4_8_0_2_who_sends_what_cannot_be_taken_is_disconnected() {
    let small = Options { max_packet: 1024, ..Options::default() };
    with(
        4,
        small,
        "
        a: connect
        a> 30 (=t 'x'*1022)
        a: closed
        b: connect
        b> 30 FF FF FF 7F
        b: closed
        c: connect
        c: quiet
    ",
    );
}

#[test]
fn mqtt_7_0_0_2_nothing_beyond_the_specification_is_asked_of_a_client() {
    // The least that a client can say, one byte at a time.
    let connect: String = ["10", "0D", "00", "04", "4D", "51", "54", "54", "04", "02", "00", "00", "00", "01", "61"]
        .map(|byte| format!("a> {byte}\n"))
        .concat();
    v3(&format!("{connect}a< 20 (0000)\na> E0\na> 00\na: closed"));
    // A remaining length may be written in more bytes than needed; 3.1.1 does not forbid it.
    v3("b: connect\nb> C0 8000\nb< D0 00");
}

#[test]
fn mqtt_7_1_1_1_the_transport_is_an_ordered_lossless_stream_of_bytes() {
    let large = Options { max_packet: 1 << 20, ..Options::default() };
    with(
        4,
        large,
        "
        a: connect
        a: subscribe t 00
        a> 30 (=t 'x'*500000) 30 (=t 'y') 30 (=t 'z'*300000)
        a< 30 (=t 'x'*500000)
        a< 30 (=t 'y')
        a< 30 (=t 'z'*300000)
    ",
    );
}
