//! The MQTT specifications, statement by statement: one test for each normative statement that concerns a server, named
//! after its number, with bytes on the wire. `src/broker/conformance.md` lists them all; `table` keeps that list true.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod notation;
#[path = "../broker/rig.rs"]
#[allow(dead_code, reason = "shared with the tests of the broker, which use more of it")]
mod rig;
mod script;
mod table;
mod v3;
mod v5;
