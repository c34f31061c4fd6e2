//! What an operator has done to a stream, and what is kept of it for replay: the part of a stream's books that G4 does not count.
//! Pure but for its `sql`.
//!
//! # Constraints
//!
//! - One row of the table `operated` a stream that has any of this; written in the transaction of what it counts, and only where it changed.
//! - Kept rows lie below the head, so neither the backlog nor the limits of the stream know them.
//! - At most [`MARKS_MAX`] marks of time and about 4096 ranges of rows to be passed over, whatever happens.
//!
//! # Operations
//!
//! *Pause*: a flag; what is accepted is stored as ever. *Purge*: moves the head to the end in one step, whatever lies in between; the rows are
//! deleted in slices as all garbage is. *Replay*: see [`replay`]. *Keeping*: see [`kept`].
//!
//! # What a crash does
//!
//! Each of these is one transaction: it was, or it was not. A replay goes on behind the last message whose acknowledgement was committed;
//! what was in flight is sent again under the same `tg-id`.
//!
//! # Damage
//!
//! Salvage copies the backlog. Of this it takes over whether the stream is paused and how much was replayed; kept messages, which are all
//! upstream, are given up, and a replay that was running ends.

mod kept;
mod replay;
mod sql;

pub(super) use self::{
    kept::{Kept, Leaving},
    replay::Replay,
    sql::{MIGRATION_3, load, load_what_is_left, save},
};

use super::api::ReplayPosition;

/// One row of the table `operated`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Operated {
    /// Nothing new is forwarded.
    pub(super) paused: bool,
    /// Forwarded rows below the head.
    pub(super) kept: Kept,
    /// The number of the last replay that was begun.
    pub(super) replay_run: u64,
    /// The replay that runs.
    pub(super) replay: Option<Replay>,
    /// Messages that the upstream acknowledged again, in all replays.
    pub(super) replayed: u64,
}

impl Operated {
    /// Whether this can be, beside these books.
    pub(super) fn makes_sense(&self, tail: u64, head: u64) -> bool {
        self.kept.makes_sense(tail, head) && self.replayed < 1 << 62 && self.replay_run < 1 << 62
    }

    /// What a new database takes over of a damaged one.
    pub(super) fn salvaged(&self) -> Self {
        Self { paused: self.paused, replayed: self.replayed, replay_run: self.replay_run, ..Self::default() }
    }

    /// Where a replay stands.
    pub(super) fn replay_position(&self) -> ReplayPosition {
        let none = ReplayPosition { run: self.replay_run, ..ReplayPosition::default() };
        self.replay.as_ref().map_or(none, |replay| replay.position(self.replay_run))
    }
}
