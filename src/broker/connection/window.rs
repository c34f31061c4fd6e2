//! The window of a durable queue towards one client: what was sent on this connection and is not finished. Pure.
//!
//! Nothing here outlives the connection: the next one begins at the head of the queue, and the store knows how far each
//! message has come. A packet id is a function of the sequence number, so a message has its original one for ever
//! [MQTT-4.4.0-1] without anybody writing it down; in exchange the window spans fewer numbers than there are ids, counted
//! from the first message whose end is not on disk, for after a crash that one is sent again.

use std::collections::{BTreeSet, VecDeque};

use crate::{
    broker::{limits::OUTGOING_WINDOW, packet::AckKind},
    intake::Sequence,
    message::QoS,
};

/// Packet ids that there are.
const IDS: u64 = 65_535;

/// The packet id of a message.
pub(crate) fn packet_id(seq: Sequence) -> u16 {
    u16::try_from(seq.saturating_sub(1) % IDS + 1).expect("at most 65 535")
}

/// The window.
#[derive(Debug)]
pub(crate) struct Window {
    /// Most messages that may be unfinished.
    most: u16,
    /// The next message to be sent.
    cursor: Sequence,
    /// What was sent and is not finished, oldest first.
    open: VecDeque<Open>,
    /// Finished, and the store has not said yet that it knows.
    leaving: BTreeSet<Sequence>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    seq: Sequence,
    bytes: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// PUBLISH was sent.
    Published(QoS),
    /// PUBREC came; the store does not know yet.
    Receiving,
    /// PUBREL was sent.
    Released,
}

/// A message that has left the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) seq: Sequence,
    /// Bytes that it counted for.
    pub(crate) bytes: usize,
}

/// What a PUBREC means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// The store is to be told; PUBREL follows.
    New(Sequence),
    /// The store is being told; PUBREL follows.
    Underway,
    /// PUBREL was sent; it is due again.
    Again,
    /// Nothing of the kind was sent.
    Unknown,
}

impl Window {
    /// A connection begins, and looks at the queue from `head` on.
    pub(crate) fn new(receive_maximum: u16, head: Sequence) -> Self {
        let most = receive_maximum.min(OUTGOING_WINDOW);
        Self { most, cursor: head, open: VecDeque::new(), leaving: BTreeSet::new() }
    }

    /// The next message to be sent.
    pub(crate) fn cursor(&self) -> Sequence {
        self.cursor
    }

    /// Messages that were sent and are not finished.
    pub(crate) fn unfinished(&self) -> usize {
        self.open.len()
    }

    /// How many more messages may be sent; the next must be within the span of packet ids, too.
    pub(crate) fn room(&self) -> usize {
        if self.spans(self.cursor) { usize::from(self.most).saturating_sub(self.open.len()) } else { 0 }
    }

    /// Whether a message may be sent beside those that are not finished: its packet id is none of theirs.
    pub(crate) fn spans(&self, seq: Sequence) -> bool {
        seq - self.oldest().min(seq) < IDS
    }

    /// Everything before it has left, and the store knows.
    pub(crate) fn oldest(&self) -> Sequence {
        let open = self.open.front().map(|open| open.seq);
        open.into_iter().chain(self.leaving.first().copied()).min().unwrap_or(self.cursor)
    }

    /// Everything before it has been acknowledged.
    pub(crate) fn head(&self) -> Sequence {
        self.open.front().map_or(self.cursor, |open| open.seq)
    }

    /// Nothing before `next` is left in the queue.
    pub(crate) fn skip_to(&mut self, next: Sequence) {
        self.cursor = self.cursor.max(next);
    }

    /// PUBLISH is sent.
    pub(crate) fn publish(&mut self, seq: Sequence, qos: QoS, bytes: usize) {
        self.enter(seq, bytes, Stage::Published(qos));
    }

    /// PUBREC came on an earlier connection, and PUBREL is sent.
    pub(crate) fn release(&mut self, seq: Sequence) {
        self.enter(seq, 0, Stage::Released);
    }

    /// The message cannot be sent any more, and the client may have half of it: it is treated as if PUBREC had come.
    pub(crate) fn withdraw(&mut self, seq: Sequence, bytes: usize) {
        self.enter(seq, bytes, Stage::Receiving);
    }

    fn enter(&mut self, seq: Sequence, bytes: usize, stage: Stage) {
        debug_assert!(seq >= self.cursor && self.spans(seq));
        self.cursor = seq + 1;
        self.open.push_back(Open { seq, bytes: u32::try_from(bytes).unwrap_or(u32::MAX), stage });
    }

    /// The message leaves without being sent.
    pub(crate) fn pass_over(&mut self, seq: Sequence) {
        self.cursor = seq + 1;
        self.leaving.insert(seq);
    }

    /// PUBACK.
    pub(crate) fn acknowledged(&mut self, id: u16) -> Option<Left> {
        self.finish(id, |stage| stage == Stage::Published(QoS::AtLeastOnce))
    }

    /// PUBREC with an error: the exchange ends here (MQTT 5, section 4.3.3).
    pub(crate) fn refused(&mut self, id: u16) -> Option<Left> {
        self.finish(id, |stage| stage == Stage::Published(QoS::ExactlyOnce))
    }

    /// PUBCOMP.
    pub(crate) fn completed(&mut self, id: u16) -> Option<Left> {
        self.finish(id, |stage| stage == Stage::Released)
    }

    /// PUBREC.
    pub(crate) fn received(&mut self, id: u16) -> Received {
        let Some(at) = self.find(id) else { return Received::Unknown };
        let open = &mut self.open[at];
        match open.stage {
            Stage::Published(QoS::ExactlyOnce) => {
                open.stage = Stage::Receiving;
                Received::New(open.seq)
            }
            Stage::Receiving => Received::Underway,
            Stage::Released => Received::Again,
            Stage::Published(_) => Received::Unknown,
        }
    }

    /// The store knows that PUBREC came; true when PUBREL is due.
    pub(crate) fn stored_received(&mut self, seq: Sequence) -> bool {
        let Ok(at) = self.open.binary_search_by_key(&seq, |open| open.seq) else { return false };
        let due = self.open[at].stage == Stage::Receiving;
        self.open[at].stage = Stage::Released;
        due
    }

    /// The store knows that a message has left.
    pub(crate) fn stored_left(&mut self, seq: Sequence) {
        self.leaving.remove(&seq);
    }

    /// Whether this answer may come now. One to something unknown may: it is of an earlier connection, or of a session that
    /// ended.
    pub(crate) fn allows(&self, id: u16, kind: AckKind) -> bool {
        self.find(id).is_none_or(|at| match self.open[at].stage {
            Stage::Published(QoS::AtLeastOnce) => kind == AckKind::PubAck,
            Stage::Published(_) | Stage::Receiving => kind == AckKind::PubRec,
            Stage::Released => matches!(kind, AckKind::PubRec | AckKind::PubComp),
        })
    }

    fn finish(&mut self, id: u16, at_stage: impl Fn(Stage) -> bool) -> Option<Left> {
        let at = self.find(id).filter(|at| at_stage(self.open[*at].stage))?;
        let Open { seq, bytes, .. } = self.open.remove(at)?;
        self.leaving.insert(seq);
        Some(Left { seq, bytes: bytes as usize })
    }

    fn find(&self, id: u16) -> Option<usize> {
        let oldest = self.open.front()?.seq;
        let ahead = (u64::from(id) + IDS - u64::from(packet_id(oldest))) % IDS;
        if id == 0 {
            return None;
        }
        self.open.binary_search_by_key(&(oldest + ahead), |open| open.seq).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packet_ids_follow_from_sequence_numbers() {
        assert_eq!([1, 2, 65_535, 65_536, 65_537, 131_070, 131_071].map(packet_id), [1, 2, 65_535, 1, 2, 65_535, 1]);
    }

    #[test]
    fn the_span_counts_from_the_first_message_that_the_store_still_has() {
        let mut window = Window::new(10, 1);
        window.publish(1, QoS::AtLeastOnce, 7);
        window.publish(2, QoS::AtLeastOnce, 0);
        assert_eq!(window.acknowledged(1), Some(Left { seq: 1, bytes: 7 }));
        assert_eq!(window.acknowledged(1), None);
        assert_eq!(window.head(), 2);
        assert!(window.spans(65_535) && !window.spans(65_536));
        window.stored_left(1);
        assert!(window.spans(65_536) && !window.spans(65_537));
        window.skip_to(65_537);
        assert_eq!(window.room(), 0);
    }

    #[derive(Debug, Clone)]
    enum Action {
        Send { gap: u64, qos2: bool },
        PassOver,
        Ack(usize),
        Rec(usize),
        Comp(usize),
        Refuse(usize),
        Store,
    }

    fn any_action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (prop_oneof![4 => 0..3u64, 1 => 0..40_000u64], any::<bool>())
                .prop_map(|(gap, qos2)| Action::Send { gap, qos2 }),
            1 => Just(Action::PassOver),
            2 => (0..9usize).prop_map(Action::Ack),
            2 => (0..9usize).prop_map(Action::Rec),
            2 => (0..9usize).prop_map(Action::Comp),
            1 => (0..9usize).prop_map(Action::Refuse),
            3 => Just(Action::Store),
        ]
    }

    proptest! {
        /// The model: what the client has of each message, by sequence number; and what the store was told.
        #[test]
        fn ids_are_unique_and_every_message_ends_once(
            start in prop_oneof![1..4u64, 65_530..65_540u64, 1_000_000..1_000_003u64],
            most in 1..6u16,
            actions in proptest::collection::vec(any_action(), 0..120),
        ) {
            let mut window = Window::new(most, start);
            // Sequence, QoS 2, PUBREC came, PUBREL was sent.
            let mut model: Vec<(u64, bool, bool, bool)> = Vec::new();
            let mut steps: VecDeque<(u64, bool)> = VecDeque::new();
            let mut told: Vec<u64> = Vec::new();
            for action in actions {
                let at = |index: usize, model: &Vec<(u64, bool, bool, bool)>| {
                    (!model.is_empty()).then(|| index % model.len())
                };
                match action {
                    Action::Send { gap, qos2 } => {
                        window.skip_to(window.cursor() + gap);
                        if window.room() > 0 {
                            let seq = window.cursor();
                            prop_assert!(model.iter().all(|open| packet_id(open.0) != packet_id(seq)));
                            prop_assert!(told.iter().all(|told| packet_id(*told) != packet_id(seq)));
                            window.publish(seq, if qos2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce }, 1);
                            model.push((seq, qos2, false, false));
                        }
                    }
                    Action::PassOver => {
                        let seq = window.cursor();
                        window.pass_over(seq);
                        steps.push_back((seq, true));
                        told.push(seq);
                    }
                    Action::Ack(index) => {
                        let Some(at) = at(index, &model) else { continue };
                        let (seq, qos2, ..) = model[at];
                        let left = window.acknowledged(packet_id(seq));
                        prop_assert_eq!(left.map(|left| left.seq), (!qos2).then_some(seq));
                        if left.is_some() {
                            model.remove(at);
                            steps.push_back((seq, true));
                            told.push(seq);
                        }
                    }
                    Action::Rec(index) => {
                        let Some(at) = at(index, &model) else { continue };
                        let (seq, qos2, received, released) = model[at];
                        let wanted = match (qos2, received, released) {
                            (false, ..) => Received::Unknown,
                            (_, false, _) => Received::New(seq),
                            (_, true, false) => Received::Underway,
                            (_, true, true) => Received::Again,
                        };
                        prop_assert_eq!(window.received(packet_id(seq)), wanted);
                        if matches!(wanted, Received::New(_)) {
                            model[at].2 = true;
                            steps.push_back((seq, false));
                        }
                    }
                    Action::Comp(index) => {
                        let Some(at) = at(index, &model) else { continue };
                        let (seq, _, _, released) = model[at];
                        let left = window.completed(packet_id(seq));
                        prop_assert_eq!(left.map(|left| left.seq), released.then_some(seq));
                        if released {
                            model.remove(at);
                            steps.push_back((seq, true));
                            told.push(seq);
                        }
                    }
                    Action::Refuse(index) => {
                        let Some(at) = at(index, &model) else { continue };
                        let (seq, qos2, received, _) = model[at];
                        let left = window.refused(packet_id(seq));
                        prop_assert_eq!(left.map(|left| left.seq), (qos2 && !received).then_some(seq));
                        if left.is_some() {
                            model.remove(at);
                            steps.push_back((seq, true));
                            told.push(seq);
                        }
                    }
                    Action::Store => match steps.pop_front() {
                        Some((seq, true)) => {
                            window.stored_left(seq);
                            told.retain(|told| *told != seq);
                        }
                        Some((seq, false)) => {
                            let open = model.iter_mut().find(|open| open.0 == seq);
                            prop_assert_eq!(window.stored_received(seq), open.is_some());
                            if let Some(open) = open {
                                open.3 = true;
                            }
                        }
                        None => {}
                    },
                }
                prop_assert!(model.len() <= usize::from(most));
                prop_assert_eq!(window.head(), model.first().map_or(window.cursor(), |open| open.0));
            }
        }
    }
}
