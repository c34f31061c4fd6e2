//! What to do with messages that the upstream refuses; pure.
//!
//! A refusal is a PUBACK or PUBREC with a reason of 0x80 or more. Codes that speak of the message itself make it dead at once. All others may pass
//! (a quota, a right not yet granted), so the message is tried again, up to [`MAX_TRIES`] times, each on a new connection after a backoff:
//! sending stops, what is in flight is waited for, the connection is closed in order.
//!
//! *Order.* Messages that were in the same window and were taken stay taken, so a message that is taken at the second try arrives behind
//! them; the order of sending is kept, and nothing that was not yet in the window overtakes it.
//!
//! *A sick upstream is not a poisoned message.* Where a connection brought refusals only, just the first of them is charged a try: an upstream that refuses
//! everything for an hour costs a handful of messages their place (they are in the dead letters and can be retried), not the backlog.
//!
//! MQTT 3.1.1 has no way to refuse but to close the connection, and some MQTT 5 upstreams do the same. [`Suspicion`] finds such messages: after [`CAREFUL_AFTER`]
//! connections that the upstream closed before it acknowledged anything, one message at a time is sent, and the
//! one that is alone in flight [`MAX_SUSPECT_TRIES`] times when that happens is dead. Timeouts and networks that fail are never held against a message.

use std::collections::HashMap;

use crate::store::Sequence;

/// Connections on which a message may be refused before it goes to the dead letters.
pub(super) const MAX_TRIES: u32 = 5;

/// Connections lost without an acknowledgement after which messages are sent one at a time.
pub(super) const CAREFUL_AFTER: u32 = 3;

/// Connections that one message alone may cost before it goes to the dead letters.
pub(super) const MAX_SUSPECT_TRIES: u32 = 10;

/// A refused message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) lane: usize,
    pub(super) seq: Sequence,
    pub(super) code: u8,
    pub(super) text: Option<Box<str>>,
}

/// What a refusal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The message will never be taken.
    Dead,
    /// It may be taken later.
    Retry,
    /// The upstream has lost track of packet ids: begin a new session; not the message's fault.
    NewSession,
}

/// Judges the reason code of a refusal (MQTT 5, sections 3.4.2.1 and 3.5.2.1).
pub(super) const fn verdict(code: u8) -> Verdict {
    match code {
        // Malformed, protocol error, topic name invalid, too large, payload format invalid, retain or QoS not supported.
        0x81 | 0x82 | 0x90 | 0x95 | 0x99 | 0x9a | 0x9b => Verdict::Dead,
        0x91 => Verdict::NewSession,
        _ => Verdict::Retry,
    }
}

/// Messages refused and not given up, and how often.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    tries: HashMap<(usize, Sequence), u32>,
    /// Those of this connection, in the order in which they came.
    fresh: Vec<Refused>,
}

impl Refusals {
    /// A message was refused with a code that may pass.
    pub(super) fn note(&mut self, refused: Refused) {
        self.fresh.push(refused);
    }

    /// A message was taken after all.
    pub(super) fn forget(&mut self, lane: usize, seq: Sequence) {
        if !self.tries.is_empty() {
            self.tries.remove(&(lane, seq));
        }
    }

    /// The connection is over: charges the tries and gives those that are used up.
    ///
    /// `took_any`: whether the upstream took any message on it. `oldest`: the oldest message of a lane that is not done; what is
    /// before that has left and is forgotten.
    pub(super) fn judge(&mut self, took_any: bool, oldest: impl Fn(usize) -> Sequence) -> Vec<Refused> {
        self.tries.retain(|(lane, seq), _| *seq >= oldest(*lane));
        let mut dead = Vec::new();
        let charged = if took_any { usize::MAX } else { 1 };
        for refused in self.fresh.drain(..).take(charged) {
            let key = (refused.lane, refused.seq);
            let tries = self.tries.entry(key).or_insert(0);
            *tries += 1;
            if *tries >= MAX_TRIES {
                self.tries.remove(&key);
                dead.push(refused);
            }
        }
        dead
    }
}

/// Finds the message that makes the upstream close the connection.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// Connections in a row that the upstream closed before it acknowledged anything.
    lost: u32,
    suspect: Option<(usize, Sequence)>,
    tries: u32,
}

impl Suspicion {
    /// Whether to send one message at a time.
    pub(super) const fn is_careful(&self) -> bool {
        self.lost >= CAREFUL_AFTER
    }

    /// Something was acknowledged.
    pub(super) fn made_progress(&mut self) {
        *self = Self::default();
    }

    /// The upstream closed a connection with messages in flight before it acknowledged anything. `alone`: the message in flight, where there was
    /// only one. Returns it when it has cost enough connections.
    pub(super) fn closed(&mut self, alone: Option<(usize, Sequence)>) -> Option<(usize, Sequence)> {
        self.lost = self.lost.saturating_add(1);
        let alone = alone?;
        if self.suspect == Some(alone) {
            self.tries += 1;
        } else {
            (self.suspect, self.tries) = (Some(alone), 1);
        }
        if self.tries < MAX_SUSPECT_TRIES {
            return None;
        }
        self.tries = 0;
        self.suspect.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(seq: Sequence) -> Refused {
        Refused { lane: 0, seq, code: 0x97, text: None }
    }

    fn round(refusals: &mut Refusals, seqs: &[Sequence], took_any: bool) -> Vec<Sequence> {
        for seq in seqs {
            refusals.note(refused(*seq));
        }
        refusals.judge(took_any, |_| 0).iter().map(|refused| refused.seq).collect()
    }

    #[test]
    fn refused_messages_are_dead_after_so_many_tries() {
        let mut refusals = Refusals::default();
        for _ in 1..MAX_TRIES {
            assert!(round(&mut refusals, &[1, 2], true).is_empty());
        }
        assert_eq!(round(&mut refusals, &[1, 2], true), [1, 2]);
        assert!(refusals.tries.is_empty());
    }

    #[test]
    fn an_upstream_that_refuses_everything_costs_one_message_at_a_time() {
        let mut refusals = Refusals::default();
        for _ in 1..MAX_TRIES {
            assert!(round(&mut refusals, &[1, 2, 3], false).is_empty());
        }
        assert_eq!(round(&mut refusals, &[1, 2, 3], false), [1]);
        assert!(round(&mut refusals, &[2, 3], false).is_empty());
    }

    #[test]
    fn a_message_that_was_taken_or_has_left_begins_anew() {
        let mut refusals = Refusals::default();
        for _ in 1..MAX_TRIES {
            round(&mut refusals, &[1, 2], true);
        }
        refusals.forget(0, 1);
        assert!(round(&mut refusals, &[1], true).is_empty());
        assert!(refusals.judge(true, |_| 10).is_empty());
        assert!(refusals.tries.is_empty());
    }

    #[test]
    fn the_message_that_is_alone_each_time_is_the_culprit() {
        let mut suspicion = Suspicion::default();
        for _ in 0..CAREFUL_AFTER {
            assert!(!suspicion.is_careful());
            assert_eq!(suspicion.closed(None), None);
        }
        assert!(suspicion.is_careful());
        for _ in 1..MAX_SUSPECT_TRIES {
            assert_eq!(suspicion.closed(Some((0, 7))), None);
        }
        assert_eq!(suspicion.closed(Some((0, 7))), Some((0, 7)));
        assert!(suspicion.is_careful());
        suspicion.made_progress();
        assert!(!suspicion.is_careful());
    }

    #[test]
    fn codes_that_speak_of_the_message_are_final() {
        assert_eq!([0x90, 0x99].map(verdict), [Verdict::Dead; 2]);
        assert_eq!([0x80, 0x83, 0x87, 0x97, 0xfe].map(verdict), [Verdict::Retry; 5]);
        assert_eq!(verdict(0x91), Verdict::NewSession);
    }
}
