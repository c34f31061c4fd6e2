//! Trying a suspect: it alone, or one that follows it; see `suspects` for when and why.

use std::time::Instant;

use super::{Connection, Unwritten};
use crate::{
    forward::{
        ledger::Plan,
        suspects::{Try, Turn},
    },
    store::Sequence,
    uplink::Upstream,
};

/// A try that is under way; at most one on a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    what: Try,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// For others to be answered.
    Waiting,
    /// For the rows.
    Reading,
    /// For the answer.
    Sent(Sequence),
}

/// What the other lanes do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    Flow,
    Wait,
}

impl<U: Upstream> Connection<'_, U> {
    /// When there is a try to begin.
    pub(super) fn next_trial(&self) -> Option<Instant> {
        if self.trial.is_some() { None } else { self.task.suspects.next_due(|_| true) }
    }

    /// Begins a try that is due, and takes the one under way as far as it goes.
    pub(super) fn step_trial(&mut self, now: Instant) -> Others {
        // Whose case was closed meanwhile need not be tried.
        let goes_on = |trial: &Trial| {
            trial.stage != Stage::Waiting || self.task.suspects.suspect(trial.what.lane) == Some(trial.what.suspect)
        };
        let mut trial = match self.trial.take().filter(goes_on) {
            Some(trial) => trial,
            None => match self.task.suspects.due(now, |_| true) {
                Some(what) => Trial { what, stage: Stage::Waiting },
                None => return Others::Flow,
            },
        };
        if trial.stage == Stage::Waiting && self.is_quiet(trial.what) {
            self.task.reopen(trial.what.lane);
            if let Turn::Follower(_) = trial.what.turn {
                self.task.feeds[trial.what.lane].restart(trial.what.suspect + 1);
            }
            trial.stage = Stage::Reading;
        }
        let goes_on = trial.stage != Stage::Reading || self.try_now(&mut trial, now);
        if goes_on {
            self.trial = Some(trial);
        }
        if goes_on && trial.what.alone { Others::Wait } else { Others::Flow }
    }

    /// The message of a try was answered.
    pub(super) fn trial_answered(&mut self, lane: usize, seq: Sequence) {
        let is_it = |trial: &Trial| trial.what.lane == lane && trial.stage == Stage::Sent(seq);
        if self.trial.as_ref().is_some_and(is_it) {
            self.trial = None;
        }
    }

    fn is_quiet(&self, what: Try) -> bool {
        if what.alone {
            self.task.ledger.in_flight() == 0 && self.unwritten.is_empty()
        } else {
            !self.task.ledger.has_in_flight(what.lane)
        }
    }

    /// Sends the message of a try, if its row is here. False: there is nothing to try any more.
    fn try_now(&mut self, trial: &mut Trial, now: Instant) -> bool {
        let Try { lane, suspect, turn, .. } = trial.what;
        let sent = match turn {
            Turn::Suspect => self.try_suspect(lane, suspect, now),
            Turn::Follower(reach) => self.try_follower(lane, reach, now),
        };
        if let Sent::Yes(seq) = sent {
            trial.stage = Stage::Sent(seq);
        }
        sent != Sent::Over
    }

    fn try_suspect(&mut self, lane: usize, suspect: Sequence, now: Instant) -> Sent {
        let feed = &self.task.feeds[lane];
        let topic = match feed.front() {
            None if !feed.is_at_end() => return Sent::NotYet,
            Some((_, stored)) if stored.seq == suspect => stored.message.topic.clone(),
            // It has left; or older ones are to be sent again, and come first.
            None | Some(_) => {
                self.task.suspects.left(lane);
                return Sent::Over;
            }
        };
        if let Some(dead) = self.task.suspects.tries(lane, &topic, now) {
            self.task.bury(lane, dead);
            self.task.reopen(lane);
            return Sent::Over;
        }
        let sent = self.send_row(lane, 0, now);
        if sent == Sent::Over {
            // Too old, or too large by now.
            self.task.suspects.left(lane);
            self.task.reopen(lane);
        }
        sent
    }

    fn try_follower(&mut self, lane: usize, reach: usize, now: Instant) -> Sent {
        let is_done = |stored: Sequence| self.task.ledger.plan(lane, stored) == Plan::Skip;
        while self.task.feeds[lane].front().is_some_and(|(_, stored)| is_done(stored.seq)) {
            self.task.feeds[lane].pop();
        }
        let feed = &self.task.feeds[lane];
        let candidates: Vec<(usize, bool)> = feed
            .rows()
            .enumerate()
            .filter(|(_, (_, stored))| !is_done(stored.seq))
            .map(|(index, (_, stored))| (index, self.task.suspects.is_like(lane, &stored.message.topic)))
            .collect();
        if candidates.is_empty() {
            if !feed.is_at_end() {
                return Sent::NotYet;
            }
            self.task.suspects.no_follower(lane, now, fastrand::f64());
            return Sent::Over;
        }
        let others = || candidates.iter().filter(|(_, is_like)| !is_like);
        let chosen = others().nth(reach - 1).or_else(|| others().last()).or_else(|| candidates.get(reach - 1));
        let index = chosen.or_else(|| candidates.last()).map_or(0, |(index, _)| *index);
        // One that can never be sent says nothing: the next, with the next round of the loop.
        match self.send_row(lane, index, now) {
            Sent::Over => Sent::NotYet,
            sent => sent,
        }
    }

    /// Sends a row; `Over`: it cannot be sent, and is settled.
    fn send_row(&mut self, lane: usize, index: usize, now: Instant) -> Sent {
        let Some(seq) = self.task.feeds[lane].rows().nth(index).map(|(_, stored)| stored.seq) else {
            return Sent::NotYet;
        };
        let again = match self.task.ledger.plan(lane, seq) {
            Plan::SendAgain(id) => Some(id),
            Plan::Send if self.task.ledger.room() > 0 => None,
            Plan::Send | Plan::Skip => return Sent::NotYet,
        };
        match self.queue_row(lane, index, again, now) {
            Ok(Some(end)) => {
                self.unwritten.push_back(Unwritten { end, lane, seq });
                Sent::Yes(seq)
            }
            Ok(None) => Sent::NotYet,
            Err(fate) => {
                self.task.settle(lane, seq, fate);
                Sent::Over
            }
        }
    }
}

/// What came of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Yes(Sequence),
    /// Its row is still being read, or there is no room or allowance for it.
    NotYet,
    /// There is nothing to send.
    Over,
}
