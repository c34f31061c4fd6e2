//! Never stuck while "connected" (guarantee G6): notices when nothing moves although something should; pure.

use std::time::{Duration, Instant};

/// Watches one connection.
///
/// Two things must move. Acknowledgements: while messages are wholly written and not acknowledged. Bytes: while some are
/// queued. A large message that creeps over a slow link is neither acknowledged nor stuck.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    limit: Duration,
    acknowledgements: Watched,
    bytes: Watched,
}

#[derive(Debug, Clone, Default)]
struct Watched {
    count: u64,
    /// Since when it should move and has not; `None` while it need not.
    since: Option<Instant>,
}

/// How a connection stands at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// Acknowledgements so far.
    pub(super) acknowledged: u64,
    /// Whether messages are wholly written and not acknowledged.
    pub(super) awaits_acknowledgement: bool,
    /// Bytes written so far.
    pub(super) written: u64,
    /// Whether bytes are queued.
    pub(super) has_queued: bool,
}

impl Progress {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, acknowledgements: Watched::default(), bytes: Watched::default() }
    }

    /// From now on this is the limit.
    pub(super) const fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Takes note of how things stand, and says when the connection is stuck if nothing moves until then.
    pub(super) fn look(&mut self, now: Instant, standing: Standing) -> Option<Instant> {
        self.acknowledgements.look(now, standing.acknowledged, standing.awaits_acknowledgement);
        self.bytes.look(now, standing.written, standing.has_queued);
        let oldest = [self.acknowledgements.since, self.bytes.since].into_iter().flatten().min();
        oldest.map(|since| since + self.limit)
    }
}

impl Watched {
    fn look(&mut self, now: Instant, count: u64, should_move: bool) {
        if !should_move {
            self.since = None;
        } else if count != self.count || self.since.is_none() {
            self.since = Some(now);
        }
        self.count = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn standing(acknowledged: u64, awaits_acknowledgement: bool, written: u64, has_queued: bool) -> Standing {
        Standing { acknowledged, awaits_acknowledgement, written, has_queued }
    }

    #[test]
    fn the_clock_runs_only_while_something_should_move() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::new(LIMIT);
        assert_eq!(progress.look(start, standing(0, false, 0, false)), None);
        assert_eq!(progress.look(at(5), standing(0, true, 9, false)), Some(at(35)));
        assert_eq!(progress.look(at(20), standing(0, true, 9, false)), Some(at(35)));
        assert_eq!(progress.look(at(30), standing(1, true, 9, false)), Some(at(60)));
        assert_eq!(progress.look(at(31), standing(2, false, 9, false)), None);
    }

    #[test]
    fn a_large_message_on_a_slow_link_is_not_stuck_and_a_stalled_write_is() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::new(LIMIT);
        for second in 0..100 {
            assert_eq!(progress.look(at(second), standing(0, false, second + 1, true)), Some(at(second) + LIMIT));
        }
        assert_eq!(progress.look(at(120), standing(0, false, 100, true)), Some(at(129)));
    }
}
