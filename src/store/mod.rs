//! The store: every message that was acknowledged, on disk, in order, in one SQLite database.

mod api;
mod books;
mod clock;
mod failure;
mod handle;
mod lane;
mod lock;
mod metrics;
mod opening;
mod reader;
mod recovery;
mod row;
mod salvage;
mod schema;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{
    api::*,
    handle::{Handle, OpenError, Store, StoreError},
    lane::{LANE_BATCHES_MAX, Lane, Permit, Returns},
    opening::open,
    reader::{READ_BYTES_MAX, READ_MESSAGES_MAX},
};
