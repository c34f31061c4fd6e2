//! Uplinks: connections to upstream systems.

mod settings;

pub use settings::*;
