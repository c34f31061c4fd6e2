//! A replay: which kept messages are sent again, and how far that has come. Pure.
//!
//! `ranges` are the numbers whose messages were accepted in the time that was asked for; found once, when the replay begins, so that what is
//! kept later is not part of it. `next` moves with each committed acknowledgement. What is no longer kept when its turn comes is passed over.
//! There is one replay of a stream at a time: a second is refused while one runs, for an operator who asks twice should
//! not have everything sent twice; one that runs can be stopped.

use crate::store::{
    api::{Fate, ReplayPosition, Run, Sequence},
    books::Holes,
};

/// A replay that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Replay {
    /// All before this is done.
    pub(in crate::store) next: Sequence,
    /// What is to be sent, from the beginning of the replay on.
    pub(in crate::store) ranges: Holes,
}

impl Replay {
    /// A replay of these; `None` where there is nothing to send.
    pub(in crate::store) fn new(ranges: Holes) -> Option<Self> {
        let (next, _) = ranges.overlaps(0, Sequence::MAX).next()?;
        Some(Self { next, ranges })
    }

    /// How many numbers are left, at most so many messages.
    pub(in crate::store) fn left(&self, tail: Sequence) -> u64 {
        self.ranges.within(self.next.max(tail), Sequence::MAX)
    }

    /// Takes note of what became of messages; returns how many the upstream has taken.
    pub(in crate::store) fn pass(&mut self, runs: &[Run]) -> u64 {
        let mut taken = 0;
        for run in runs.iter().filter(|run| run.first <= run.last && run.last < self.ranges.end()) {
            if run.fate == Fate::Forwarded {
                taken += self.ranges.within(run.first.max(self.next), run.last + 1);
            }
            self.next = self.next.max(run.last + 1);
        }
        taken
    }

    /// Where it stands.
    pub(in crate::store) fn position(&self, run: u64) -> ReplayPosition {
        ReplayPosition { run, next: self.next, end: self.ranges.end() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_taken_for_the_first_time_is_counted() {
        let mut ranges = Holes::default();
        ranges.add(10, 20);
        ranges.add(30, 40);
        assert_eq!(Replay::new(Holes::default()), None);
        let mut replay = Replay::new(ranges).unwrap();
        assert_eq!((replay.next, replay.left(0), replay.left(35)), (10, 20, 5));
        let run = |first, last, fate| Run { first, last, fate };
        assert_eq!(replay.pass(&[run(10, 14, Fate::Forwarded), run(15, 15, Fate::Expired)]), 5);
        assert_eq!(replay.pass(&[run(12, 17, Fate::Forwarded)]), 2, "12 to 15 are done");
        assert_eq!(replay.pass(&[run(18, 31, Fate::Forwarded)]), 4, "20 to 29 are not part of it");
        assert_eq!(replay.pass(&[run(50, 60, Fate::Forwarded)]), 0);
        assert_eq!((replay.next, replay.left(0)), (32, 8));
    }
}
