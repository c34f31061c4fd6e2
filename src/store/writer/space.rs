//! How much room there is: decisions on figures that others measured. Pure.

use std::time::{Duration, Instant};

use crate::store::api::Refusal;

/// Bytes appended after which room is measured again, besides every second.
const MEASURE_BYTES: u64 = 16 << 20;

/// Free pages in the file that may be filled though the file system is below `min_free`: they cost it nothing.
const FREE_IN_FILE_MIN_BYTES: u64 = 4 << 20;

/// What is kept for replay is let go before the room that is left is less than this; an eighth of a small store.
const TIGHT_BYTES: u64 = 16 << 20;

/// How long nothing is accepted after the disk was found full, before it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What was measured.
#[expect(clippy::struct_field_names, reason = "the unit is the point")]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    /// Free for us on the file system.
    pub(super) free_bytes: u64,
    /// In the database file, without its free pages.
    pub(super) used_bytes: u64,
    /// In free pages of the database file.
    pub(super) free_in_file_bytes: u64,
}

/// Room in the store and on its disk.
#[derive(Debug)]
pub(super) struct Space {
    max_bytes: u64,
    min_free: u64,
    measured: Measured,
    appended: u64,
    /// The largest message that was refused because the store was full.
    wanted: u64,
    full_at: Option<Instant>,
    /// The disk was full, and no message was stored since: that it is tried again does not mean that there is space.
    unproven: bool,
    /// Rows were deleted since the last measurement because room was needed: whether that was enough has to be seen.
    freed: bool,
}

impl Space {
    /// `max_bytes` and `min_free` as in the settings: zero is no limit.
    pub(super) fn new(max_bytes: u64, min_free: u64) -> Self {
        Self {
            max_bytes,
            min_free,
            measured: Measured::default(),
            appended: 0,
            wanted: 0,
            full_at: None,
            unproven: false,
            freed: false,
        }
    }

    /// As in the settings, from now on.
    pub(super) fn set_limits(&mut self, max_bytes: u64, min_free: u64) {
        (self.max_bytes, self.min_free) = (max_bytes, min_free);
    }

    pub(super) fn measured(&mut self, measured: Measured) {
        self.measured = measured;
        self.appended = 0;
        self.freed = false;
    }

    /// As in the settings; zero is no limit.
    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    pub(super) fn last(&self) -> Measured {
        self.measured
    }

    pub(super) fn note_appended(&mut self, bytes: u64) {
        self.appended += bytes;
    }

    pub(super) fn wants_measuring(&self) -> bool {
        self.appended >= MEASURE_BYTES || self.freed
    }

    /// Rows were deleted because room was needed.
    pub(super) fn note_freed(&mut self) {
        self.freed = true;
    }

    /// Whether it is time to let go of what is only kept for replay, so that nothing has to be refused.
    pub(super) fn is_tight(&self) -> bool {
        if self.freed {
            return false;
        }
        let store_margin = TIGHT_BYTES.min(self.max_bytes / 8);
        let Measured { free_bytes, free_in_file_bytes, .. } = self.measured;
        let near_reserve = free_bytes.saturating_sub(self.appended) < self.min_free.saturating_add(TIGHT_BYTES);
        let file_has_room = free_in_file_bytes >= FREE_IN_FILE_MIN_BYTES + TIGHT_BYTES + self.appended;
        self.unproven || self.is_full_with(store_margin) || (near_reserve && self.min_free > 0 && !file_has_room)
    }

    /// A write found no space at this time.
    pub(super) fn note_full(&mut self, now: Instant) {
        self.full_at = Some(now);
        self.unproven = true;
    }

    /// Messages were stored.
    pub(super) fn note_stored(&mut self) {
        self.unproven = false;
    }

    /// Whether the disk was found full and nothing has shown yet that it is not so any more.
    pub(super) fn unproven(&self) -> bool {
        self.unproven
    }

    /// Whether messages are to be refused for want of disk.
    pub(super) fn disk_full(&mut self, now: Instant) -> bool {
        if self.full_at.is_some_and(|at| now.duration_since(at) >= RETRY_AFTER) {
            self.full_at = None;
        }
        let reserve_used = self.measured.free_bytes.saturating_sub(self.appended) < self.min_free;
        let file_has_room = self.measured.free_in_file_bytes >= FREE_IN_FILE_MIN_BYTES + self.appended;
        self.full_at.is_some() || (reserve_used && !file_has_room)
    }

    /// Whether so many bytes more are too many for the store.
    pub(super) fn is_full_with(&self, bytes: u64) -> bool {
        self.max_bytes > 0 && self.measured.used_bytes + self.appended + bytes > self.max_bytes
    }

    /// Whether the store is at its limit with a message of so many bytes more; if so, it stays "full" until that has room.
    pub(super) fn store_full(&mut self, bytes: u64) -> bool {
        let full = self.is_full_with(bytes);
        if full {
            self.wanted = self.wanted.max(bytes);
        }
        full
    }

    /// What everybody is refused for, if anything.
    pub(super) fn refusing(&mut self, now: Instant) -> Option<Refusal> {
        if self.disk_full(now) {
            return Some(Refusal::DiskFull);
        }
        if self.wanted > 0 && self.store_full(self.wanted) {
            return Some(Refusal::StoreFull);
        }
        self.wanted = 0;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_reserve_only_free_pages_of_the_file_are_filled() {
        let now = Instant::now();
        let mut space = Space::new(0, 1000);
        space.measured(Measured { free_bytes: 1500, used_bytes: 0, free_in_file_bytes: 0 });
        assert!(!space.disk_full(now));
        space.note_appended(600);
        assert!(space.disk_full(now));
        space.measured(Measured { free_bytes: 900, used_bytes: 0, free_in_file_bytes: FREE_IN_FILE_MIN_BYTES });
        assert!(!space.disk_full(now));
        space.note_appended(1);
        assert!(space.disk_full(now));
    }

    #[test]
    fn a_full_disk_is_tried_again_after_a_while() {
        let now = Instant::now();
        let mut space = Space::new(100, 0);
        assert!(!space.store_full(100));
        space.note_full(now);
        assert_eq!(space.refusing(now), Some(Refusal::DiskFull));
        assert_eq!(space.refusing(now + RETRY_AFTER), None);
        assert!(space.unproven(), "to try again is not to have space");
        space.note_stored();
        assert!(!space.unproven());
    }

    #[test]
    fn a_full_store_is_full_until_what_was_refused_has_room() {
        let now = Instant::now();
        let mut space = Space::new(100, 0);
        space.measured(Measured { free_bytes: 1000, used_bytes: 95, free_in_file_bytes: 0 });
        assert!(space.store_full(10) && !space.store_full(5));
        assert_eq!(space.refusing(now), Some(Refusal::StoreFull));
        space.measured(Measured { free_bytes: 1000, used_bytes: 90, free_in_file_bytes: 0 });
        assert_eq!(space.refusing(now), None);
    }
}
