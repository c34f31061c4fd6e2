//! The books of session queues: what came, what left and why, what is still there. Pure: no SQL, no clock.

use crate::store::{
    api::{Position, Sequence},
    books::{Fit, Limits},
    sessions::{QueueLimits, QueueStats},
    shared::{DAMAGED, NEWEST, OLDEST, TOO_LARGE},
};

/// Session ids end below this, sequence numbers of a queue below [`SEQUENCE_END`]: both share the 63 bits of a row's key.
pub(in crate::store) const SESSION_END: u32 = (1 << 23) - 1;

/// See [`SESSION_END`].
pub(in crate::store) const SEQUENCE_END: Sequence = 1 << 40;

/// Why a queued message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Drop {
    Oldest,
    Newest,
    TooLarge,
    Damaged,
}

impl Drop {
    /// All reasons, in the order of [`Counts::dropped`], with their words.
    pub(in crate::store) const ALL: [(Self, &'static str); 4] =
        [(Self::Oldest, OLDEST), (Self::Newest, NEWEST), (Self::TooLarge, TOO_LARGE), (Self::Damaged, DAMAGED)];
}

/// Figures of one queue or the sum of many.
///
/// Invariant: `queued = delivered + expired + purged + dropped + messages`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct Counts {
    pub(in crate::store) messages: u64,
    pub(in crate::store) bytes: u64,
    pub(in crate::store) queued: u64,
    pub(in crate::store) delivered: u64,
    pub(in crate::store) expired: u64,
    pub(in crate::store) purged: u64,
    pub(in crate::store) dropped: [u64; 4],
}

impl Counts {
    fn numbers(&mut self) -> [&mut u64; 10] {
        let Self { messages, bytes, queued, delivered, expired, purged, dropped: [a, b, c, d] } = self;
        [messages, bytes, queued, delivered, expired, purged, a, b, c, d]
    }

    pub(in crate::store) fn add(&mut self, mut other: Self) {
        for (sum, number) in self.numbers().into_iter().zip(other.numbers()) {
            *sum = sum.saturating_add(*number);
        }
    }

    pub(in crate::store) fn sub(&mut self, mut other: Self) {
        for (sum, number) in self.numbers().into_iter().zip(other.numbers()) {
            *sum = sum.saturating_sub(*number);
        }
    }

    /// Whether these can be figures at all; what is read from a disk may be anything.
    pub(in crate::store) fn make_sense(mut self) -> bool {
        self.numbers().into_iter().all(|number| *number < 1 << 60)
    }

    /// Makes figures balance that do not, by what nobody else can vouch for: what came. True where that was needed.
    pub(in crate::store) fn force_balance(&mut self) -> bool {
        let left = self.delivered + self.expired + self.purged + self.dropped.iter().sum::<u64>();
        std::mem::replace(&mut self.queued, left + self.messages) != left + self.messages
    }

    pub(in crate::store) fn drop(&mut self, reason: Drop, count: u64) {
        self.dropped[reason as usize] += count;
    }

    pub(in crate::store) fn stats(&self) -> QueueStats {
        let dropped = Drop::ALL.iter().map(|&(reason, word)| (word.to_owned(), self.dropped[reason as usize]));
        QueueStats {
            messages: self.messages,
            bytes: self.bytes,
            queued: self.queued,
            delivered: self.delivered,
            expired: self.expired,
            purged: self.purged,
            dropped: dropped.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// What is remembered beyond single sessions; the one row of the table `ledger`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct Ledger {
    /// The next session id.
    pub(in crate::store) next_session: u32,
    /// No retained message has this revision or a higher one.
    pub(in crate::store) revision_end: u64,
    /// Sums of the sessions that are no more.
    pub(in crate::store) ended: Counts,
}

/// Since when a client has been away, and what it had been sent until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Left {
    pub(in crate::store) boot: i64,
    pub(in crate::store) at: u64,
    pub(in crate::store) sent: Sequence,
}

/// Where a queue stands; one row of the table `queue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct QueueBooks {
    /// The oldest message; never a number without one.
    pub(in crate::store) head: Sequence,
    /// The number of the next message.
    pub(in crate::store) next: Sequence,
    /// Rows below this are deleted; rows from here to `head` are garbage to be deleted.
    pub(in crate::store) tail: Sequence,
    /// Bytes of all messages ever queued up to the last one below `tail`.
    pub(in crate::store) tail_offset: u64,
    /// Bytes of all messages ever queued up to the last one below `head`.
    pub(in crate::store) head_offset: u64,
    /// Bytes of all messages ever queued.
    pub(in crate::store) end_offset: u64,
    pub(in crate::store) counts: Counts,
    /// `None`: connected, as far as is known.
    pub(in crate::store) left: Option<Left>,
}

impl Default for QueueBooks {
    fn default() -> Self {
        Self {
            head: 1,
            next: 1,
            tail: 1,
            tail_offset: 0,
            head_offset: 0,
            end_offset: 0,
            counts: Counts::default(),
            left: None,
        }
    }
}

impl QueueBooks {
    /// Whether these numbers can be books at all.
    pub(in crate::store) fn make_sense(&self) -> bool {
        let ordered = 1 <= self.tail && self.tail <= self.head && self.head <= self.next && self.next < SEQUENCE_END;
        let offsets =
            self.tail_offset <= self.head_offset && self.head_offset <= self.end_offset && self.end_offset < 1 << 60;
        let messages = self.counts.messages <= self.next - self.head.min(self.next);
        ordered && offsets && messages && self.counts.make_sense()
    }

    pub(in crate::store) fn position(&self) -> Position {
        Position { head: self.head, next: self.next }
    }

    /// Whether a message of this many bytes has room.
    pub(in crate::store) fn fit(&self, limits: QueueLimits, bytes: u64) -> Fit {
        let some = |max: u64| (max > 0).then_some(max);
        let limits = Limits { max_messages: some(limits.max_messages), max_bytes: some(limits.max_bytes) };
        limits.fit(self.counts.messages, self.counts.bytes, bytes)
    }

    /// Enters a message; its number is the returned one, its row ends at the new `end_offset`.
    pub(in crate::store) fn append(&mut self, bytes: u64) -> Sequence {
        let sequence = self.next;
        self.next += 1;
        self.end_offset += bytes;
        self.counts.queued += 1;
        self.counts.messages += 1;
        self.counts.bytes += bytes;
        sequence
    }

    /// Numbers from `head` on that have no message: they left before older ones did.
    pub(in crate::store) fn holes(&self) -> u64 {
        (self.next - self.head).saturating_sub(self.counts.messages)
    }

    /// Takes a message out that is there; whoever calls counts why. True where its row is to be deleted at once, for it is not
    /// the oldest one.
    pub(in crate::store) fn leave(&mut self, seq: Sequence, bytes: u64, end: u64) -> bool {
        debug_assert!((self.head..self.next).contains(&seq), "only what is there can leave");
        self.counts.messages = self.counts.messages.saturating_sub(1);
        self.counts.bytes = self.counts.bytes.saturating_sub(bytes);
        let oldest = seq == self.head;
        if self.counts.messages == 0 {
            (self.head, self.head_offset, self.counts.bytes) = (self.next, self.end_offset, 0);
        } else if oldest {
            self.head = seq + 1;
            self.head_offset = end.clamp(self.head_offset, self.end_offset);
        }
        !oldest
    }

    /// Lets everything leave because the session ended.
    pub(in crate::store) fn purge(&mut self) {
        self.counts.purged += self.counts.messages;
        (self.counts.messages, self.counts.bytes) = (0, 0);
        (self.head, self.head_offset) = (self.next, self.end_offset);
        self.left = None;
    }

    /// Rows to be deleted, or more.
    pub(in crate::store) fn garbage_rows(&self) -> u64 {
        self.head - self.tail
    }

    /// Bytes of them, or more.
    pub(in crate::store) fn garbage_bytes(&self) -> u64 {
        self.head_offset - self.tail_offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leaves_by_moving_the_head_and_others_leave_holes() {
        let mut books = QueueBooks::default();
        let ends: Vec<u64> = (0..4).map(|_| (books.append(10), books.end_offset).1).collect();
        assert!(books.leave(2, 10, ends[1]), "its row is deleted");
        assert_eq!((books.head, books.holes(), books.counts.messages), (1, 1, 3));
        assert!(!books.leave(1, 10, ends[0]));
        assert_eq!((books.head, books.holes(), books.garbage_rows(), books.garbage_bytes()), (2, 1, 1, 10));
        books.head = 3;
        assert!(books.leave(4, 10, ends[3]) && !books.leave(3, 10, ends[2]));
        assert_eq!((books.head, books.counts.bytes, books.holes()), (5, 0, 0));
    }

    #[test]
    fn an_ended_session_is_all_garbage() {
        let mut books = QueueBooks::default();
        books.append(7);
        books.append(8);
        books.purge();
        assert_eq!((books.garbage_rows(), books.garbage_bytes(), books.counts.purged), (2, 15, 2));
        assert!(!books.counts.force_balance());
    }
}
