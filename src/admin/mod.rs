//! The admin room: HTTP, health, metrics.

mod settings;

pub use settings::*;
