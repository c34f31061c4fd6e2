//! How long the disk has been at what the writer asked of it: slow is not stuck.
//!
//! The writer's thread sleeps in the kernel while the disk syncs, and its heartbeat with it. SD cards clean up for seconds, a
//! drive behind a failing cable is reset for minutes (30 s a try, five tries, is what Linux gives a SCSI command); a restart would
//! not make it faster, and what waits for its acknowledgement would have to be sent again. So up to [`DISK_PATIENCE`] the disk
//! is slow: acknowledgements wait, everything else goes on. Beyond that it hangs: the pulse stops, and systemd restarts the gateway.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// What the disk may take for one thing that it was asked to do before the store counts as stuck.
pub const DISK_PATIENCE: Duration = Duration::from_secs(180);

/// What the writer waits for.
#[derive(Debug)]
pub(super) struct DiskWait {
    began: Instant,
    /// Milliseconds after `began` since which the writer is busy with the disk, plus one; 0: it is not.
    since: AtomicU64,
}

impl DiskWait {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), since: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The writer begins something that may take the disk long.
    pub(super) fn begin(&self) {
        self.since.store(self.now_ms() + 1, Ordering::Relaxed);
    }

    /// It is done.
    pub(super) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// For how long the writer has been waiting.
    pub(super) fn waiting_for(&self) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed);
        (since > 0).then(|| Duration::from_millis((self.now_ms() + 1).saturating_sub(since)))
    }

    /// A number that moves while the disk is slow, and stands still when it hangs.
    pub(super) fn patience(&self) -> u64 {
        let waited = self.waiting_for().filter(|waited| *waited < DISK_PATIENCE);
        waited.map_or(0, |waited| u64::try_from(waited.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_moves_the_pulse_and_a_stuck_one_does_not() {
        let mut wait = DiskWait::new();
        assert_eq!((wait.waiting_for(), wait.patience()), (None, 0));
        wait.begin();
        wait.began = wait.began.checked_sub(Duration::from_secs(15)).unwrap();
        assert!(wait.patience() >= 15_000 && wait.waiting_for() >= Some(Duration::from_secs(15)));
        wait.began = wait.began.checked_sub(DISK_PATIENCE).unwrap();
        assert_eq!(wait.patience(), 0);
        wait.end();
        assert_eq!(wait.waiting_for(), None);
    }
}
