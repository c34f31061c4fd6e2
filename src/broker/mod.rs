//! The broker: what local MQTT clients talk to.

mod settings;

pub use settings::*;
