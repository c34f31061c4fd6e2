//! A bound on log lines that clients can cause.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines let through in one [`WINDOW`].
const LINES: u32 = 20;
/// The time that [`LINES`] counts for.
const WINDOW: Duration = Duration::from_secs(10);

/// Lets the first lines of every window through and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Throttle {
    /// `Some(lines left out since the last one)` when this line may be written.
    pub(crate) fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            state.since = Some(now);
            state.lines = 0;
        }
        if state.lines >= LINES {
            state.suppressed += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_left_out_and_counted() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for _ in 0..LINES {
            assert_eq!(throttle.pass(start), Some(0));
        }
        assert_eq!((throttle.pass(start), throttle.pass(start)), (None, None));
        assert_eq!(throttle.pass(start + WINDOW), Some(2));
    }
}
