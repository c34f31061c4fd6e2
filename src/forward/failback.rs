//! When to look whether the first of several addresses is back, and when to go back to it; pure, so `now` and randomness are arguments.
//!
//! All times are in units of `backoff.max` (60 s by default).
//!
//! - *Looking* is DNS, TCP and TLS, without CONNECT: a second one under the same client id would throw out the session in use. The first look comes after up to 1 unit
//!   on a later address; while the first cannot be reached, after waits that double up to [`LOOK_MAX`].
//! - *Going back* is orderly: nothing new is sent, what is in flight is awaited, DISCONNECT, CONNECT to the first. If what is in flight is not
//!   answered in time, everything stays as it was until the next look.
//! - *A first address that flaps* (it can be reached, but takes no login or does not last for [`STEADY`]) is left alone for longer each
//!   time: from [`HOLD_OFF_MIN`] doubling to [`HOLD_OFF_MAX`]. So a first address that is broken for good costs one switch there and back an hour.

use std::time::{Duration, Instant};

/// Longest wait between looks, in units.
const LOOK_MAX: u32 = 5;
/// A first address that lasted so long, in units, does not flap.
const STEADY: u32 = 10;
/// Shortest wait after a return that did not last, in units.
const HOLD_OFF_MIN: u32 = 5;
/// Longest, in units.
const HOLD_OFF_MAX: u32 = 60;

/// The way back to the first address.
#[derive(Debug, Clone)]
pub(super) struct FailBack {
    unit: Duration,
    /// Looks in vain since the last connection, doubling the wait.
    look_after: u32,
    /// In units; 0 where the first address does not flap.
    hold_off: u32,
    /// When to look; `None` while on the first, or while looking.
    look_at: Option<Instant>,
    /// The last time it was decided to go back.
    went_back: Option<Instant>,
}

impl FailBack {
    /// `unit`: see the module.
    pub(super) const fn new(unit: Duration) -> Self {
        Self { unit, look_after: 1, hold_off: 0, look_at: None, went_back: None }
    }

    /// A connection was made, to the first address or to a later one.
    pub(super) fn connected(&mut self, is_first: bool, now: Instant, random: f64) {
        if is_first {
            self.look_at = None;
            return;
        }
        // We are here again although we left for the first address.
        if let Some(went_back) = self.went_back.take() {
            let lasted = now.saturating_duration_since(went_back) >= self.unit * STEADY;
            self.hold_off = if lasted { 0 } else { (self.hold_off * 2).clamp(HOLD_OFF_MIN, HOLD_OFF_MAX) };
        }
        self.look_after = 1;
        let wait = self.look_wait(random).max(self.unit * self.hold_off);
        self.look_at = Some(now + wait);
    }

    /// When to look.
    pub(super) const fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// A look has begun.
    pub(super) const fn looking(&mut self) {
        self.look_at = None;
    }

    /// The first address cannot be reached, or it is not the time to go there.
    pub(super) fn not_now(&mut self, now: Instant, random: f64) {
        self.went_back = None;
        self.look_after = (self.look_after * 2).min(LOOK_MAX);
        self.look_at = Some(now + self.look_wait(random));
    }

    /// The connection is closed in favour of the first address.
    pub(super) const fn going_back(&mut self, now: Instant) {
        self.went_back = Some(now);
    }

    /// Half of it at least, so that looks are not bunched.
    fn look_wait(&self, random: f64) -> Duration {
        (self.unit * self.look_after).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Duration = Duration::from_secs(60);

    fn waits(failback: &FailBack, now: Instant) -> Duration {
        failback.look_at().unwrap() - now
    }

    #[test]
    fn looks_come_soon_first_and_then_every_five_minutes() {
        let now = Instant::now();
        let mut failback = FailBack::new(UNIT);
        failback.connected(false, now, 0.0);
        assert_eq!(waits(&failback, now), UNIT / 2);
        for units in [2, 4, 5, 5] {
            failback.looking();
            assert_eq!(failback.look_at(), None);
            failback.not_now(now, 1.0);
            assert_eq!(waits(&failback, now), UNIT * units);
        }
        failback.connected(true, now, 1.0);
        assert_eq!(failback.look_at(), None);
    }

    #[test]
    fn a_first_address_that_flaps_is_left_alone_for_longer_each_time() {
        let mut now = Instant::now();
        let mut failback = FailBack::new(UNIT);
        failback.connected(false, now, 1.0);
        for units in [5, 10, 20, 40, 60, 60] {
            failback.going_back(now);
            now += UNIT;
            failback.connected(units % 20 == 0, now, 1.0);
            failback.connected(false, now, 1.0);
            assert_eq!(waits(&failback, now), UNIT * units);
        }
        // A loss of the later address alone changes nothing.
        failback.connected(false, now, 1.0);
        assert_eq!(waits(&failback, now), UNIT * 60);
        // One that lasted was good.
        failback.going_back(now);
        failback.connected(true, now, 1.0);
        now += UNIT * STEADY;
        failback.connected(false, now, 1.0);
        assert_eq!(waits(&failback, now), UNIT);
    }
}
