//! Uplinks against real Mosquitto processes, through a proxy that misbehaves like a network, and against upstreams that misbehave like nobody should.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one packet and passes over the rest")]

mod broker;
mod fake;
mod gateway;
mod network;
mod proxy;
mod tls;
mod upstream;
