//! A replay: which kept messages are sent again, and how far that has come. Pure.
//!
//! `ranges` are the numbers whose messages were accepted in the time that was asked for; found once, when the replay begins, so that what is
//! kept later is not part of it. `next` moves with each committed acknowledgement. What is no longer kept when its turn comes is passed over.
//! There is one replay of a stream at a time: a second is refused while one runs, for an operator who asks twice should
//! not have everything sent twice; one that runs can be stopped.

use crate::store::{api::Sequence, books::Holes};

/// A replay that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Replay {
    /// All before this is done.
    pub(in crate::store) next: Sequence,
    /// What is to be sent, from the beginning of the replay on.
    pub(in crate::store) ranges: Holes,
}

/// Where a replay stands; `next == end` where none runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::store) struct ReplayPosition {
    /// The number of the replay: tells one from the next.
    pub(in crate::store) run: u64,
    pub(in crate::store) next: Sequence,
    pub(in crate::store) end: Sequence,
}

impl Replay {
    /// How many numbers are left, at most so many messages.
    pub(in crate::store) fn left(&self, tail: Sequence) -> u64 {
        self.ranges.within(self.next.max(tail), u64::MAX)
    }
}
