//! The case of one suspect: who is tried when, and what that has brought so far; pure.

use std::{collections::BTreeSet, time::Instant};

use super::{
    CUT_OFF_MAX, Dead, FAILED_MAX, FOLLOWERS_IN_VAIN, Failure, HUNG_UP, MOST_PATIENCE, PATIENCE, REFUSED, Turn,
    UNANSWERED,
};
use crate::{store::Sequence, topic::TopicName, uplink::Backoff};

#[derive(Debug)]
pub(super) struct Case {
    pub(super) seq: Sequence,
    /// Known from the first try on.
    pub(super) topic: Option<TopicName>,
    /// Failures of the suspect, in all.
    pub(super) failures: u32,
    /// Failures of the suspect since a follower was tried.
    pub(super) run: u32,
    /// How many of them bring the next follower's turn.
    pub(super) run_wanted: u32,
    /// Failures of anybody since somebody was taken.
    pub(super) in_vain: u32,
    /// Followers taken.
    pub(super) passes: u32,
    /// Later messages that the upstream failed on too, and how many of them in place of a follower since one was taken.
    pub(super) failed: BTreeSet<Sequence>,
    pub(super) followers_in_vain: u32,
    /// The follower that was cut off last, and how often in a row.
    pub(super) cut_off: Option<(Sequence, u32)>,
    pub(super) turn: Turn,
    pub(super) due: Instant,
    pub(super) last: Failure,
}

impl Case {
    pub(super) fn open(seq: Sequence, failure: Failure, now: Instant) -> Self {
        Self {
            seq,
            topic: None,
            failures: 1,
            run: 1,
            run_wanted: PATIENCE,
            in_vain: 1,
            passes: 0,
            failed: BTreeSet::new(),
            followers_in_vain: 0,
            cut_off: None,
            turn: Turn::Suspect,
            due: now,
            last: failure,
        }
    }

    /// Whether it is the refusal of the suspect that ended the connection (Mosquitto 2.0.11 refuses, and then hangs up) and not this follower,
    /// which was under way: it is the next to follow again, or first deliveries would not be in order.
    pub(super) fn cuts_off(&mut self, seq: Sequence, failure: &Failure) -> bool {
        if seq <= self.seq || !matches!((&self.last, failure), (Failure::Refused { .. }, Failure::HungUp { .. })) {
            return false;
        }
        let times = self.cut_off.filter(|(follower, _)| *follower == seq).map_or(1, |(_, times)| times + 1);
        self.cut_off = Some((seq, times));
        times <= CUT_OFF_MAX
    }

    pub(super) fn suspect_failed(&mut self, failure: Failure, now: Instant, backoff: Backoff, random: f64) {
        self.failures += 1;
        self.run += 1;
        self.in_vain += 1;
        self.last = failure;
        if self.run >= self.run_wanted {
            self.turn = Turn::Follower(self.followers_in_vain);
            self.due = now;
        } else {
            self.turn = Turn::Suspect;
            self.wait(now, backoff, random);
        }
    }

    pub(super) fn follower_failed(&mut self, seq: Sequence, now: Instant, backoff: Backoff, random: f64) {
        self.failed.insert(seq);
        while self.failed.len() > FAILED_MAX {
            self.failed.pop_first();
        }
        if self.turn == Turn::Suspect {
            // One of the same window; the suspect's turn comes first anyway.
            return;
        }
        self.in_vain += 1;
        self.followers_in_vain += 1;
        self.try_suspect(now, backoff, random);
        let doublings = self.followers_in_vain.saturating_sub(FOLLOWERS_IN_VAIN);
        if doublings > 0 {
            self.run_wanted = 4_u32.checked_shl(doublings).unwrap_or(MOST_PATIENCE).min(MOST_PATIENCE);
        }
    }

    /// A follower was taken.
    pub(super) fn pass(&mut self, now: Instant, backoff: Backoff, random: f64) {
        self.passes += 1;
        self.in_vain = 0;
        self.followers_in_vain = 0;
        self.try_suspect(now, backoff, random);
    }

    pub(super) fn try_suspect(&mut self, now: Instant, backoff: Backoff, random: f64) {
        self.run = 0;
        self.run_wanted = some_more(random);
        self.turn = Turn::Suspect;
        self.wait(now, backoff, random);
    }

    pub(super) fn wait(&mut self, now: Instant, backoff: Backoff, random: f64) {
        let doubled = 1_u32.checked_shl(self.in_vain.saturating_sub(1)).unwrap_or(u32::MAX);
        let bound = backoff.min.saturating_mul(doubled).min(backoff.max);
        self.due = now + bound.mul_f64(random.clamp(0.0, 1.0));
    }

    pub(super) fn dead(&self, how: &str) -> Dead {
        let (reason, story) = match &self.last {
            Failure::Refused { story, .. } => (REFUSED, story),
            Failure::HungUp { story } => (HUNG_UP, story),
            Failure::Unanswered { story } => (UNANSWERED, story),
        };
        let (tries, passes) = (self.failures, self.passes);
        Dead { seq: self.seq, reason, detail: format!("{story} ({how}: {tries} tries, {passes} others)") }
    }
}

/// 2 to 4.
pub(super) fn some_more(random: f64) -> u32 {
    match random {
        low if low < 1.0 / 3.0 => 2,
        middle if middle < 2.0 / 3.0 => 3,
        _ => 4,
    }
}
