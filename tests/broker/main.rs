//! The broker against its real store, spoken to in bytes, and by clients that others wrote.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod clients;
mod delivery;
mod downlink;
mod durable;
mod limits;
#[cfg(feature = "interop")]
mod mosquitto;
mod operator;
mod protocol;
mod queues;
mod rig;
mod sessions;
mod shared;
mod sys;
mod wills;
