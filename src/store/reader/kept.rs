//! Reading what is kept for replay: which messages are of a certain time, and the messages themselves.

use std::sync::PoisonError;

use rusqlite::OptionalExtension;

use super::{READ_BYTES_MAX, READ_MESSAGES_MAX, Reader, Span, stored};
use crate::store::{
    api::{Sequence, Stored},
    books::Holes,
    clock::{Boots, Now},
    failure::Failure,
    shared::locked,
};

/// Most boots that are told apart in one question. What is kept longer than so many boots is looked at as a whole: all of it is given.
const BOOTS_MAX: usize = 256;

/// Where a row is and when it was accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) seq: Sequence,
    boot: i64,
    at: u64,
}

impl Reader {
    /// The numbers of the kept messages of a stream that were accepted from `since` on and before `until` (milliseconds since 1970).
    ///
    /// Rows are in the order of their boots, and within a boot in that of its monotonic clock; so each boot has one range, found by
    /// bisection, whatever its wall clock did: a look-up or 20 for each end, and not a walk through millions of rows.
    pub(super) fn find_kept(&self, stream: usize, since: i64, until: i64) -> Result<Holes, Failure> {
        let known_boots = self.shared.boots.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut from, head) = {
            let door = self.shared.doors.at(stream);
            let books = &locked(&door.published).books;
            (books.tail, books.head)
        };
        let mut ranges = Holes::default();
        for _ in 0..BOOTS_MAX {
            let Some(first) = self.moment(stream, from, head)? else { return self.without_leaps(stream, ranges) };
            let accepted = |row: Moment, boots: &Boots| boots.accepted(row.boot, row.at).0;
            let end = self.first_where(stream, first.seq, head, |row| row.boot != first.boot)?;
            let low = self.first_where(stream, first.seq, end, |row| accepted(row, &known_boots) >= since)?;
            let high = self.first_where(stream, low, end, |row| accepted(row, &known_boots) >= until)?;
            ranges.add(low, high);
            from = end;
        }
        ranges.add(from, head);
        self.without_leaps(stream, ranges)
    }

    /// Takes out what numbers leapt over when the store was restored, for what is replayed is counted by its numbers.
    fn without_leaps(&self, stream: usize, mut ranges: Holes) -> Result<Holes, Failure> {
        let mut last_below = self.connection.prepare_cached(&self.shared.doors.at(stream).sql.end_at)?;
        let mut floors = self.connection.prepare_cached("SELECT first FROM floor")?;
        let mut rows = floors.query([])?;
        while let Some(row) = rows.next()? {
            let floor: i64 = row.get(0)?;
            let last: Option<i64> = last_below.query_row([floor - 1], |row| row.get(1)).optional()?;
            ranges.remove(last.map_or(0, |last| last.cast_unsigned() + 1), floor.cast_unsigned());
        }
        Ok(ranges)
    }

    /// Messages of a replay, from `from` on. What cannot be read is passed over: it is upstream already.
    pub(super) fn read_kept(&mut self, run: u64, span: &Span) -> Result<Vec<Stored>, Failure> {
        let ranges: Vec<_> = {
            let door = self.shared.doors.at(span.stream);
            let books = &locked(&door.published).books;
            let operated = &books.operated;
            let replay = operated.replay.as_ref().filter(|_| operated.replay_run == run);
            let Some(replay) = replay else { return Ok(Vec::new()) };
            replay.ranges.overlaps(span.from.max(replay.next).max(books.tail), Sequence::MAX).collect()
        };
        self.read_ranges(ranges, span)
    }

    /// What is kept, from `from` on, whether it is being replayed or not.
    pub(super) fn look_kept(&mut self, span: &Span) -> Result<Vec<Stored>, Failure> {
        let ranges: Vec<_> = {
            let door = self.shared.doors.at(span.stream);
            let books = &locked(&door.published).books;
            let kept = &books.operated.kept;
            let mut ranges = Holes::default();
            if kept.is_some() {
                ranges.add(span.from.max(books.tail), books.head);
                kept.gone.overlaps(0, Sequence::MAX).for_each(|(first, end)| ranges.remove(first, end));
            }
            ranges.overlaps(0, Sequence::MAX).collect()
        };
        self.read_ranges(ranges, span)
    }

    fn read_ranges(&mut self, ranges: Vec<(Sequence, Sequence)>, span: &Span) -> Result<Vec<Stored>, Failure> {
        let limit = span.max_messages.clamp(1, READ_MESSAGES_MAX);
        let max_bytes = span.max_bytes.min(READ_BYTES_MAX) as u64;
        let now = Now::read();
        let known_boots = self.shared.boots.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut select = self.connection.prepare_cached(&self.shared.doors.at(span.stream).sql.read)?;
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for (first, end) in ranges {
            let mut rows = select.query((first.cast_signed(), i64::try_from(limit).unwrap_or(i64::MAX)))?;
            while let Some(row) = rows.next()? {
                let seq = row.get::<_, i64>(0)?.cast_unsigned();
                if seq >= end {
                    break;
                }
                if let Ok(message) = stored(row, seq, &mut self.decoder, &known_boots, now) {
                    bytes += u64::from(message.bytes);
                    messages.push(message);
                }
                if bytes >= max_bytes || messages.len() >= limit {
                    return Ok(messages);
                }
            }
        }
        Ok(messages)
    }

    /// The first row from `from` on and before `end`.
    pub(super) fn moment(&self, stream: usize, from: Sequence, end: Sequence) -> Result<Option<Moment>, Failure> {
        let mut walk = self.connection.prepare_cached(&self.shared.doors.at(stream).sql.walk)?;
        let row = walk.query_row((from.cast_signed(), 1), |row| {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(3)?);
            Ok(Moment { seq: seq.cast_unsigned(), boot: row.get(2)?, at: at.cast_unsigned() })
        });
        Ok(row.optional()?.filter(|row| row.seq < end))
    }

    /// The first number from `from` on whose row `is` so; `end` where there is none. All rows behind such a row must be so, too.
    fn first_where(
        &self,
        stream: usize,
        from: Sequence,
        end: Sequence,
        is: impl Fn(Moment) -> bool,
    ) -> Result<Sequence, Failure> {
        let (mut low, mut high) = (from, end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.moment(stream, middle, high)? {
                Some(row) if !is(row) => low = row.seq + 1,
                Some(_) | None => high = middle,
            }
        }
        Ok(low)
    }
}
