//! When things happened, on boards whose clock starts in the past: boot id and monotonic time, with the wall clock beside.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// A wall clock before this was never set: 2026-01-01T00:00:00Z, in milliseconds since 1970. No build of this program is older.
pub(super) const ERA_UNIX_MS: i64 = 1_767_225_600_000;

/// The wall clock of a boot is corrected when it is off by more than this; smaller steps are what NTP does all day.
pub(super) const CORRECTION_MIN_MS: u64 = 1_000;

/// An instant on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Now {
    /// Milliseconds since boot, suspended time included (CLOCK_BOOTTIME).
    pub(super) mono_ms: u64,
    /// Milliseconds since 1970 by the wall clock, whatever that is worth.
    pub(super) unix_ms: i64,
}

impl Now {
    /// Reads both clocks.
    pub(super) fn read() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let boot = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0));
        let unix_ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        Self { mono_ms: u64::try_from(boot.as_millis()).unwrap_or(u64::MAX), unix_ms }
    }

    fn offset_ms(self) -> i64 {
        self.unix_ms.saturating_sub_unsigned(self.mono_ms)
    }

    pub(super) fn synced(self) -> bool {
        self.unix_ms >= ERA_UNIX_MS
    }
}

/// One boot of this machine; one row of the table `boot`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    /// Its number in our rows.
    pub(super) id: i64,
    /// The kernel's name for it.
    pub(super) kernel_id: String,
    /// Wall clock less monotonic clock, in milliseconds.
    pub(super) offset_ms: i64,
    /// Whether that wall clock had been set.
    pub(super) synced: bool,
}

/// Most boots that are remembered. What is older has lost its time, not its age: that is at least what the boot has lasted.
const BOOTS_MAX: usize = 4096;

/// All boots that rows may refer to, the current one last. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Boots(Arc<Vec<Boot>>);

impl Boots {
    pub(super) fn new(mut boots: Vec<Boot>) -> Self {
        boots.drain(..boots.len().saturating_sub(BOOTS_MAX));
        Self(Arc::new(boots))
    }

    /// The number of the first one that is remembered.
    pub(super) fn first_id(&self) -> i64 {
        self.0.iter().map(|boot| boot.id).min().unwrap_or(0)
    }

    pub(super) fn current(&self) -> &Boot {
        self.0.last().expect("the current boot is entered when the store is opened")
    }

    /// The current boot's row as `now` says it should be, if it needs to change; a clock that was never set changes nothing that was.
    pub(super) fn correction(&self, now: Now) -> Option<Boot> {
        let boot = self.current();
        let off = now.offset_ms().abs_diff(boot.offset_ms) > CORRECTION_MIN_MS;
        (now.synced() && (off || !boot.synced)).then(|| Boot {
            offset_ms: now.offset_ms(),
            synced: true,
            ..boot.clone()
        })
    }

    /// Takes over what [`Boots::correction`] proposed.
    pub(super) fn correct(&mut self, boot: Boot) {
        if let Some(current) = Arc::make_mut(&mut self.0).last_mut() {
            *current = boot;
        }
    }

    /// Wall time of a row in milliseconds since 1970, and whether that clock had been set.
    pub(super) fn accepted(&self, boot: i64, mono_ms: u64) -> (i64, bool) {
        match self.0.iter().rev().find(|known| known.id == boot) {
            Some(boot) => (boot.offset_ms.saturating_add_unsigned(mono_ms), boot.synced),
            None => (0, false),
        }
    }

    /// Age of a row: by the monotonic clock within a boot. Across boots by the wall clocks if both were set, and never less
    /// than the current boot has lasted; that is also the best that can be said where one of the clocks was not set.
    pub(super) fn age_ms(&self, boot: i64, mono_ms: u64, now: Now) -> u64 {
        if boot == self.current().id {
            return now.mono_ms.saturating_sub(mono_ms);
        }
        let (accepted, synced) = self.accepted(boot, mono_ms);
        let by_wall = if synced && now.synced() { now.unix_ms.saturating_sub(accepted) } else { 0 };
        u64::try_from(by_wall).unwrap_or(0).max(now.mono_ms)
    }
}

/// The boot that `now` is in, as a new row with this number.
pub(super) fn this_boot(id: i64, kernel_id: String, now: Now) -> Boot {
    Boot { id, kernel_id, offset_ms: now.offset_ms(), synced: now.synced() }
}

/// The kernel's name for this boot; where there is none, one that no other start of the program has.
pub(super) fn kernel_boot_id() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
        Ok(_) | Err(_) => format!("start-{:016x}", fastrand::u64(..)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSET: Now = Now { mono_ms: 5_000, unix_ms: 5_000 };
    const SET: Now = Now { mono_ms: 65_000, unix_ms: ERA_UNIX_MS + 1_000_000 };

    #[test]
    fn a_clock_that_becomes_set_corrects_everything_of_its_boot() {
        let mut boots = Boots::new(vec![this_boot(1, "a".to_owned(), UNSET)]);
        assert_eq!(boots.accepted(1, 5_000), (5_000, false));
        assert_eq!(boots.correction(UNSET), None);
        let corrected = boots.correction(SET).unwrap();
        boots.correct(corrected);
        assert_eq!(boots.accepted(1, 5_000), (SET.unix_ms - 60_000, true));
        assert_eq!(boots.correction(SET), None);
        assert_eq!(
            boots.correction(Now { mono_ms: 66_000, ..UNSET }),
            None,
            "a clock that falls back to 1970 is no correction"
        );
    }

    #[test]
    fn age_within_a_boot_does_not_ask_the_wall_clock() {
        let boots = Boots::new(vec![this_boot(1, "a".to_owned(), UNSET)]);
        assert_eq!(boots.age_ms(1, 5_000, SET), 60_000);
        assert_eq!(boots.age_ms(1, 70_000, SET), 0);
    }

    #[test]
    fn age_across_boots_is_never_taken_from_a_clock_that_was_not_set() {
        let old_unset = this_boot(1, "a".to_owned(), UNSET);
        let old_set = this_boot(2, "b".to_owned(), Now { mono_ms: 1_000, unix_ms: ERA_UNIX_MS });
        let boots = Boots::new(vec![old_unset, old_set, this_boot(3, "c".to_owned(), SET)]);
        assert_eq!(boots.age_ms(1, 5_000, SET), SET.mono_ms);
        assert_eq!(boots.age_ms(2, 1_000, SET), 1_000_000);
        assert_eq!(boots.age_ms(2, 1_000, UNSET), UNSET.mono_ms);
    }
}
