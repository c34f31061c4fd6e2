//! Trying a suspect: it alone, or one that follows it; see `suspects` for when and why.

use std::time::Instant;

use super::{Cause, Connection, Unwritten};
use crate::{
    forward::{
        ledger::Plan,
        suspects::{NEAREST_TRIES, Try, Turn},
        task::Task,
    },
    store::{Sequence, Stored},
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
    /// For the answer, since then.
    Sent(Sequence, Instant),
}

/// What the other lanes do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    Flow,
    Wait,
}

impl<U: Upstream> Connection<'_, U> {
    /// When there is a try to begin.
    fn next_trial(&self) -> Option<Instant> {
        // While nothing new is sent none begins, however long one has been due.
        if self.trial.is_some() || !self.may_send() {
            return None;
        }
        self.task.suspects.next_due(|lane| !self.task.feeds[lane].is_paused())
    }

    /// Begins a try that is due, and takes the one under way as far as it goes.
    pub(super) fn step_trial(&mut self, now: Instant) -> Others {
        // Whose case was closed meanwhile need not be tried.
        let goes_on = |trial: &Trial| {
            trial.stage != Stage::Waiting || self.task.suspects.suspect(trial.what.lane) == Some(trial.what.suspect)
        };
        let mut trial = if let Some(trial) = self.trial.take().filter(goes_on) {
            trial
        } else {
            let Task { suspects, feeds, .. } = &mut *self.task;
            let Some(what) = suspects.due(now, |lane| !feeds[lane].is_paused()) else { return Others::Flow };
            Trial { what, stage: Stage::Waiting }
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
        let is_it =
            |trial: &Trial| trial.what.lane == lane && matches!(trial.stage, Stage::Sent(sent, _) if sent == seq);
        if self.trial.as_ref().is_some_and(is_it) {
            self.trial = None;
        }
    }

    /// A try that was not answered for so long failed, whatever else moves. Otherwise, when to look again.
    pub(super) fn check_trial(&mut self, now: Instant) -> Result<Option<Instant>, Cause> {
        let limit = self.task.settings.progress_timeout;
        let Some(Trial { what: Try { lane, .. }, stage: Stage::Sent(seq, since) }) = &mut self.trial else {
            return Ok(self.next_trial());
        };
        // A large message on a slow link.
        if self.unwritten.iter().any(|message| (message.lane, message.seq) == (*lane, *seq)) {
            *since = now;
        }
        if now >= *since + limit { Err(Cause::Overtaken { lane: *lane, seq: *seq }) } else { Ok(Some(*since + limit)) }
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
            Turn::Follower(in_vain) => self.try_follower(lane, in_vain, now),
        };
        if let Sent::Yes(seq) = sent {
            trial.stage = Stage::Sent(seq, now);
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

    fn try_follower(&mut self, lane: usize, in_vain: u32, now: Instant) -> Sent {
        let Some(index) = self.follower(lane, in_vain) else {
            if !self.task.feeds[lane].is_read() {
                return Sent::NotYet;
            }
            self.task.suspects.no_follower(lane, now, fastrand::f64());
            return Sent::Over;
        };
        // One that can never be sent says nothing: the next, with the next round of the loop.
        match self.send_row(lane, index, now) {
            Sent::Over => Sent::NotYet,
            sent @ (Sent::Yes(_) | Sent::NotYet) => sent,
        }
    }

    /// The place in memory of the message to follow the suspect.
    fn follower(&mut self, lane: usize, in_vain: u32) -> Option<usize> {
        let Task { feeds, ledger, suspects, .. } = &mut *self.task;
        let feed = &mut feeds[lane];
        while feed.front().is_some_and(|(_, stored)| ledger.plan(lane, stored.seq) == Plan::Skip) {
            feed.pop();
        }
        let may =
            |stored: &Stored| ledger.plan(lane, stored.seq) != Plan::Skip && suspects.may_follow(lane, stored.seq);
        let unlike = |stored: &Stored| in_vain >= NEAREST_TRIES && !suspects.is_like(lane, &stored.message.topic);
        let nearest = || feed.rows().position(|(_, stored)| may(stored));
        feed.rows().position(|(_, stored)| may(stored) && unlike(stored)).or_else(nearest)
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
