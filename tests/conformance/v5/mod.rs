//! MQTT 5.0, by sections of the specification.

mod acks;
mod auth;
mod connack;
mod connect;
mod connect_payload;
mod data;
mod disconnect;
mod flow;
mod limits;
mod order;
mod publish;
mod publish_actions;
mod publish_properties;
mod qos;
mod redelivery;
mod session;
mod shared;
mod subscribe;
mod topics;
mod unsubscribe;
mod will;

use crate::script::v5;

/// Connected clients send these bytes; each is told the reason, and its connection is closed.
fn offences(cases: &[(&str, &str)]) {
    let mut script = Vec::new();
    for (at, (bytes, reason)) in cases.iter().enumerate() {
        script.push(format!("a{at}: connect\na{at}> {bytes}\na{at}< E0 01 {reason}\na{at}: closed"));
    }
    v5(&script.join("\n"));
}

/// CONNECTs that are refused with this code; the connection is closed.
fn refusals(cases: &[(&str, &str)]) {
    let mut script = Vec::new();
    for (at, (bytes, reason)) in cases.iter().enumerate() {
        script.push(format!("a{at}> {bytes}\na{at}< 20 (00 {reason} ())\na{at}: closed"));
    }
    v5(&script.join("\n"));
}

/// CONNECTs that are accepted.
fn accepted(cases: &[&str]) {
    let mut script = Vec::new();
    for (at, bytes) in cases.iter().enumerate() {
        script.push(format!("a{at}> {bytes}\na{at}< 20 _ 00 00 ...\na{at}: quiet"));
    }
    v5(&script.join("\n"));
}
