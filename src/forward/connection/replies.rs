//! What the upstream says of deliveries: taken, first half taken, refused.

use std::time::Instant;

use super::{Connection, DRAIN_TIME, Why};
use crate::{
    forward::{
        ledger::{Ack, Answer},
        suspects::{Failure, Outcome, Verdict, verdict},
    },
    message::QoS,
    store::Sequence,
    uplink::{Event, Reply, Session, Upstream, mqtt::meaning_of_publish_code},
};

/// A stream whose suspect is refused again and again gets a new connection after so many tries: some upstreams decide who may do what at CONNECT.
const RECONNECT_AFTER: u32 = 5;

impl<U: Upstream> Connection<'_, U> {
    pub(super) fn take_events(&mut self) {
        let now = Instant::now();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Acknowledged(reply) => self.take_reply(Ack::Acknowledged, &reply, now),
                Event::Received(reply) => self.take_reply(Ack::Received, &reply, now),
                Event::Completed(reply) => self.take_reply(Ack::Completed, &reply, now),
                Event::Arrived(arrived) => self.task.inbound.arrived(arrived),
            }
        }
        self.events = events;
    }

    fn take_reply(&mut self, ack: Ack, reply: &Reply, now: Instant) {
        let is_refusal = reply.is_refusal();
        let answer = self.task.ledger.answer(ack, reply.id, is_refusal);
        match answer {
            Answer::Forwarded { lane, seq, sent_at } => {
                self.task.status.acknowledged(now.saturating_duration_since(sent_at));
                self.task.note_done(now);
                self.took_any = true;
                self.trial_answered(lane, seq);
                let outcome = self.task.suspects.taken(lane, seq, now, fastrand::f64());
                self.follow(lane, outcome);
            }
            Answer::Release => self.session.queue_release(reply.id),
            Answer::Refused { lane, seq } => self.take_refusal(lane, seq, reply, now),
            Answer::Unexpected => {
                // An upstream that holds half of a delivery nobody knows would take the next message under this id for it.
                if ack == Ack::Received && !is_refusal && self.greeting.qos == QoS::ExactlyOnce {
                    self.session.queue_release(reply.id);
                }
                self.task.status.unexpected(reply.id);
                return;
            }
        }
        self.answered += 1;
    }

    fn take_refusal(&mut self, lane: usize, seq: Sequence, reply: &Reply, now: Instant) {
        let story = story(reply);
        let speaks_of = verdict(reply.code);
        self.task.status.refused(&self.task.feeds[lane].route.name, seq, &story, speaks_of);
        self.trial_answered(lane, seq);
        if speaks_of == Verdict::NewSession {
            self.wants_new_session = true;
            self.drain(Why::Refused(story), now + DRAIN_TIME);
            return;
        }
        let outcome = self.task.suspects.refused(lane, seq, reply.code, story.clone(), now, fastrand::f64());
        if outcome == Outcome::Held && self.task.suspects.suspect(lane) == Some(seq) {
            let failure = Failure::Refused { code: reply.code, story: story.clone() };
            let failures = self.task.suspects.failures(lane);
            self.task.status.held(&self.task.feeds[lane].route.name, seq, &failure, failures);
            if failures.is_multiple_of(RECONNECT_AFTER) {
                self.drain(Why::Refused(story), now + DRAIN_TIME);
            }
        }
        self.follow(lane, outcome);
    }

    /// Does what was decided about a suspect.
    pub(super) fn follow(&mut self, lane: usize, outcome: Outcome) {
        match outcome {
            Outcome::None | Outcome::Held => {}
            Outcome::Closed => self.task.reopen(lane),
            Outcome::Dead(dead) => self.task.bury(lane, dead),
            Outcome::Convicted(dead) => {
                self.task.bury(lane, dead);
                self.task.reopen(lane);
                // The upstream may hold half of it under its id.
                if self.task.ledger.has_doubts() {
                    self.wants_new_session = true;
                    self.drain(Why::Refused("half a delivery is given up".to_owned()), Instant::now() + DRAIN_TIME);
                }
            }
        }
    }
}

/// A refusal in words.
fn story(reply: &Reply) -> String {
    let text = reply.text.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
    let meaning = meaning_of_publish_code(reply.code);
    format!("the upstream refused it: {meaning} (code 0x{:02x}){text}", reply.code)
}
