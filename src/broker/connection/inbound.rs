//! The client's packets, and the store's verdicts on them.

use std::{sync::Arc, time::Instant};

use super::{
    Connection, Ending,
    arrivals::{Due, Passing, Wait},
    subscribe::Request,
};
use crate::{
    broker::{
        fanout::{Onward, Round, Routed, wait_for},
        packet::{AckKind, Packet, Reason, Version, ack, pingresp, refusing_ack, suback_len},
        sessions::Receipt,
        sys::is_reserved,
    },
    intake::{Entry, OnRefusal, Outcome, Publish, Refusal, Returned},
    message::{Message, QoS},
};

/// What an entry takes in the store's queue beside topic and payload.
const ENTRY_BYTES: usize = 128;

impl Connection {
    /// Does what a packet asks for.
    pub(super) async fn packet(&mut self, packet: Packet) -> Result<(), Ending> {
        self.check_acknowledgement(&packet)?;
        match packet {
            Packet::Publish(publish) => return self.publish(publish.message, publish.packet_id).await,
            Packet::PubAck { packet_id } if self.durable.is_some() => self.queue_acknowledged(packet_id),
            Packet::PubAck { packet_id } => {
                // An acknowledgement of something unknown harms nobody and is passed over, as Mosquitto does.
                self.claim.kept.outgoing.acknowledged(packet_id);
            }
            Packet::PubRec { packet_id, reason } if self.durable.is_some() => {
                if reason.is_error() {
                    self.queue_refused(packet_id);
                } else {
                    self.queue_received(packet_id);
                }
            }
            Packet::PubRec { packet_id, reason } if reason.is_error() => {
                self.claim.kept.outgoing.refused(packet_id);
            }
            Packet::PubRec { packet_id, .. } => {
                let known = self.claim.kept.outgoing.received(packet_id);
                let reason = if known { Reason::SUCCESS } else { Reason::PACKET_ID_NOT_FOUND };
                ack(&mut self.wire.output, self.version, AckKind::PubRel, packet_id, reason);
            }
            Packet::PubComp { packet_id } if self.durable.is_some() => self.queue_completed(packet_id),
            Packet::PubComp { packet_id } => {
                self.claim.kept.outgoing.completed(packet_id);
            }
            Packet::PubRel { packet_id } => return self.release(packet_id),
            Packet::Subscribe(subscribe) => {
                self.check_answer(subscribe.filters.len())?;
                return self.request(Request::Subscribe(subscribe));
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.check_answer(unsubscribe.filters.len())?;
                return self.request(Request::Unsubscribe(unsubscribe));
            }
            Packet::PingReq => pingresp(&mut self.wire.output),
            Packet::Disconnect { reason, session_expiry_s } => return self.disconnect(reason, session_expiry_s),
            Packet::Auth => {
                return Err(Ending::Offence(Reason::PROTOCOL_ERROR, "AUTH without an authentication method"));
            }
        }
        Ok(())
    }

    /// Whether an acknowledgement is one that its message asks for at this stage (MQTT-3.3.4-1).
    fn check_acknowledgement(&mut self, packet: &Packet) -> Result<(), Ending> {
        let (packet_id, kind) = match packet {
            Packet::PubAck { packet_id } => (*packet_id, AckKind::PubAck),
            Packet::PubRec { packet_id, .. } => (*packet_id, AckKind::PubRec),
            Packet::PubComp { packet_id } => (*packet_id, AckKind::PubComp),
            Packet::Publish(_)
            | Packet::PubRel { .. }
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq
            | Packet::Disconnect { .. }
            | Packet::Auth => return Ok(()),
        };
        let allowed = match &self.durable {
            Some(durable) => durable.allows(packet_id, kind),
            None => self.claim.kept.outgoing.allows(packet_id, kind),
        };
        if allowed {
            return Ok(());
        }
        Err(Ending::Offence(Reason::PROTOCOL_ERROR, "an acknowledgement that the message does not ask for"))
    }

    /// Whether the client takes a SUBACK or UNSUBACK with so many codes. There is no other way to answer (MQTT 5, section
    /// 3.1.2.11.4), so the request is not acted on. Everything else that we send fits whoever could take our CONNACK, or can
    /// be left out.
    fn check_answer(&self, codes: usize) -> Result<(), Ending> {
        if suback_len(codes) <= self.client_max_packet {
            return Ok(());
        }
        Err(Ending::Offence(Reason::PACKET_TOO_LARGE, "asks for an answer above its own Maximum Packet Size"))
    }

    fn disconnect(&mut self, reason: Reason, session_expiry_s: Option<u32>) -> Result<(), Ending> {
        if let Some(seconds) = session_expiry_s {
            if seconds > 0 && self.claim.expiry_s == 0 {
                return Err(Ending::Offence(
                    Reason::PROTOCOL_ERROR,
                    "session expiry in DISCONNECT of a session without",
                ));
            }
            self.claim.expiry_s = seconds;
        }
        Err(Ending::Disconnected { with_will: reason != Reason::SUCCESS })
    }

    async fn publish(&mut self, message: Message, packet_id: u16) -> Result<(), Ending> {
        let qos = message.qos;
        if is_reserved(&message.topic) {
            self.denied("publish to", message.topic.as_str());
            let why = "$SYS belongs to the gateway";
            return self.refuse_publish(qos, packet_id, Reason::NOT_AUTHORIZED, "sys-topic", why);
        }
        if wrong_payload(&message) {
            return self.refuse_publish(
                qos,
                packet_id,
                Reason::PAYLOAD_FORMAT,
                "payload-format",
                "the payload is not UTF-8",
            );
        }
        let mut seen = None;
        if qos == QoS::ExactlyOnce {
            seen = self.claim.kept.received.get(&packet_id).copied();
            // MQTT 5 forbids to send it again on the same connection (section 4.4), 3.1.1 does not.
            if seen.is_some_and(|receipt| !receipt.decided) && self.version == Version::V5 {
                return Err(Ending::Offence(
                    Reason::PACKET_ID_IN_USE,
                    "packet identifier of a message still in flight",
                ));
            }
        }
        // What was taken in before is only acknowledged again.
        if seen.is_none() && !self.badge.may_publish(&message.topic) {
            self.denied("publish to", message.topic.as_str());
            return self.refuse_publish(
                qos,
                packet_id,
                Reason::NOT_AUTHORIZED,
                "acl-publish",
                "the access rules do not allow it",
            );
        }
        let counts = qos != QoS::AtMostOnce && !seen.is_some_and(|receipt| receipt.counted);
        if counts {
            self.count()?;
        }
        self.inbound.unacknowledged += usize::from(qos != QoS::AtMostOnce);
        let due = Due { counts, ..Due::new(publish_ack(qos), packet_id) };
        if qos == QoS::ExactlyOnce {
            let known = seen.is_some();
            let decided = seen.is_some_and(|receipt| receipt.decided);
            self.claim.kept.received.insert(packet_id, Receipt { decided, counted: true });
            // Its turn comes after that of the first, so after the verdict on it.
            if known && !(decided && self.inbound.persistent) {
                self.inbound.arrivals.push(Wait::Turn(None), due);
                return Ok(());
            }
        }
        self.route(message, due).await
    }

    /// Sends a message into the store, or past it where nothing there wants it.
    async fn route(&mut self, message: Message, due: Due) -> Result<(), Ending> {
        let set_retained = self.hub.retains(&message);
        let streams = self.hub.intake.streams_for(&message.topic, message.qos).await?;
        let packet_id = Some(due.packet_id).filter(|_| message.qos == QoS::ExactlyOnce && self.inbound.persistent);
        let bytes = message_bytes(&message);
        self.inbound.undecided_bytes += bytes;
        let mut routed = self.hub.fanout.route(&message);
        let congested = routed.take_congested(self.claim.subscriber());
        if !congested.is_empty() {
            self.pause = Some(Box::pin(wait_for(congested)));
        }
        let Routed { copies, onward, .. } = routed;
        if streams.is_empty() && !set_retained && packet_id.is_none() && copies.is_empty() {
            self.inbound.arrivals.push(Wait::Turn(Some(Box::new(Passing { message, onward }))), due);
            return Ok(());
        }
        let tag = self.inbound.arrivals.push(Wait::Store(onward), due);
        self.enqueue(
            Entry::Publish(Publish { message, streams, packet_id, copies, set_retained, retained_revision: 0, tag }),
            bytes,
        );
        Ok(())
    }

    fn enqueue(&mut self, entry: Entry, bytes: usize) {
        if self.inbound.lane.is_none() && self.inbound.submitting.is_none() {
            let on_refusal = match self.version {
                Version::V311 => OnRefusal::Hold,
                Version::V5 => OnRefusal::Report,
            };
            let session = self.inbound.persistent.then(|| self.claim.client_id().clone());
            let (lane, returns) = self.hub.intake.lane(on_refusal, session);
            (self.inbound.lane, self.inbound.returns) = (Some(lane), Some(returns));
        }
        self.inbound.batch.push(entry);
        self.inbound.batch_bytes += bytes;
    }

    /// Drops a message; the client is told why where its version of the protocol has words for it. An MQTT 3.1.1 client gets
    /// the acknowledgement that it waits for: cut off, it would only bring the same message again.
    fn refuse_publish(
        &mut self,
        qos: QoS,
        packet_id: u16,
        reason: Reason,
        word: &'static str,
        why: &'static str,
    ) -> Result<(), Ending> {
        self.hub.metrics.refused(word);
        let Some(kind) = publish_ack(qos) else { return Ok(()) };
        self.count()?;
        self.inbound.unacknowledged += 1;
        let due = Due { kind: Some(kind), packet_id, reason, why, counts: true };
        self.inbound.arrivals.push(Wait::Turn(None), due);
        Ok(())
    }

    /// Counts a message in the client's use of our Receive Maximum (MQTT 5, section 3.3.4).
    fn count(&mut self) -> Result<(), Ending> {
        let max = usize::from(self.listener.settings.max_inflight);
        if self.version == Version::V5 && self.inbound.quota_used >= max {
            return Err(Ending::Offence(Reason::RECEIVE_MAXIMUM, "more unacknowledged messages than Receive Maximum"));
        }
        self.inbound.quota_used += 1;
        Ok(())
    }

    /// PUBREL: the packet id becomes free, on disk first where it was remembered there.
    fn release(&mut self, packet_id: u16) -> Result<(), Ending> {
        let Some(receipt) = self.claim.kept.received.get(&packet_id).copied() else {
            let due = Due::new(Some(AckKind::PubComp), packet_id);
            self.inbound.arrivals.push(Wait::Turn(None), Due { reason: Reason::PACKET_ID_NOT_FOUND, ..due });
            return Ok(());
        };
        if !receipt.decided {
            return Err(Ending::Offence(Reason::PROTOCOL_ERROR, "PUBREL before PUBREC"));
        }
        self.claim.kept.received.remove(&packet_id);
        let due = Due { counts: receipt.counted, ..Due::new(Some(AckKind::PubComp), packet_id) };
        if self.inbound.persistent {
            self.inbound.arrivals.push(Wait::Store(Onward::default()), due);
            self.enqueue(Entry::Release { packet_id }, ENTRY_BYTES);
        } else {
            self.inbound.arrivals.push(Wait::Turn(None), due);
        }
        Ok(())
    }

    /// The store has decided on a batch.
    pub(super) fn returned(&mut self, returned: Returned) {
        self.inbound.submitted -= 1;
        self.inbound.verdicts.extend(returned.verdicts);
        self.inbound.held.extend(returned.held);
    }

    /// Acts on everything that is decided and whose turn has come, and acknowledges it.
    ///
    /// `patient`: stops where a subscriber needs a moment to catch up, and goes on after it. Message by message, for a
    /// thousand publishers that each finish what one read brought would flood any queue.
    pub(super) fn proceed(&mut self, patient: bool) -> Result<(), Ending> {
        if self.inbound.arrivals.len() == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let hub = Arc::clone(&self.hub);
        let mut round = hub.fanout.round(now);
        self.acknowledge(&mut round, patient);
        while !self.must_wait(&round, patient)
            && let Some((entry, outcome)) = self.inbound.verdicts.pop_front()
        {
            match entry {
                Entry::Publish(publish) => self.decided(publish, outcome, &mut round, now)?,
                Entry::Release { packet_id } => {
                    if let Outcome::Refused(refusal) = outcome {
                        return Err(self.release_refused(packet_id, refusal));
                    }
                    self.inbound.arrivals.released(packet_id);
                }
                Entry::Step { .. } | Entry::Handover(_) => {}
            }
            self.acknowledge(&mut round, patient);
        }
        let congested = round.take_congested(self.claim.subscriber());
        if patient && !congested.is_empty() {
            self.pause = Some(Box::pin(wait_for(congested)));
        }
        Ok(())
    }

    fn must_wait(&self, round: &Round<'_>, patient: bool) -> bool {
        patient && round.is_congested(self.claim.subscriber())
    }

    /// The store could not forget a packet id (the disk is full or fails), so there must be no PUBCOMP. The client releases it
    /// again when it has reconnected.
    fn release_refused(&mut self, packet_id: u16, refusal: Refusal) -> Ending {
        self.hub.metrics.refused(refusal.reason());
        self.claim.kept.received.insert(packet_id, Receipt { decided: true, counted: false });
        Ending::Offence(Reason::QUOTA_EXCEEDED, "the store cannot release a packet identifier: it cannot write")
    }

    fn decided(
        &mut self,
        publish: Publish,
        outcome: Outcome,
        round: &mut Round<'_>,
        now: Instant,
    ) -> Result<(), Ending> {
        let (tag, qos) = (publish.tag, publish.message.qos);
        self.inbound.undecided_bytes -= message_bytes(&publish.message);
        let refusal = match outcome {
            Outcome::Refused(refusal) => Some(refusal),
            Outcome::Accepted | Outcome::Duplicate | Outcome::Released | Outcome::Stepped => None,
        };
        if let Some(refusal) = refusal {
            self.hub.metrics.refused(refusal.reason());
            if qos != QoS::AtMostOnce && self.version == Version::V311 {
                // A lane that holds does not refuse these; acknowledging would lose the message.
                return Err(Ending::StoreGone);
            }
        }
        let refused = refusal.map(|refusal| (Reason::QUOTA_EXCEEDED, refusal.sentence()));
        let (due, onward) = self.inbound.arrivals.decide(tag, refused).unzip();
        if let Some(Due { kind: Some(AckKind::PubRec), packet_id, .. }) = due {
            if refusal.is_some() {
                self.claim.kept.received.remove(&packet_id);
            } else if let Some(receipt) = self.claim.kept.received.get_mut(&packet_id) {
                receipt.decided = true;
            }
        }
        if outcome == Outcome::Accepted {
            self.hub.accepted(publish, onward.unwrap_or_default(), round, now);
        }
        Ok(())
    }

    /// Acknowledges the arrivals whose turn has come.
    fn acknowledge(&mut self, round: &mut Round<'_>, patient: bool) {
        while !self.must_wait(round, patient)
            && let Some((due, passing)) = self.inbound.arrivals.next()
        {
            if let Some(passing) = passing {
                let Passing { message, onward } = *passing;
                self.inbound.undecided_bytes -= message_bytes(&message);
                if due.kind == Some(AckKind::PubRec)
                    && let Some(receipt) = self.claim.kept.received.get_mut(&due.packet_id)
                {
                    receipt.decided = true;
                }
                self.hub.deliver(message, &[], onward, false, round);
            }
            let Some(kind) = due.kind else { continue };
            if due.reason.is_error() {
                let manner = self.manner();
                refusing_ack(&mut self.wire.output, manner, kind, due.packet_id, due.reason, due.why);
            } else {
                ack(&mut self.wire.output, self.version, kind, due.packet_id, due.reason);
            }
            self.inbound.unacknowledged -= usize::from(kind != AckKind::PubComp);
            let frees = due.counts && (kind != AckKind::PubRec || due.reason.is_error());
            self.inbound.quota_used -= usize::from(frees);
        }
    }

    /// There may be room again for what the store handed back.
    pub(super) fn resubmit(&mut self) {
        let mut entries = std::mem::take(&mut self.inbound.held);
        self.inbound.batch_bytes += entries.iter().map(entry_bytes).sum::<usize>();
        entries.append(&mut self.inbound.batch);
        self.inbound.batch = entries;
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    match entry {
        Entry::Publish(publish) => message_bytes(&publish.message),
        Entry::Release { .. } | Entry::Step { .. } | Entry::Handover(_) => ENTRY_BYTES,
    }
}

fn message_bytes(message: &Message) -> usize {
    ENTRY_BYTES + message.footprint()
}

fn publish_ack(qos: QoS) -> Option<AckKind> {
    match qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(AckKind::PubAck),
        QoS::ExactlyOnce => Some(AckKind::PubRec),
    }
}

/// Whether the payload is something else than its Payload Format Indicator says (MQTT 5, section 3.3.2.3.2).
pub(super) fn wrong_payload(message: &Message) -> bool {
    message.properties.as_ref().is_some_and(|properties| properties.payload_format == Some(1))
        && std::str::from_utf8(&message.payload).is_err()
}
