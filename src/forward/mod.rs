//! Forwarding: takes messages from the streams in order, sends them through an uplink, settles them when acknowledged.

mod settings;

pub use settings::*;
