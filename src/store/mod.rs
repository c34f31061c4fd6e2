//! The store: every message that was acknowledged, on disk, in order, in one SQLite database.

mod api;
mod handle;

pub use api::*;
pub use handle::*;
