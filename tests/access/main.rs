//! Access control on the wire: who comes in, what it may, and what a reload does to those who are in.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod admission;
mod plant;
mod process;
mod reload;
#[path = "../broker/rig.rs"]
#[allow(dead_code, reason = "shared with the tests of the broker, which use more of it")]
mod rig;
mod rules;
