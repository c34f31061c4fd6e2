//! Forwarded messages that are kept for replay, in the writer's hands: let in at the head, let go at the tail.
//!
//! They are let go when their time is over, or when the store or the disk is nearly full, oldest first, long before anything is refused: a round stores
//! about 1 MiB and frees up to 4, and begins with that at 16 MiB (an eighth of a small store) below the limit. What a replay that runs still
//! has to send stays beyond its time, but not when room is needed.

use rusqlite::OptionalExtension;

use super::{Writer, upkeep::DELETE_SLICE_BYTES};
use crate::store::{api::Sequence, failure::Failure, operated::Leaving};

/// Rows among the kept that are not to be sent again, from which on they are deleted.
const GONE_MIN_ROWS: u64 = 1024;

/// Ranges of such rows from which on they are deleted: the list of them is written with every change.
const GONE_MIN_RANGES: usize = 64;

impl Writer<'_> {
    /// Moves the head past forwarded messages, which are kept where the stream keeps them; returns how many that were.
    pub(super) fn pass_forwarded(&mut self, index: usize, last: Sequence) -> Result<u64, Failure> {
        let Some(term_ms) = self.transaction.streams[index].retain_ms.filter(|term_ms| *term_ms > 0) else {
            return self.pass(index, last);
        };
        let end = self.transaction.end_of(index, last)?;
        let (boot, at) = (self.boot, self.transaction.now.mono_ms);
        let books = &mut self.transaction.changing(index).books;
        let count = books.leave(last, end, Leaving::Kept);
        books.operated.kept.mark(books.head, boot, at, term_ms);
        Ok(count)
    }

    /// Up to which number the rows of a stream that keeps some may go.
    fn kept_due(&self, index: usize) -> Sequence {
        let stream = &self.transaction.streams[index];
        let (books, kept) = (&stream.books, &stream.books.operated.kept);
        if !kept.is_some() {
            return 0;
        }
        if self.space.is_tight() {
            return books.head;
        }
        let known_boots = self.transaction.shared.boots.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = kept.due(books.head, stream.retain_ms, &known_boots, self.transaction.now).min(books.head);
        books.operated.replay.as_ref().map_or(due, |replay| due.min(replay.next))
    }

    /// Whether there is something to delete among the kept rows of a stream.
    pub(super) fn kept_has_garbage(&self, index: usize) -> bool {
        let books = &self.transaction.streams[index].books;
        self.kept_due(index) > books.tail || has_many_gone(&books.operated.kept.gone)
    }

    /// Deletes a slice of at most `rows` numbers; returns how many.
    pub(super) fn delete_kept(&mut self, index: usize, rows: u64) -> Result<u64, Failure> {
        let due = self.kept_due(index);
        let books = &self.transaction.streams[index].books;
        if due > books.tail {
            return self.let_go(index, due, rows);
        }
        let gone = &books.operated.kept.gone;
        let Some((first, end)) = gone.overlaps(0, Sequence::MAX).next().filter(|_| has_many_gone(gone)) else {
            return Ok(0);
        };
        self.transaction.begin()?;
        let end = end.min(self.first_row(index, first, end)?.saturating_add(rows));
        self.delete_rows(index, first, end)?;
        self.transaction.changing(index).books.operated.kept.gone.remove(first, end);
        Ok(end - first)
    }

    /// Deletes from the tail on, at most up to `due`.
    fn let_go(&mut self, index: usize, due: Sequence, rows: u64) -> Result<u64, Failure> {
        self.transaction.begin()?;
        let books = &self.transaction.streams[index].books;
        let (tail, tail_offset) = (books.tail, books.tail_offset);
        let first = self.first_row(index, tail, due)?;
        let mut end = due.min(first.saturating_add(rows));
        let end_offset = loop {
            let offset = self.offset_below_head(index, end - 1)?;
            if end - first <= 1 || offset - tail_offset <= DELETE_SLICE_BYTES {
                break offset;
            }
            end = first + (end - first) / 2;
        };
        let gone: Vec<_> = self.transaction.streams[index].books.operated.kept.gone.overlaps(tail, end).collect();
        for (first, end) in gone {
            self.delete_rows(index, first, end)?;
        }
        let range = (tail.cast_signed(), end.cast_signed());
        let mut weigh = self.transaction.connection.prepare_cached(&self.transaction.streams[index].sql.weigh)?;
        let number = |row: &rusqlite::Row<'_>, column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        let (messages, bytes) = weigh.query_row(range, |row| Ok((number(row, 0)?, number(row, 1)?)))?;
        self.delete_rows(index, tail, end)?;
        let books = &mut self.transaction.changing(index).books;
        books.tail = end;
        books.tail_offset = if end == books.head { books.head_offset } else { end_offset };
        books.operated.kept.deleted(end, books.head, messages, bytes);
        if self.space.is_tight() {
            self.space.note_freed();
        }
        Ok(end - tail)
    }

    fn delete_rows(&self, index: usize, first: Sequence, end: Sequence) -> Result<(), Failure> {
        let mut delete = self.transaction.connection.prepare_cached(&self.transaction.streams[index].sql.delete)?;
        delete.execute((first.cast_signed(), end.cast_signed()))?;
        Ok(())
    }

    /// Where the last row up to `last`, below the head, ends; the tail where there is none.
    fn offset_below_head(&self, index: usize, last: Sequence) -> Result<u64, Failure> {
        let stream = &self.transaction.streams[index];
        let mut end_at = self.transaction.connection.prepare_cached(&stream.sql.end_at)?;
        let end: Option<i64> = end_at.query_row([last.cast_signed()], |row| row.get(0)).optional()?;
        let (tail_offset, head_offset) = (stream.books.tail_offset, stream.books.head_offset);
        Ok(end.map_or(tail_offset, i64::cast_unsigned).clamp(tail_offset, head_offset))
    }
}

fn has_many_gone(gone: &crate::store::books::Holes) -> bool {
    gone.ranges() >= GONE_MIN_RANGES || gone.within(0, Sequence::MAX) >= GONE_MIN_ROWS
}
