//! Replays in the writer's hands: begun, moved on, ended.

use rusqlite::OptionalExtension;

use super::Writer;
use crate::store::{
    api::{Run, Sequence},
    books::Holes,
    failure::Failure,
    operated::Replay,
    orders::{Done, OrderError},
};

impl Writer<'_> {
    /// Begins a replay of what is still kept of these; returns how many messages that are, at most.
    pub(super) fn begin_replay(&mut self, index: usize, ranges: &Holes) -> Done {
        let stream = &self.transaction.streams[index];
        let (books, operated) = (&stream.books, &stream.books.operated);
        if let Some(replay) = &operated.replay {
            return Err(OrderError::ReplayRuns { stream: stream.name.clone(), left: replay.left(books.tail) });
        }
        let mut ranges = ranges.clone();
        ranges.forget_before(books.tail);
        ranges.remove(books.head, Sequence::MAX);
        operated.kept.gone.overlaps(0, Sequence::MAX).for_each(|(first, end)| ranges.remove(first, end));
        let replay = Some(ranges).filter(|_| operated.kept.is_some()).and_then(Replay::new);
        let Some(replay) = replay else { return Err(OrderError::NothingKept(stream.name.clone())) };
        let left = replay.left(0);
        tracing::info!(stream = stream.name, left, "an operator began a replay");
        let operated = &mut self.transaction.changing(index).books.operated;
        operated.replay_run += 1;
        operated.replay = Some(replay);
        Ok(left)
    }

    /// Ends the replay that runs; returns how many messages it had left.
    pub(super) fn stop_replay(&mut self, index: usize) -> Done {
        let stream = &self.transaction.streams[index];
        let Some(replay) = &stream.books.operated.replay else {
            return Err(OrderError::NoReplay(stream.name.clone()));
        };
        let left = replay.left(stream.books.tail);
        tracing::info!(stream = stream.name, left, "an operator stopped a replay");
        self.transaction.changing(index).books.operated.replay = None;
        Ok(left)
    }

    /// Takes note of what became of messages of a replay. What comes of one that has ended is passed over.
    pub(super) fn note_replayed(&mut self, index: usize, run: u64, runs: &[Run]) -> u64 {
        let operated = &self.transaction.streams[index].books.operated;
        if operated.replay_run != run || operated.replay.is_none() {
            return 0;
        }
        let operated = &mut self.transaction.changing(index).books.operated;
        let Some(replay) = &mut operated.replay else { return 0 };
        let taken = replay.pass(runs);
        operated.replayed += taken;
        if operated.replay.as_ref().is_some_and(|replay| replay.left(0) == 0) {
            operated.replay = None;
            tracing::info!(stream = self.transaction.streams[index].name, run, "a replay is done");
        }
        taken
    }

    /// Ends the replays of which nothing is kept any more.
    pub(super) fn end_empty_replays(&mut self) -> Result<(), Failure> {
        for index in 0..self.transaction.streams.len() {
            let stream = &self.transaction.streams[index];
            let Some(replay) = &stream.books.operated.replay else { continue };
            let mut ranges = replay.ranges.overlaps(replay.next.max(stream.books.tail), Sequence::MAX);
            let mut walk = self.transaction.connection.prepare_cached(&stream.sql.walk)?;
            let mut has_row = |(first, end): (Sequence, Sequence)| -> Result<bool, Failure> {
                let row: Option<i64> = walk.query_row((first.cast_signed(), 1), |row| row.get(0)).optional()?;
                Ok(row.is_some_and(|seq| seq.cast_unsigned() < end))
            };
            let mut found = false;
            while let Some(range) = ranges.next().filter(|_| !found) {
                found = has_row(range)?;
            }
            drop((ranges, walk));
            if !found {
                tracing::warn!(stream = stream.name, "a replay ends: the rest of its messages is not kept any more");
                self.transaction.changing(index).books.operated.replay = None;
            }
        }
        Ok(())
    }
}
