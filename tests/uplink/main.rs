//! Uplinks against upstreams that misbehave like nobody should; with the feature `interop` also against real Mosquitto processes, through a proxy that
//! misbehaves like a network.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one packet and passes over the rest")]

#[cfg(feature = "interop")]
mod broker;
mod failover;
mod fake;
mod gateway;
#[cfg(feature = "interop")]
mod network;
mod operated;
mod pace;
mod peer;
#[cfg(feature = "interop")]
mod proxy;
mod temper;
#[cfg(feature = "interop")]
mod tls;
#[cfg(feature = "interop")]
mod upstream;
