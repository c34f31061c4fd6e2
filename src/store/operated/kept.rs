//! Forwarded messages that are kept for replay: how many, which rows among them are not to be sent again, and until when. Pure.
//!
//! Rows from `tail` to the head of a stream that keeps are forwarded messages but for the ranges in `gone`: those left in another way
//! (expired, dropped, purged, dead) or are no messages at all. They are deleted first, and stay in `gone` only as long as their rows are
//! there. A stream that keeps nothing has neither, and everything below its head is garbage.
//!
//! When a row was forwarded is not written into the row, which would cost a write for each. Instead there are *marks*: "everything before
//! this number was forwarded at this time at the latest". One covers a 64th of `retain_sent`, but at least a second, so that a message is kept
//! for `retain_sent` and up to a 64th longer. Times are boot id + monotonic clock, as everywhere in the store: a clock that jumps does not
//! matter, and across boots the wall clock counts where it was set, else at least as long as the boot has lasted.

use crate::store::{
    api::Sequence,
    books::Holes,
    clock::{Boots, Now},
};

/// Most marks of one stream; of more the two oldest become one, which keeps the older rows longer.
pub(in crate::store) const MARKS_MAX: usize = 128;

/// Marks in the time for which messages are kept.
const MARKS_OF_A_TERM: u64 = 64;

/// Shortest time that a mark covers.
const MARK_MIN_MS: u64 = 1_000;

/// How messages pass the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Leaving {
    /// Forwarded, and kept for replay.
    Kept,
    /// In any other way.
    Gone,
}

/// Everything that is kept of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Kept {
    pub(in crate::store) messages: u64,
    pub(in crate::store) bytes: u64,
    /// Rows below the head that are not to be sent again and are not deleted yet.
    pub(in crate::store) gone: Holes,
    /// In the order of their numbers.
    pub(in crate::store) marks: Vec<Mark>,
}

/// Everything before `upto` was forwarded at `at` of this boot at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Mark {
    pub(in crate::store) upto: Sequence,
    pub(in crate::store) boot: i64,
    /// When the first message that it covers was forwarded.
    pub(in crate::store) first_at: u64,
    pub(in crate::store) at: u64,
}

impl Kept {
    /// Whether the stream keeps anything.
    pub(in crate::store) fn is_some(&self) -> bool {
        self.messages > 0
    }

    pub(in crate::store) fn makes_sense(&self, tail: Sequence, head: Sequence) -> bool {
        self.messages <= head - tail
            && self.bytes < 1 << 62
            && self.gone.within(0, tail) == 0
            && self.gone.within(head, u64::MAX) == 0
    }

    /// Rows from `from` up to `to` have left, in another way than to be kept.
    pub(in crate::store) fn left(&mut self, from: Sequence, to: Sequence) {
        if self.is_some() {
            self.gone.add(from, to);
        }
    }

    /// Messages have been forwarded, and the head stands at `head` now.
    pub(in crate::store) fn mark(&mut self, head: Sequence, boot: i64, at: u64, term_ms: u64) {
        let span_ms = (term_ms / MARKS_OF_A_TERM).max(MARK_MIN_MS);
        match self.marks.last_mut() {
            Some(last) if last.boot == boot && at.saturating_sub(last.first_at) < span_ms => {
                last.upto = head;
                last.at = last.at.max(at);
            }
            Some(_) | None => self.marks.push(Mark { upto: head, boot, first_at: at, at }),
        }
        if self.marks.len() > MARKS_MAX {
            self.marks.remove(0);
        }
    }

    /// Up to where rows have been kept for long enough. `term_ms`: `None` for ever.
    pub(in crate::store) fn due(&self, head: Sequence, term_ms: Option<u64>, boots: &Boots, now: Now) -> Sequence {
        let Some(term_ms) = term_ms else { return 0 };
        if term_ms == 0 {
            return head;
        }
        let old = |mark: &&Mark| boots.age_ms(mark.boot, mark.at, now) > term_ms;
        self.marks.iter().take_while(old).last().map_or(0, |mark| mark.upto)
    }

    /// Rows before `tail` are deleted, so many of them kept messages of so many bytes.
    pub(in crate::store) fn deleted(&mut self, tail: Sequence, head: Sequence, messages: u64, bytes: u64) {
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.gone.forget_before(tail);
        self.marks.retain(|mark| mark.upto > tail);
        // What is left between them has left in other ways: garbage like any other, of which nothing is to be known here.
        if tail >= head || self.messages == 0 {
            *self = Self::default();
        }
    }

    /// `upto:boot:first:at upto:boot:first:at`.
    pub(super) fn marks_text(&self) -> String {
        let text = |mark: &Mark| format!("{}:{}:{}:{}", mark.upto, mark.boot, mark.first_at, mark.at);
        self.marks.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    /// Reads what [`Kept::marks_text`] wrote; `None` where that cannot be.
    pub(super) fn marks_from(text: &str) -> Option<Vec<Mark>> {
        let mark = |word: &str| {
            let mut numbers = word.split(':');
            let mark = Mark {
                upto: numbers.next()?.parse().ok()?,
                boot: numbers.next()?.parse().ok()?,
                first_at: numbers.next()?.parse().ok()?,
                at: numbers.next()?.parse().ok()?,
            };
            numbers.next().is_none().then_some(mark)
        };
        text.split_ascii_whitespace().map(mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::clock::{Boot, ERA_UNIX_MS};

    const HOUR_MS: u64 = 3_600_000;

    fn boots(offsets: &[(i64, i64)]) -> Boots {
        let boot = |(id, offset_ms): &(i64, i64)| Boot {
            id: *id,
            kernel_id: id.to_string(),
            offset_ms: *offset_ms,
            synced: true,
        };
        Boots::new(offsets.iter().map(boot).collect())
    }

    fn at(mono_ms: u64, offset_ms: i64) -> Now {
        Now { mono_ms, unix_ms: offset_ms.saturating_add_unsigned(mono_ms) }
    }

    #[test]
    fn messages_are_kept_for_their_term_and_little_longer_whatever_the_clock_does() {
        let mut kept = Kept { messages: 7_200, ..Kept::default() };
        for second in 0..7_200 {
            kept.mark(second + 2, 1, second * 1_000, HOUR_MS);
        }
        assert!(kept.marks.len() <= MARKS_MAX, "{}", kept.marks.len());
        let known = boots(&[(1, ERA_UNIX_MS)]);
        for jump_ms in [0, -86_400_000, 86_400_000] {
            let now = at(7_200_000, ERA_UNIX_MS + jump_ms);
            let due = kept.due(8_000, Some(HOUR_MS), &known, now);
            let forwarded_at = |seq: u64| (seq - 1) * 1_000;
            assert!(now.mono_ms - forwarded_at(due - 1) >= HOUR_MS, "kept for an hour: {due}");
            assert!(now.mono_ms - forwarded_at(due) <= HOUR_MS + HOUR_MS / 32, "and not much longer: {due}");
        }
        assert_eq!(kept.due(8_000, None, &known, at(u64::MAX >> 1, 0)), 0);
        assert_eq!(kept.due(8_000, Some(0), &known, at(0, 0)), 8_000);
    }

    #[test]
    fn marks_of_an_earlier_boot_count_by_the_wall_clock() {
        let mut kept = Kept { messages: 10, ..Kept::default() };
        kept.mark(11, 1, 5_000, HOUR_MS);
        let known = boots(&[(1, ERA_UNIX_MS), (2, ERA_UNIX_MS + 1_800_000)]);
        assert_eq!(kept.due(11, Some(HOUR_MS), &known, at(60_000, ERA_UNIX_MS + 1_800_000)), 0, "half an hour");
        assert_eq!(kept.due(11, Some(HOUR_MS), &known, at(1_900_000, ERA_UNIX_MS + 1_800_000)), 11);
    }

    #[test]
    fn a_machine_that_starts_again_and_again_makes_no_more_marks() {
        let mut kept = Kept { messages: 1_000, ..Kept::default() };
        for boot in 1_i64..=1_000 {
            kept.mark(boot.unsigned_abs() + 1, boot, 5, HOUR_MS);
        }
        assert_eq!((kept.marks.len(), kept.marks[MARKS_MAX - 1].upto), (MARKS_MAX, 1_001));
        assert_eq!(Kept::marks_from(&kept.marks_text()), Some(kept.marks));
        assert_eq!(Kept::marks_from("1:2:3"), None);
        assert_eq!(Kept::marks_from("1:2:3:4:5"), None);
    }
}
