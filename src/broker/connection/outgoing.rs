//! What was sent to one client and is not acknowledged yet: packet ids, order, the client's Receive Maximum. Pure.

use std::collections::VecDeque;

use crate::{
    broker::{
        fanout::Delivery,
        limits::{OUTGOING_BYTES, OUTGOING_WINDOW},
        packet::AckKind,
    },
    message::QoS,
};

/// A packet id that was used is not used again before this many others, so that an answer that comes twice or late does not
/// pass for that of the next message.
const RESTING_IDS: usize = 8;

/// The window towards one client. Lives as long as the session.
///
/// A packet id is the place in `slots`, so an acknowledgement is found without a search; `order` remembers what was
/// sent first, for sending again (MQTT 5, section 4.6).
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    slots: Vec<Option<Sent>>,
    /// Packet ids below the largest that are not in use, the one that has been free for longest first.
    free: VecDeque<u16>,
    next_order: u64,
    /// Packet ids to be sent again after a reconnect, oldest first.
    resend: VecDeque<u16>,
    /// Sent on this connection and not finished.
    on_wire: u16,
    window: u16,
    /// What the messages that may have to be sent again take.
    bytes: usize,
}

#[derive(Debug)]
struct Sent {
    order: u64,
    on_wire: bool,
    stage: Stage,
}

/// How far the exchange has come.
#[derive(Debug)]
pub(crate) enum Stage {
    /// PUBLISH was sent.
    Published(Delivery),
    /// PUBREC came; PUBREL was sent.
    Released,
}

impl Stage {
    fn cost(&self) -> usize {
        match self {
            Self::Published(delivery) => delivery.cost(),
            Self::Released => 0,
        }
    }

    /// The client has it.
    fn taken(&self) {
        if let Self::Published(delivery) = self {
            delivery.publication.taken();
        }
    }
}

impl Outgoing {
    /// A connection begins: everything unfinished is to be sent again, as far as the client's Receive Maximum lets it.
    pub(crate) fn connect(&mut self, receive_maximum: u16) {
        self.window = receive_maximum.min(OUTGOING_WINDOW);
        self.on_wire = 0;
        let mut unfinished: Vec<(u64, u16)> = Vec::new();
        for (slot, packet_id) in self.slots.iter_mut().zip(1..) {
            if let Some(sent) = slot {
                sent.on_wire = false;
                unfinished.push((sent.order, packet_id));
            }
        }
        unfinished.sort_unstable();
        self.resend = unfinished.into_iter().map(|(_, packet_id)| packet_id).collect();
    }

    /// Whether another QoS 1 or 2 message may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.resend.is_empty() && self.on_wire < self.window && self.bytes < OUTGOING_BYTES && self.next_id().is_some()
    }

    /// Messages sent on this connection and not finished.
    pub(crate) fn unfinished(&self) -> usize {
        self.on_wire.into()
    }

    /// Bytes of the messages that may have to be sent again.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The packet id that [`Outgoing::send`] will use; `None` when all are in use.
    pub(crate) fn next_id(&self) -> Option<u16> {
        let oldest = self.free.front().copied();
        if self.slots.len() < RESTING_IDS || oldest.is_none() {
            return u16::try_from(self.slots.len() + 1).ok().filter(|id| *id <= OUTGOING_WINDOW);
        }
        oldest
    }

    /// Enters a message that is about to be sent; `None` without room.
    pub(crate) fn send(&mut self, delivery: Delivery) -> Option<u16> {
        let packet_id = self.next_id().filter(|_| self.has_room())?;
        self.bytes += delivery.cost();
        let sent = Some(Sent { order: self.next_order, on_wire: true, stage: Stage::Published(delivery) });
        if usize::from(packet_id) > self.slots.len() {
            self.slots.push(sent);
        } else {
            self.free.pop_front();
            self.slots[usize::from(packet_id) - 1] = sent;
        }
        self.next_order += 1;
        self.on_wire += 1;
        Some(packet_id)
    }

    /// The next packet to be sent again.
    pub(crate) fn next_resend(&mut self) -> Option<(u16, &Stage)> {
        if self.on_wire >= self.window {
            return None;
        }
        let packet_id = self.resend.pop_front()?;
        let sent = self.slots[usize::from(packet_id) - 1].as_mut()?;
        sent.on_wire = true;
        self.on_wire += 1;
        Some((packet_id, &sent.stage))
    }

    /// PUBACK. False where nothing of the kind is waiting.
    pub(crate) fn acknowledged(&mut self, packet_id: u16) -> bool {
        let waits = |stage: &Stage| matches!(stage, Stage::Published(delivery) if delivery.qos == QoS::AtLeastOnce);
        self.stage(packet_id).is_some_and(|stage| waits(stage)) && self.finish(packet_id, true)
    }

    /// PUBREC: the message itself is no longer needed. False where nothing of the kind is waiting.
    pub(crate) fn received(&mut self, packet_id: u16) -> bool {
        match self.stage(packet_id) {
            Some(Stage::Published(delivery)) if delivery.qos != QoS::ExactlyOnce => false,
            None => false,
            Some(stage) => {
                let before = std::mem::replace(stage, Stage::Released);
                before.taken();
                self.bytes -= before.cost();
                true
            }
        }
    }

    /// PUBCOMP. False where nothing of the kind is waiting.
    pub(crate) fn completed(&mut self, packet_id: u16) -> bool {
        matches!(self.stage(packet_id), Some(Stage::Released)) && self.finish(packet_id, true)
    }

    /// PUBREC with an error: the exchange ends here (MQTT 5, section 4.3.3).
    pub(crate) fn refused(&mut self, packet_id: u16) -> bool {
        self.stage(packet_id).is_some() && self.finish(packet_id, true)
    }

    /// Whether this answer may come now. One to something unknown may: it is of an earlier connection, or of a session that
    /// ended.
    pub(crate) fn allows(&mut self, packet_id: u16, kind: AckKind) -> bool {
        self.stage(packet_id).is_none_or(|stage| match stage {
            Stage::Published(delivery) if delivery.qos == QoS::AtLeastOnce => kind == AckKind::PubAck,
            Stage::Published(_) => kind == AckKind::PubRec,
            Stage::Released => matches!(kind, AckKind::PubRec | AckKind::PubComp),
        })
    }

    /// Gives up one message that was entered and cannot be sent after all.
    pub(crate) fn give_up(&mut self, packet_id: u16) {
        self.finish(packet_id, false);
    }

    /// Takes out the QoS 1 messages of shared subscriptions, in the order in which they were sent.
    pub(crate) fn take_shared(&mut self) -> Vec<Delivery> {
        let is_shared = |sent: &mut Sent| match &sent.stage {
            Stage::Published(delivery) => delivery.qos == QoS::AtLeastOnce && delivery.share.is_some(),
            Stage::Released => false,
        };
        let mut taken: Vec<Sent> = self.slots.iter_mut().filter_map(|slot| slot.take_if(is_shared)).collect();
        taken.sort_unstable_by_key(|sent| sent.order);
        let deliveries = taken.into_iter().filter_map(|sent| match sent.stage {
            Stage::Published(delivery) => Some(delivery),
            Stage::Released => None,
        });
        deliveries.collect()
    }

    fn stage(&mut self, packet_id: u16) -> Option<&mut Stage> {
        let slot = self.slots.get_mut(usize::from(packet_id).checked_sub(1)?)?;
        // What was not sent on this connection cannot be acknowledged on it.
        slot.as_mut().filter(|sent| sent.on_wire).map(|sent| &mut sent.stage)
    }

    /// `answered`: by the client, with whatever word.
    fn finish(&mut self, packet_id: u16, answered: bool) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(packet_id) - 1) else { return false };
        let Some(sent) = slot.take() else { return false };
        self.bytes -= sent.stage.cost();
        if answered {
            sent.stage.taken();
        }
        self.on_wire -= u16::from(sent.on_wire);
        self.free.push_back(packet_id);
        if self.free.len() == self.slots.len() && self.free.len() > 64 {
            (self.slots, self.free) = (Vec::new(), VecDeque::new());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broker::fanout::Publication, message::Message, topic::TopicName};
    use std::{sync::Arc, time::Instant};

    fn delivery(qos: QoS) -> Delivery {
        let message = Message {
            topic: TopicName::new("t").unwrap(),
            payload: "p".into(),
            qos,
            retain: false,
            client: "c".into(),
            properties: None,
        };
        let publication = Arc::new(Publication::new(message, Instant::now()));
        Delivery { publication, qos, retain: false, subscription_ids: None, share: None }
    }

    #[test]
    fn the_window_is_never_exceeded_and_ids_are_unique() {
        let mut outgoing = Outgoing::default();
        outgoing.connect(3);
        let ids: Vec<_> = (0..3).map(|_| outgoing.send(delivery(QoS::AtLeastOnce)).unwrap()).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(outgoing.send(delivery(QoS::AtLeastOnce)), None);
        assert!(outgoing.acknowledged(2));
        assert!(!outgoing.acknowledged(2) && !outgoing.acknowledged(0) && !outgoing.acknowledged(9));
        assert_eq!(outgoing.send(delivery(QoS::ExactlyOnce)), Some(4));
        assert!(!outgoing.acknowledged(4) && !outgoing.completed(4));
        assert!(!outgoing.allows(4, AckKind::PubAck) && !outgoing.allows(4, AckKind::PubComp));
        assert!(outgoing.allows(4, AckKind::PubRec) && outgoing.allows(9, AckKind::PubComp));
        assert!(outgoing.received(4) && outgoing.received(4) && outgoing.completed(4));
    }

    #[test]
    fn a_packet_id_rests_before_it_is_used_again() {
        let mut outgoing = Outgoing::default();
        outgoing.connect(2);
        let one = |outgoing: &mut Outgoing| {
            let id = outgoing.send(delivery(QoS::AtLeastOnce)).unwrap();
            assert!(outgoing.acknowledged(id));
            id
        };
        let ids: Vec<_> = (0..10).map(|_| one(&mut outgoing)).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]);
    }

    #[test]
    fn a_reconnect_sends_again_in_order_within_the_new_window() {
        let mut outgoing = Outgoing::default();
        outgoing.connect(10);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtLeastOnce] {
            outgoing.send(delivery(qos)).unwrap();
        }
        assert!(outgoing.acknowledged(1) && outgoing.received(2));
        assert_eq!(outgoing.send(delivery(QoS::AtLeastOnce)), Some(5));
        outgoing.connect(2);
        assert!(!outgoing.has_room());
        assert!(!outgoing.acknowledged(3), "not sent on this connection yet");
        assert!(matches!(outgoing.next_resend(), Some((2, Stage::Released))));
        assert!(matches!(outgoing.next_resend(), Some((3, Stage::Published(_)))));
        assert!(outgoing.next_resend().is_none());
        assert!(outgoing.completed(2));
        assert_eq!(outgoing.next_resend().map(|(id, _)| id), Some(4));
        assert!(outgoing.acknowledged(3) && outgoing.acknowledged(4));
        assert_eq!(outgoing.next_resend().map(|(id, _)| id), Some(5), "sent last, so sent again last");
        assert!(outgoing.has_room());
    }
}
