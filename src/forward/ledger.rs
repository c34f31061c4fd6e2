//! The ledger: which delivery id is which message, and which messages are done; pure.
//!
//! # Constraints
//!
//! - At most `window` ids are in use (1..=65 534; the last one is the session's own, see [`LAST_DELIVERY_ID`]); ids go round the whole id space, so that a late second acknowledgement meets
//!   a free id and not somebody else's message.
//! - Per stream, at most `window + `[`SPAN`] messages stand between the oldest that is not done and the newest that was sent, and at most [`READY_RUNS`]
//!   runs wait to be taken: when one message hangs, memory is bounded and sending stops; the progress timeout sees to the rest.
//!
//! # Layout
//!
//! `slots`: id → message and phase. Per stream (*lane*): `pending`, the messages from the oldest that is not done on, in sequence order, each
//! with its fate or without; `ready`, the runs before that, waiting to be given to the store.
//!
//! # Phases
//!
//! ```text
//! QoS 0  sent ──(written to the connection)──▶ done
//! QoS 1  sent ──PUBACK──▶ done
//! QoS 2  sent ──PUBREC──▶ released ──PUBCOMP──▶ done
//! ```
//!
//! A refusal (a reason of 0x80 or more) frees the id and leaves the message without a fate: the caller settles it, or leaves it
//! to be sent again on the next connection.
//!
//! # Disconnect
//!
//! [`Ledger::disconnect`] returns everything without a fate: it will be sent again, oldest first, from [`Ledger::next_to_read`] on. Messages that are done
//! but wait behind one that is not stay done, and are skipped on the way. QoS 2 ids are kept until it is known whether the upstream kept
//! its session: [`Ledger::connect`] then gives the ids to release at once, and [`Ledger::plan`] the id a message must be sent again under. A message whose
//! row has gone meanwhile (purged, dropped) is found missing when the next row of its lane is read ([`Ledger::pass_over`]).
//!
//! What a crash does: the ledger is memory; after a restart everything not settled in the store is sent again.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::{
    message::QoS,
    store::{Fate, Run, Sequence},
    uplink::LAST_DELIVERY_ID,
};

/// Messages that may be done behind one that is not, beyond the window.
pub(super) const SPAN: usize = 4096;

/// Most runs of one lane that wait to be taken.
pub(super) const READY_RUNS: usize = 1024;

/// Everything in flight on one uplink.
#[derive(Debug)]
pub(super) struct Ledger {
    window: usize,
    last_id: u16,
    slots: HashMap<u16, Slot>,
    /// How many of them are in doubt.
    doubts: usize,
    lanes: Vec<Lane>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    lane: usize,
    seq: Sequence,
    phase: Phase,
    sent_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for PUBACK.
    Sent,
    /// Waiting for PUBREC.
    SentTwice,
    /// Waiting for PUBCOMP.
    Released,
    /// Sent at QoS 2 on a connection that is gone: the upstream has it or not, so it must come again under the same id.
    InDoubt,
}

#[derive(Debug, Default)]
struct Lane {
    /// All before this are done and in `ready`, or taken.
    next: Sequence,
    pending: VecDeque<Entry>,
    ready: Vec<Run>,
    /// All before this have been passed over on this connection.
    passed: Sequence,
}

#[derive(Debug)]
struct Entry {
    seq: Sequence,
    /// 0 when it has none: at QoS 0, after a refusal or a disconnect.
    id: u16,
    /// Whether it is on its way at this moment.
    sent: bool,
    fate: Option<Fate>,
}

/// What to do with a message that was read from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Send it under a new id.
    Send,
    /// Send it again under its id.
    SendAgain(u16),
    /// It is done, or on its way.
    Skip,
}

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The upstream has the message.
    Forwarded {
        /// Its lane.
        lane: usize,
        /// Its place.
        seq: Sequence,
        /// When it was sent.
        sent_at: Instant,
    },
    /// First half done: answer with the release.
    Release,
    /// The upstream does not take the message.
    Refused {
        /// Its lane.
        lane: usize,
        /// Its place.
        seq: Sequence,
    },
    /// Nobody waits for this: late, twice, or made up.
    Unexpected,
}

/// The kinds of acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// PUBACK.
    Acknowledged,
    /// PUBREC.
    Received,
    /// PUBCOMP.
    Completed,
}

impl Ledger {
    /// A ledger for so many streams, with nothing in flight.
    pub(super) fn new(lanes: usize) -> Self {
        let lanes = std::iter::repeat_with(Lane::default).take(lanes).collect();
        Self { window: 1, last_id: 0, slots: HashMap::new(), doubts: 0, lanes }
    }

    /// A connection was made. `resumed`: the upstream kept the session. Returns the ids to release.
    pub(super) fn connect(&mut self, window: u16, resumed: bool) -> Vec<u16> {
        self.window = usize::from(window.clamp(1, LAST_DELIVERY_ID - 1));
        if !resumed {
            for slot in self.slots.drain().map(|(_, slot)| slot) {
                self.lanes[slot.lane].give_back(slot.seq);
            }
            self.doubts = 0;
        }
        let mut released: Vec<u16> =
            self.slots.iter().filter(|(_, slot)| slot.phase == Phase::Released).map(|(id, _)| *id).collect();
        released.sort_unstable();
        released
    }

    /// The connection is gone: everything that is not done will be sent again.
    pub(super) fn disconnect(&mut self) {
        let lanes = &mut self.lanes;
        self.slots.retain(|_, slot| {
            let keep = match slot.phase {
                Phase::Sent => false,
                Phase::SentTwice | Phase::InDoubt => {
                    slot.phase = Phase::InDoubt;
                    true
                }
                Phase::Released => true,
            };
            if !keep {
                lanes[slot.lane].give_back(slot.seq);
            }
            keep
        });
        for lane in lanes {
            lane.passed = 0;
        }
        self.doubts = self.slots.values().filter(|slot| slot.phase == Phase::InDoubt).count();
        for entry in self.lanes.iter_mut().flat_map(|lane| &mut lane.pending) {
            entry.sent = self.slots.get(&entry.id).is_some_and(|slot| slot.phase == Phase::Released);
        }
    }

    /// Ids in use on this connection: sent and not answered.
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.doubts
    }

    /// Whether something of a lane is in flight.
    pub(super) fn has_in_flight(&self, lane: usize) -> bool {
        self.slots.values().any(|slot| slot.lane == lane && slot.phase != Phase::InDoubt)
    }

    /// The oldest message of a lane that is in flight and that the upstream has said nothing of.
    pub(super) fn oldest_in_flight(&self, lane: usize) -> Option<Sequence> {
        let unanswered = |entry: &&Entry| {
            let phase = self.slots.get(&entry.id).map(|slot| slot.phase);
            entry.fate.is_none() && entry.sent && matches!(phase, Some(Phase::Sent | Phase::SentTwice))
        };
        self.lanes[lane].pending.iter().find(unanswered).map(|entry| entry.seq)
    }

    /// The oldest message of a lane, where it is in flight while a later one is done.
    pub(super) fn overtaken(&self, lane: usize) -> Option<Sequence> {
        let mut pending = self.lanes[lane].pending.iter();
        let first = pending.next().filter(|first| first.sent && self.slots.contains_key(&first.id))?;
        pending.any(|entry| entry.fate.is_some()).then_some(first.seq)
    }

    /// Whether deliveries of the last connection wait to come again under their ids.
    pub(super) fn has_doubts(&self) -> bool {
        self.doubts > 0
    }

    /// What was refused on this connection may be sent again, when the lane is read again from [`Ledger::next_to_read`] on.
    pub(super) fn reopen(&mut self, lane: usize) {
        let slots = &self.slots;
        let lane = &mut self.lanes[lane];
        lane.passed = 0;
        for entry in lane.pending.iter_mut().filter(|entry| entry.fate.is_none()) {
            entry.sent = slots.get(&entry.id).is_some_and(|slot| slot.phase != Phase::InDoubt);
        }
    }

    /// Whether no id is in use by a lane.
    pub(super) fn is_idle(&self, lane: usize) -> bool {
        self.slots.values().all(|slot| slot.lane != lane)
    }

    /// Gives up the deliveries of a lane that are in doubt; returns the ids to release.
    pub(super) fn release_doubts(&mut self, lane: usize) -> Vec<u16> {
        let mut release = Vec::new();
        for (id, slot) in &mut self.slots {
            if slot.lane == lane && slot.phase == Phase::InDoubt {
                slot.phase = Phase::Released;
                self.doubts -= 1;
                release.push(*id);
                if let Ok(index) = self.lanes[lane].find(slot.seq) {
                    self.lanes[lane].pending[index].sent = true;
                }
            }
        }
        release
    }

    /// Forgets everything of a lane, which must be idle: it is about other messages from now on.
    pub(super) fn forget_lane(&mut self, lane: usize) {
        debug_assert!(self.is_idle(lane), "what is in flight would be settled as something else");
        self.lanes[lane] = Lane::default();
    }

    /// How many more the window takes.
    pub(super) fn room(&self) -> usize {
        self.window.saturating_sub(self.slots.len())
    }

    /// Whether one more message of a lane may be sent or settled.
    pub(super) fn lane_has_room(&self, lane: usize) -> bool {
        let lane = &self.lanes[lane];
        lane.pending.len() < self.window + SPAN && lane.ready.len() < READY_RUNS
    }

    /// From where a lane is to be read after a connection was made.
    pub(super) fn next_to_read(&self, lane: usize) -> Sequence {
        self.lanes[lane].next
    }

    /// A row of this sequence was read: everything before it that is neither done nor on its way has left the store. Returns ids to release, so that they
    /// can be used again: the upstream may hold half of a delivery that will never be completed.
    pub(super) fn pass_over(&mut self, lane: usize, before: Sequence) -> Vec<u16> {
        let mut release = Vec::new();
        let (slots, lane) = (&mut self.slots, &mut self.lanes[lane]);
        let first = lane.pending.partition_point(|entry| entry.seq < lane.passed);
        lane.passed = lane.passed.max(before);
        for entry in lane.pending.range_mut(first..).take_while(|entry| entry.seq < before) {
            if entry.fate.is_some() {
                continue;
            }
            if let Some(slot) = slots.get_mut(&entry.id) {
                if slot.phase == Phase::InDoubt {
                    slot.phase = Phase::Released;
                    self.doubts -= 1;
                    entry.sent = true;
                    release.push(entry.id);
                }
            } else if !entry.sent {
                // The store passes over what it no longer has.
                entry.fate = Some(Fate::Forwarded);
            }
        }
        lane.advance();
        release
    }

    /// What to do with a message.
    pub(super) fn plan(&self, lane: usize, seq: Sequence) -> Plan {
        let lane = &self.lanes[lane];
        if seq < lane.next {
            return Plan::Skip;
        }
        match lane.find(seq).ok().map(|index| &lane.pending[index]) {
            None => Plan::Send,
            Some(entry) if entry.fate.is_some() || entry.sent => Plan::Skip,
            Some(entry) => match self.slots.get(&entry.id).map(|slot| slot.phase) {
                None => Plan::Send,
                Some(Phase::InDoubt) => Plan::SendAgain(entry.id),
                Some(Phase::Sent | Phase::SentTwice | Phase::Released) => Plan::Skip,
            },
        }
    }

    /// The id that the next message will get; there must be room in the window.
    pub(super) fn next_id(&mut self) -> u16 {
        assert!(self.slots.len() < usize::from(LAST_DELIVERY_ID), "the window is smaller than the id space");
        let mut id = self.last_id;
        loop {
            id = if id >= LAST_DELIVERY_ID { 1 } else { id + 1 };
            if !self.slots.contains_key(&id) {
                return id;
            }
        }
    }

    /// A message was sent: under this id (new, or its old one), or without one at QoS 0.
    pub(super) fn sent(&mut self, lane: usize, seq: Sequence, id: u16, qos: QoS, now: Instant) {
        let phase = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Phase::Sent),
            QoS::ExactlyOnce => Some(Phase::SentTwice),
        };
        if let Some(phase) = phase {
            debug_assert!(id != 0, "ids begin at 1");
            let before = self.slots.insert(id, Slot { lane, seq, phase, sent_at: now });
            debug_assert!(before.is_none_or(|slot| slot.phase == Phase::InDoubt), "two messages under one id");
            if before.is_none() {
                self.last_id = id;
            } else {
                self.doubts -= 1;
            }
        }
        let entry = self.lanes[lane].entry(seq);
        entry.id = if phase.is_some() { id } else { 0 };
        entry.sent = true;
    }

    /// A message is done without an acknowledgement: written at QoS 0, expired, dead.
    pub(super) fn settle(&mut self, lane: usize, seq: Sequence, fate: Fate) {
        let lane = &mut self.lanes[lane];
        if seq >= lane.next {
            lane.entry(seq).fate = Some(fate);
            lane.advance();
        }
    }

    /// An acknowledgement came.
    pub(super) fn answer(&mut self, ack: Ack, id: u16, is_refusal: bool) -> Answer {
        let Some(slot) = self.slots.get_mut(&id) else { return Answer::Unexpected };
        let Slot { lane, seq, sent_at, phase } = *slot;
        let was_in_doubt = usize::from(phase == Phase::InDoubt);
        match (ack, phase) {
            (Ack::Acknowledged, Phase::Sent) | (Ack::Received, Phase::SentTwice | Phase::InDoubt) if is_refusal => {
                self.doubts -= was_in_doubt;
                self.slots.remove(&id);
                self.lanes[lane].park(seq);
                Answer::Refused { lane, seq }
            }
            (Ack::Received, _) if phase != Phase::Sent => {
                slot.phase = Phase::Released;
                self.doubts -= was_in_doubt;
                Answer::Release
            }
            // "Packet identifier not found" on PUBCOMP means that the upstream completed it before.
            (Ack::Acknowledged, Phase::Sent) | (Ack::Completed, Phase::Released) => {
                self.slots.remove(&id);
                self.settle(lane, seq, Fate::Forwarded);
                Answer::Forwarded { lane, seq, sent_at }
            }
            (
                Ack::Acknowledged | Ack::Received | Ack::Completed,
                Phase::Sent | Phase::SentTwice | Phase::Released | Phase::InDoubt,
            ) => Answer::Unexpected,
        }
    }

    /// Whether a lane has runs to take.
    pub(super) fn has_ready(&self, lane: usize) -> bool {
        !self.lanes[lane].ready.is_empty()
    }

    /// Takes the runs of a lane that are done without a gap, in order.
    pub(super) fn take_ready(&mut self, lane: usize) -> Vec<Run> {
        std::mem::take(&mut self.lanes[lane].ready)
    }
}

impl Lane {
    fn find(&self, seq: Sequence) -> Result<usize, usize> {
        match self.pending.back() {
            Some(last) if last.seq < seq => Err(self.pending.len()),
            Some(_) | None => self.pending.binary_search_by_key(&seq, |entry| entry.seq),
        }
    }

    fn entry(&mut self, seq: Sequence) -> &mut Entry {
        let index = match self.find(seq) {
            Ok(index) => index,
            Err(index) => {
                self.pending.insert(index, Entry { seq, id: 0, sent: false, fate: None });
                index
            }
        };
        &mut self.pending[index]
    }

    /// The message has no id any more, and is not sent again on this connection.
    fn park(&mut self, seq: Sequence) {
        if let Ok(index) = self.find(seq) {
            self.pending[index].id = 0;
        }
    }

    /// The message is neither done nor on its way.
    fn give_back(&mut self, seq: Sequence) {
        if let Ok(index) = self.find(seq) {
            self.pending[index].id = 0;
            self.pending[index].sent = false;
        }
    }

    /// Moves what is done without a gap from `pending` to `ready`.
    fn advance(&mut self) {
        while let Some(fate) = self.pending.front_mut().and_then(|entry| entry.fate.take()) {
            let Some(entry) = self.pending.pop_front() else { return };
            self.next = entry.seq + 1;
            match self.ready.last_mut() {
                // A gap in the sequence is rows that have left by another way; the store passes over them.
                Some(run) if run.fate == fate && !matches!(fate, Fate::Dead { .. }) => run.last = entry.seq,
                Some(_) | None => self.ready.push(Run { first: entry.seq, last: entry.seq, fate }),
            }
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
