//! The books of one stream: what came, what left and why, what is still here. Pure: no SQL, no clock.

use std::fmt::Write as _;

use super::{
    api::{Position, Sequence},
    operated::{Leaving, Operated},
    shared::DAMAGED,
};

/// Where a stream stands and what became of its messages; one row of the table `stream`.
///
/// Invariant (G4): `accepted = forwarded + expired + dropped + dead + purged + backlog_messages()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Books {
    /// The oldest message of the backlog; never stands in a hole.
    pub(super) head: Sequence,
    /// The number of the next message.
    pub(super) next: Sequence,
    /// Rows below this are deleted; rows from here to `head` are garbage to be deleted. `tail <= head`.
    pub(super) tail: Sequence,
    /// Bytes of all messages ever stored below `tail`.
    pub(super) tail_offset: u64,
    /// Bytes of all messages ever stored below `head`.
    pub(super) head_offset: u64,
    /// Bytes of all messages ever stored.
    pub(super) end_offset: u64,
    pub(super) accepted: u64,
    pub(super) forwarded: u64,
    pub(super) expired: u64,
    pub(super) purged: u64,
    pub(super) dropped: Tally,
    pub(super) dead: Tally,
    /// Numbers between head and next that no message has: lost to damage, or moved out of the middle to the dead letters.
    pub(super) holes: Holes,
    /// What the operator did, and what is kept for replay.
    pub(super) operated: Operated,
}

/// What a stream may hold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    pub(super) max_messages: Option<u64>,
    pub(super) max_bytes: Option<u64>,
}

/// How a message compares with the room that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Fits,
    /// Not now.
    Full,
    /// Not even in the empty stream.
    Never,
}

impl Limits {
    /// Whether `bytes` more have room beside so many messages of so many bytes.
    pub(super) fn fit(self, held_messages: u64, held_bytes: u64, bytes: u64) -> Fit {
        if self.max_messages == Some(0) || self.max_bytes.is_some_and(|max| bytes > max) {
            return Fit::Never;
        }
        let too_many = self.max_messages.is_some_and(|max| held_messages >= max);
        let too_large = self.max_bytes.is_some_and(|max| held_bytes + bytes > max);
        if too_many || too_large { Fit::Full } else { Fit::Fits }
    }
}

impl Default for Books {
    fn default() -> Self {
        Self {
            head: 1,
            next: 1,
            tail: 1,
            tail_offset: 0,
            head_offset: 0,
            end_offset: 0,
            accepted: 0,
            forwarded: 0,
            expired: 0,
            purged: 0,
            dropped: Tally::default(),
            dead: Tally::default(),
            holes: Holes::default(),
            operated: Operated::default(),
        }
    }
}

impl Books {
    /// Whether these numbers can be books at all; what is read from a disk may be anything.
    pub(super) fn make_sense(&self) -> bool {
        let ordered = 1 <= self.tail && self.tail <= self.head && self.head <= self.next && self.next < 1 << 62;
        let offsets =
            self.tail_offset <= self.head_offset && self.head_offset <= self.end_offset && self.end_offset < 1 << 62;
        let holes = self.holes.within(0, self.head) == 0 && self.holes.within(self.next, u64::MAX) == 0;
        let counters =
            [self.accepted, self.forwarded, self.expired, self.purged, self.dropped.total(), self.dead.total()];
        ordered && offsets && holes && counters.iter().all(|&counter| counter < 1 << 62)
    }

    /// Whether everything that came is accounted for (G4).
    pub(super) fn balance(&self) -> bool {
        self.accepted == self.gone().saturating_add(self.backlog_messages())
    }

    /// All that left. Saturating: what is read from a damaged disk may be anything.
    fn gone(&self) -> u64 {
        [self.forwarded, self.expired, self.purged, self.dropped.total(), self.dead.total()]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Makes books balance that do not, by the figure nobody else can vouch for: what came. True where that was needed.
    pub(super) fn force_balance(&mut self) -> bool {
        let balanced = self.balance();
        if !balanced {
            self.accepted = self.gone().saturating_add(self.backlog_messages());
        }
        !balanced
    }

    /// Takes over what is known from before a salvage and is not in what was found: counters only grow, no number is used again,
    /// and what is missing was lost to damage. Returns how many messages that are; `None` where there is nothing to take over.
    pub(super) fn take_over(&mut self, before: &Self) -> Option<u64> {
        let mut found = self.clone();
        found.forwarded = found.forwarded.max(before.forwarded);
        found.expired = found.expired.max(before.expired);
        found.purged = found.purged.max(before.purged);
        found.dropped.take_over(&before.dropped);
        found.dead.take_over(&before.dead);
        found.accepted = found.accepted.max(before.accepted);
        if found.next < before.next {
            found.holes.add(found.next, before.next);
            found.next = before.next;
            found.skip_holes();
        }
        let missing = found.accepted.saturating_sub(found.gone().saturating_add(found.backlog_messages()));
        if missing > 0 {
            found.dropped.add(DAMAGED, missing);
        }
        found.force_balance();
        let changed = found != *self;
        *self = found;
        changed.then_some(missing)
    }

    pub(super) fn position(&self) -> Position {
        Position { head: self.head, next: self.next }
    }

    pub(super) fn backlog_messages(&self) -> u64 {
        self.next - self.head - self.holes.within(self.head, self.next)
    }

    pub(super) fn backlog_bytes(&self) -> u64 {
        self.end_offset - self.head_offset
    }

    /// Rows below the head that may be deleted from the tail on; none where some of them are kept for replay.
    pub(super) fn garbage_rows(&self) -> u64 {
        if self.operated.kept.is_some() { 0 } else { self.head - self.tail }
    }

    pub(super) fn garbage_bytes(&self) -> u64 {
        if self.operated.kept.is_some() { 0 } else { self.head_offset - self.tail_offset }
    }

    /// Whether a message of this many bytes has room.
    pub(super) fn fit(&self, limits: Limits, bytes: u64) -> Fit {
        limits.fit(self.backlog_messages(), self.backlog_bytes(), bytes)
    }

    /// Enters a message; its number is the returned one, its row ends at the new `end_offset`.
    pub(super) fn append(&mut self, bytes: u64) -> Sequence {
        let sequence = self.next;
        self.next += 1;
        self.end_offset += bytes;
        self.accepted += 1;
        sequence
    }

    /// Whether a row may come where `expected`, whose predecessor ends at `end`, should: itself, or what follows a hole.
    pub(super) fn may_follow(&self, expected: Sequence, end: u64, seq: Sequence, seq_end: u64) -> bool {
        (expected..self.next).contains(&seq)
            && self.holes.within(expected, seq) == seq - expected
            && (end..=self.end_offset).contains(&seq_end)
    }

    /// The number of the `count`th message of the backlog, at least the first; there must be as many.
    pub(super) fn nth(&self, count: u64) -> Sequence {
        debug_assert!(count <= self.backlog_messages(), "only the backlog can be counted off");
        let wanted = self.head + count.saturating_sub(1);
        self.holes.0.iter().fold(wanted, |at, &(first, end)| if first <= at { at + (end - first) } else { at })
    }

    /// Counts a message that came and was dropped at the door.
    pub(super) fn drop_at_door(&mut self, reason: &str, count: u64) {
        self.accepted += count;
        self.dropped.add(reason, count);
    }

    /// Moves the head past `last`, whose row ends at `end`; returns how many messages that were.
    pub(super) fn pass(&mut self, last: Sequence, end: u64) -> u64 {
        self.leave(last, end, Leaving::Gone)
    }

    /// The same; says whether the messages are kept for replay.
    pub(super) fn leave(&mut self, last: Sequence, end: u64, leaving: Leaving) -> u64 {
        debug_assert!(self.head <= last && last < self.next, "only the backlog can be passed");
        let count = last + 1 - self.head - self.holes.within(self.head, last + 1);
        let kept = &mut self.operated.kept;
        match leaving {
            Leaving::Kept if count > 0 => {
                if !kept.is_some() {
                    // What is garbage already is nothing to be sent again.
                    kept.gone.add(self.tail, self.head);
                }
                self.holes.overlaps(self.head, last + 1).for_each(|(first, end)| kept.gone.add(first, end));
                kept.messages += count;
                kept.bytes += end - self.head_offset;
            }
            Leaving::Kept | Leaving::Gone => kept.left(self.head, last + 1),
        }
        self.head = last + 1;
        self.head_offset = end;
        self.skip_holes();
        count
    }

    /// Moves the head out of a hole and forgets the holes behind it.
    pub(super) fn skip_holes(&mut self) {
        let from = self.head;
        self.head = self.holes.skip(self.head);
        self.operated.kept.left(from, self.head.min(self.next));
        if self.head >= self.next {
            self.head = self.next;
            self.head_offset = self.end_offset;
        }
        self.holes.forget_below(self.head);
    }
}

/// Counts by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally(Vec<(String, u64)>);

impl Tally {
    pub(super) fn add(&mut self, reason: &str, count: u64) {
        match self.0.iter_mut().find(|(known, _)| known == reason) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((reason.to_owned(), count)),
        }
    }

    /// No count is less than before.
    fn take_over(&mut self, before: &Self) {
        for (reason, count) in &before.0 {
            let known = self.0.iter().find(|(known, _)| known == reason).map_or(0, |(_, known)| *known);
            if *count > known {
                self.add(reason, count - known);
            }
        }
    }

    pub(super) fn entries(&self) -> Vec<(String, u64)> {
        self.0.clone()
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    /// `reason:count reason:count`; reasons are words without spaces or colons.
    pub(super) fn to_text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (reason, count)| {
            let space = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{space}{reason}:{count}");
            text
        })
    }

    /// Reads what [`Tally::to_text`] wrote; `None` where that cannot be.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let entry = |word: &str| {
            let (reason, count) = word.split_once(':')?;
            Some((reason.to_owned(), count.parse().ok()?))
        };
        text.split_ascii_whitespace().map(entry).collect::<Option<_>>().map(Self)
    }
}

/// Ranges of numbers without a message, `[first, end)`, in order, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Holes(Vec<(Sequence, Sequence)>);

impl Holes {
    /// How many numbers of `[first, end)` have no message.
    pub(super) fn within(&self, first: Sequence, end: Sequence) -> u64 {
        self.0.iter().map(|&(f, e)| e.min(end).saturating_sub(f.max(first))).sum()
    }

    pub(super) fn contains(&self, sequence: Sequence) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= sequence);
        after.checked_sub(1).is_some_and(|at| sequence < self.0[at].1)
    }

    /// Adds `[first, end)`. At the end, where most come, it costs the same however many ranges there are.
    pub(super) fn add(&mut self, first: Sequence, end: Sequence) {
        if first >= end {
            return;
        }
        match self.0.last_mut() {
            Some(last) if (last.0..=last.1).contains(&first) => {
                last.1 = last.1.max(end);
                return;
            }
            Some(last) if first <= last.1 => {}
            Some(_) | None => {
                self.0.push((first, end));
                return;
            }
        }
        let mut merged = (first, end);
        self.0.retain(|&(f, e)| {
            let apart = e < merged.0 || merged.1 < f;
            if !apart {
                merged = (merged.0.min(f), merged.1.max(e));
            }
            apart
        });
        let at = self.0.partition_point(|&(f, _)| f < merged.0);
        self.0.insert(at, merged);
    }

    /// The first number from `sequence` on that is in no hole.
    fn skip(&self, sequence: Sequence) -> Sequence {
        self.0.iter().fold(sequence, |at, &(first, end)| if (first..end).contains(&at) { end } else { at })
    }

    fn forget_below(&mut self, sequence: Sequence) {
        self.0.retain(|&(_, end)| end > sequence);
    }

    /// Takes everything before `sequence` out.
    pub(super) fn forget_before(&mut self, sequence: Sequence) {
        self.forget_below(sequence);
        if let Some(range) = self.0.first_mut() {
            range.0 = range.0.max(sequence);
        }
    }

    /// Takes `[first, end)` out.
    pub(super) fn remove(&mut self, first: Sequence, end: Sequence) {
        let rest =
            |&(f, e): &(Sequence, Sequence)| [(f, e.min(first)), (f.max(end), e)].into_iter().filter(|(f, e)| f < e);
        self.0 = self.0.iter().flat_map(rest).collect();
    }

    /// What of `[first, end)` is in here, range by range.
    pub(super) fn overlaps(&self, first: Sequence, end: Sequence) -> impl Iterator<Item = (Sequence, Sequence)> + '_ {
        self.0.iter().map(move |&(f, e)| (f.max(first), e.min(end))).filter(|(f, e)| f < e)
    }

    /// Forgets the first ranges where there are more than so many.
    pub(super) fn keep_last(&mut self, most: usize) {
        self.0.drain(..self.0.len().saturating_sub(most));
    }

    /// How many ranges there are.
    pub(super) fn ranges(&self) -> usize {
        self.0.len()
    }

    /// The number behind the last; 0 where there is none.
    pub(super) fn end(&self) -> Sequence {
        self.0.last().map_or(0, |&(_, end)| end)
    }

    /// `first-end first-end`.
    pub(super) fn to_text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (first, end)| {
            let space = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{space}{first}-{end}");
            text
        })
    }

    /// Reads what [`Holes::to_text`] wrote; `None` where that cannot be.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut holes = Self::default();
        for word in text.split_ascii_whitespace() {
            let (first, end) = word.split_once('-')?;
            holes.add(first.parse().ok()?, end.parse().ok()?);
        }
        Some(holes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_larger_than_the_stream_never_fits() {
        let limits = Limits { max_messages: None, max_bytes: Some(10) };
        let mut books = Books::default();
        assert_eq!(books.fit(limits, 11), Fit::Never);
        assert_eq!(books.fit(limits, 10), Fit::Fits);
        books.append(1);
        assert_eq!(books.fit(limits, 10), Fit::Full);
    }

    #[test]
    fn the_head_never_stands_in_a_hole() {
        let mut books = Books { next: 20, end_offset: 100, ..Books::default() };
        books.holes.add(6, 10);
        books.holes.add(10, 12);
        books.holes.add(15, 20);
        assert_eq!(books.pass(5, 30), 5);
        assert_eq!((books.head, books.head_offset, books.backlog_messages()), (12, 30, 3));
        assert_eq!(books.pass(14, 100), 3);
        assert_eq!((books.head, books.backlog_messages(), books.backlog_bytes()), (20, 0, 0));
        assert_eq!(books.holes, Holes::default());
    }

    #[test]
    fn messages_are_counted_off_around_holes() {
        let mut books = Books { next: 20, ..Books::default() };
        books.holes.add(3, 5);
        books.holes.add(6, 10);
        let numbers: Vec<_> = (1..=books.backlog_messages()).map(|count| books.nth(count)).collect();
        assert_eq!(numbers, (1..20).filter(|&seq| !books.holes.contains(seq)).collect::<Vec<_>>());
        assert_eq!(books.nth(0), 1);
    }

    #[test]
    fn books_of_any_numbers_can_be_weighed() {
        let most = (1 << 62) - 1;
        let mut books = Books { forwarded: most, expired: most, purged: most, ..Books::default() };
        books.dropped.add("oldest", most);
        books.dead.add("topic", most);
        assert!(books.make_sense() && books.force_balance() && !books.make_sense());
    }

    #[test]
    fn a_tally_comes_back_as_it_was_written() {
        let mut tally = Tally::default();
        tally.add("oldest", 3);
        tally.add("qos0-full", 1);
        tally.add("oldest", 4);
        assert_eq!(tally.to_text(), "oldest:7 qos0-full:1");
        assert_eq!(Tally::from_text(&tally.to_text()), Some(tally));
        assert_eq!(Tally::from_text("oldest"), None);
    }

    proptest! {
        #[test]
        fn holes_are_a_set_of_numbers(ranges in proptest::collection::vec((0..60u64, 0..9u64), 0..12)) {
            let mut holes = Holes::default();
            let mut set = std::collections::BTreeSet::new();
            for (first, length) in ranges {
                holes.add(first, first + length);
                set.extend(first..first + length);
            }
            for first in 0..70 {
                prop_assert_eq!(holes.contains(first), set.contains(&first));
                prop_assert_eq!(holes.within(first, 70), set.range(first..70).count() as u64);
                prop_assert_eq!(holes.skip(first), (first..200).find(|n| !set.contains(n)).unwrap());
            }
            prop_assert_eq!(Holes::from_text(&holes.to_text()), Some(holes.clone()));
            let (mut without, mut from) = (holes.clone(), holes);
            without.remove(20, 40);
            from.forget_before(20);
            for number in 0..70 {
                prop_assert_eq!(without.contains(number), set.contains(&number) && !(20..40).contains(&number));
                prop_assert_eq!(from.contains(number), set.contains(&number) && number >= 20);
            }
        }
    }
}
