//! MQTT 3.1.1, by sections of the specification.

mod behaviour;
mod connack;
mod connect;
mod data;
mod disconnect;
mod order;
mod publish;
mod qos;
mod retain;
mod session;
mod subscribe;
mod topics;
mod unsubscribe;
mod will;

use std::fmt::Write as _;

use crate::script::v3;

/// What a client that was let in must not send: the gateway closes the connection without a word.
fn closed_after(packets: &[&str]) {
    let mut script = String::new();
    for (number, packet) in packets.iter().enumerate() {
        writeln!(script, "c{number}: connect\nc{number}> {packet}\nc{number}: closed").unwrap();
    }
    v3(&script);
}

/// What is no CONNECT of the specification: the gateway closes the connection without a CONNACK.
fn closed_at_once(packets: &[&str]) {
    let mut script = String::new();
    for (number, packet) in packets.iter().enumerate() {
        writeln!(script, "c{number}> {packet}\nc{number}: closed").unwrap();
    }
    v3(&script);
}
