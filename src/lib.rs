//! Tidegate, an MQTT edge gateway: every acknowledged message is on disk, goes upstream in order, and can be seen.

pub mod admin;
pub mod app;
pub mod broker;
pub mod cli;
pub mod config;
pub mod demo;
pub mod forward;
pub mod intake;
pub mod log;
pub mod message;
pub mod signal;
pub mod stats;
pub mod store;
pub mod systemd;
pub mod topic;
pub mod units;
pub mod uplink;
