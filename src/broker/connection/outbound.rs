//! Messages on their way to the client: from the mailbox through the window into the output buffer.

use std::time::Instant;

use super::{Connection, aliases::Choice, outgoing::Stage};
use crate::{
    broker::{
        fanout::Delivery,
        limits::{REPLAY_WAITING, RETAINED_SCAN, WRITE_HIGH},
        packet::{AckKind, PublishOut, Reason, SubscribeOptions, Version, ack},
    },
    message::QoS,
};

/// Messages taken from the mailbox at a time.
const FETCH: usize = 64;

/// What became of a message that was about to be sent.
pub(super) enum Fate {
    Encoded,
    Expired,
    TooLarge,
    /// The client may not have it (any more).
    Denied,
}

impl Connection {
    /// Whether new mail would be looked at now.
    pub(super) fn wants_mail(&self) -> bool {
        let is_idle = self.inbox.is_empty() && self.replay.is_empty() && self.claim.kept.replays.is_empty();
        (is_idle || self.durable.is_some()) && self.wire.output.len() < WRITE_HIGH
    }

    pub(super) fn fetch_mail(&mut self) -> bool {
        self.hub.fanout.take(self.claim.subscriber(), FETCH, &mut self.inbox);
        !self.inbox.is_empty()
    }

    /// Encodes what may be sent: first what must be sent again, then retained messages for new subscriptions, then mail.
    pub(super) fn pump(&mut self) {
        let now = Instant::now();
        self.pump_queue(now);
        while self.wire.output.len() < WRITE_HIGH && self.resend(now) {}
        // The scan of retained messages is work that nobody asked for but this client: others have their turn in between.
        let mut scan = RETAINED_SCAN;
        self.wants_turn = false;
        while self.wire.output.len() < WRITE_HIGH {
            if self.replay.is_empty() && !self.claim.kept.replays.is_empty() {
                if scan == 0 {
                    self.wants_turn = true;
                    break;
                }
                scan = scan.saturating_sub(self.fetch_replay(now));
                continue;
            }
            if self.replay.is_empty() && self.inbox.is_empty() && !self.fetch_mail() {
                break;
            }
            let queue = if self.replay.is_empty() { &self.inbox } else { &self.replay };
            let needs_room = queue.front().is_some_and(|delivery| delivery.qos != QoS::AtMostOnce);
            if needs_room && !self.has_room() {
                break;
            }
            let queue = if self.replay.is_empty() { &mut self.inbox } else { &mut self.replay };
            match queue.pop_front() {
                Some(delivery) if needs_room && self.durable.is_some() => self.queue_own(&delivery, now),
                Some(delivery) => self.send(delivery, now),
                None => {}
            }
        }
        let kept = &mut *self.claim.kept;
        self.hub.fanout.recount(&mut kept.counted, kept.outgoing.bytes());
    }

    /// Whether a QoS 1 or 2 message can go its way: to the client, or into the queue of the session, which is filled with
    /// what is retained only as fast as the client takes it.
    fn has_room(&self) -> bool {
        match &self.durable {
            Some(_) => {
                let subscriber = self.claim.subscriber();
                subscriber.has_room() && subscriber.waiting() < REPLAY_WAITING
            }
            None => self.claim.kept.outgoing.has_room(),
        }
    }

    /// Some of the retained messages that a new subscription is due; gives the number of those that were looked at.
    fn fetch_replay(&mut self, now: Instant) -> usize {
        let Some(replay) = self.claim.kept.replays.front_mut() else { return 0 };
        let page = self.hub.retained.page(&replay.filter, replay.after.as_ref(), replay.clock, now);
        let SubscribeOptions { qos, no_local, .. } = replay.subscription.options;
        let subscription_ids: Option<Box<[u32]>> = replay.subscription.id.map(|id| Box::from([id]));
        // What the gateway says of itself is not among them, and comes with the first page.
        let own = if replay.after.is_none() { self.hub.sys.matching(&self.hub, &replay.filter) } else { Vec::new() };
        replay.after = page.last;
        if replay.after.is_none() {
            self.claim.kept.replays.pop_front();
        }
        for publication in page.found.into_iter().chain(own) {
            let message = &publication.message;
            if (no_local && message.client == *self.claim.client_id()) || !self.badge.may_receive(&message.topic) {
                continue;
            }
            let qos = qos.min(message.qos);
            let subscription_ids = subscription_ids.clone();
            self.replay.push_back(Delivery { publication, qos, retain: true, subscription_ids, share: None });
        }
        page.scanned
    }

    /// Counts a message that was not sent.
    pub(super) fn count_unsent(&self, fate: &Fate) {
        match fate {
            Fate::Encoded => {}
            Fate::Expired => self.hub.metrics.drops.expired(),
            Fate::TooLarge => self.hub.metrics.drops.too_large(),
            Fate::Denied => self.hub.metrics.drops.not_authorized(),
        }
    }

    fn send(&mut self, delivery: Delivery, now: Instant) {
        let qos = delivery.qos;
        let packet_id = match qos {
            QoS::AtMostOnce => 0,
            // The caller has seen that there is room.
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.claim.kept.outgoing.next_id().unwrap_or(0),
        };
        match self.encode(&delivery, packet_id, false, now) {
            Fate::Encoded => {
                self.tally.sent(&delivery.publication.message, qos);
                if packet_id == 0 {
                    delivery.publication.taken();
                } else {
                    self.claim.kept.outgoing.send(delivery);
                }
            }
            fate @ (Fate::Expired | Fate::TooLarge | Fate::Denied) => self.count_unsent(&fate),
        }
    }

    /// Sends one packet again; false when there is none or no room.
    fn resend(&mut self, now: Instant) -> bool {
        let Some((packet_id, stage)) = self.claim.kept.outgoing.next_resend() else { return false };
        let delivery = match stage {
            Stage::Published(delivery) => delivery.clone(),
            Stage::Released => {
                ack(&mut self.wire.output, self.version, AckKind::PubRel, packet_id, Reason::SUCCESS);
                return true;
            }
        };
        match self.encode(&delivery, packet_id, true, now) {
            Fate::Encoded => self.tally.sent(&delivery.publication.message, delivery.qos),
            fate @ (Fate::Expired | Fate::TooLarge | Fate::Denied) => {
                match fate {
                    Fate::Denied => self.hub.metrics.drops.not_authorized(),
                    Fate::Encoded | Fate::Expired | Fate::TooLarge => self.hub.metrics.drops.too_large(),
                }
                self.withdraw(packet_id, delivery.qos);
            }
        }
        true
    }

    /// Ends the exchange of a message that was sent before and cannot be sent again. Where the client may hold half of
    /// it, the packet id is released first, or the next message under it would pass for this one.
    fn withdraw(&mut self, packet_id: u16, qos: QoS) {
        if qos == QoS::ExactlyOnce && self.claim.kept.outgoing.received(packet_id) {
            ack(&mut self.wire.output, self.version, AckKind::PubRel, packet_id, Reason::SUCCESS);
        } else {
            self.claim.kept.outgoing.give_up(packet_id);
        }
    }

    pub(super) fn encode(&mut self, delivery: &Delivery, packet_id: u16, dup: bool, now: Instant) -> Fate {
        let message = &delivery.publication.message;
        if !self.badge.may_receive(&message.topic) {
            return Fate::Denied;
        }
        let mut expiry_s = message.properties.as_ref().and_then(|properties| properties.message_expiry_s);
        if let Some(seconds) = &mut expiry_s {
            // Lowered by the time spent here (MQTT 5, section 3.3.2.3.3).
            let waited = now.saturating_duration_since(delivery.publication.at).as_secs();
            let left = u64::from(*seconds).saturating_sub(waited);
            // What was sent once does not expire any more (MQTT 5, section 4.3.3).
            if left == 0 && !dup {
                return Fate::Expired;
            }
            *seconds = u32::try_from(left).expect("less than it was").max(1);
        }
        let subscription_ids = match self.version {
            Version::V311 => &[],
            Version::V5 => delivery.subscription_ids.as_deref().unwrap_or(&[]),
        };
        let publish = PublishOut {
            message,
            qos: delivery.qos,
            dup,
            retain: delivery.retain,
            packet_id,
            subscription_ids,
            expiry_s,
            alias: None,
        };
        if self.put_publish(publish) { Fate::Encoded } else { Fate::TooLarge }
    }

    /// Appends a PUBLISH with its topic said as shortly as the client lets us; false where it takes no packet of that size.
    fn put_publish(&mut self, mut publish: PublishOut<'_>) -> bool {
        let topic = &publish.message.topic;
        let mut choice = self.aliases.as_ref().map_or(Choice::Name, |aliases| aliases.choose(topic));
        publish.alias = choice.alias();
        if publish.len(self.version) > self.client_max_packet {
            // Giving an alias takes room of its own.
            (choice, publish.alias) = (Choice::Name, None);
            if publish.len(self.version) > self.client_max_packet {
                return false;
            }
        }
        publish.encode(&mut self.wire.output, self.version);
        if let Some(aliases) = &mut self.aliases {
            aliases.sent(topic, choice);
        }
        true
    }
}
