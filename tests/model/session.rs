//! What one client knows of its session, and what it may ask of the broker for it. Pure: packets in, complaints out.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::topic::{TopicFilter, TopicName};

use super::wire::Delivery;

/// Topics that are published to; the last but one goes into a stream, the last one is shared.
pub(crate) const TOPICS: [&str; 5] = ["a", "a/b", "b", "s/1", "x/1"];
/// Filters that are subscribed to; nothing but the last one, which is shared, takes the last topic.
pub(crate) const FILTERS: [&str; 7] = ["a", "a/#", "+/b", "b", "+", "s/+", "$share/g/x/#"];
/// The shared one.
pub(crate) const SHARED: usize = FILTERS.len() - 1;

/// The number of a message; its payload begins with it.
pub(crate) type Number = u32;

/// One message, as it was published.
#[allow(clippy::struct_excessive_bools, reason = "facts that do not exclude each other")]
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) publisher: usize,
    pub(crate) topic: usize,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) payload: Vec<u8>,
    /// How often it was sent.
    pub(crate) sends: u32,
    /// PUBACK or PUBREC has come, and said yes.
    pub(crate) acknowledged: bool,
    /// It may be delivered: it was not refused, and is no will of a client that lives or took its leave.
    pub(crate) may_arrive: bool,
    /// Its number says nothing about when it was published.
    pub(crate) is_will: bool,
    /// Which generation of the shared group must get it.
    pub(crate) group: Option<u32>,
}

/// A subscription that is or was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscription {
    pub(crate) filter: usize,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
}

impl Subscription {
    /// Whether it takes messages of this client to this topic.
    pub(crate) fn takes(self, topic: usize, is_own: bool) -> bool {
        let filter = FILTERS[self.filter].strip_prefix("$share/g/").unwrap_or(FILTERS[self.filter]);
        let (filter, topic) = (TopicFilter::new(filter), TopicName::new(TOPICS[topic]));
        filter.expect("a filter").matches(&topic.expect("a topic")) && !(self.no_local && is_own)
    }
}

/// What the client owes the broker.
#[allow(clippy::enum_variant_names, reason = "these are the names of the packets")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    PubAck(u16),
    PubRec(u16),
    PubComp(u16),
    PubRel(u16),
}

/// A QoS 1 or 2 message on its way to the broker.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) number: Number,
    pub(crate) id: u16,
    /// Acknowledgements of the PUBLISH that will still come.
    pub(crate) due: u32,
    /// PUBREC has come.
    pub(crate) received: bool,
    /// PUBREL was sent on this connection.
    pub(crate) released: bool,
}

/// A session, from its beginning to its end.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) subscriptions: BTreeMap<usize, Subscription>,
    /// All that ever were: what they took may still arrive.
    pub(crate) history: Vec<Subscription>,
    /// Messages that must arrive, if they were acknowledged to their publisher.
    pub(crate) wanted: BTreeSet<Number>,
    /// How often each message has come, repetitions of one delivery not counted.
    pub(crate) got: BTreeMap<Number, u32>,
    pub(crate) steps: Vec<Step>,
    pub(crate) outgoing: Vec<Outgoing>,
    /// QoS 2 deliveries that are not released.
    received: BTreeMap<u16, Option<Number>>,
    /// Packet ids of deliveries on this connection that are not complete.
    pub(crate) open: BTreeSet<u16>,
    /// Last number by publisher, topic and both QoS.
    last: BTreeMap<(usize, usize, u8, u8), Number>,
}

impl Session {
    /// Takes note of a delivery to client `me`; `resumed`: whether this connection found the session there.
    pub(crate) fn delivered(
        &mut self,
        me: usize,
        delivery: &Delivery,
        all: &[Publication],
        resumed: bool,
    ) -> Result<(), String> {
        let Delivery { dup, qos, id, .. } = *delivery;
        if dup && (qos == 0 || !resumed) {
            return Err("DUP on something that cannot have been sent before".into());
        }
        // What clears a retained message carries no number.
        let number = match delivery.payload.first_chunk() {
            Some(number) => Some(Number::from_be_bytes(*number)),
            None if delivery.payload.is_empty() => None,
            None => return Err("a payload that nobody sent".into()),
        };
        if let Some(number) = number {
            let publication = all.get(number as usize).ok_or("a message that nobody sent")?;
            self.check(me, delivery, publication)?;
        }
        if qos > 0 && !self.open.insert(id) {
            return Err(format!("packet id {id} is in use"));
        }
        match (qos, self.received.get(&id)) {
            (0, _) => {}
            (1, Some(_)) => return Err(format!("packet id {id} belongs to a QoS 2 delivery")),
            (1, None) => self.steps.push(Step::PubAck(id)),
            (_, Some(first)) if *first == number && dup => {
                self.steps.push(Step::PubRec(id));
                return Ok(());
            }
            (_, Some(first)) => return Err(format!("packet id {id} was that of {first:?}, which is not released")),
            (_, None) => {
                self.received.insert(id, number);
                self.steps.push(Step::PubRec(id));
            }
        }
        number.map_or(Ok(()), |number| self.count(number, delivery, &all[number as usize]))
    }

    /// Whether the message may come, and like this.
    fn check(&self, me: usize, delivery: &Delivery, publication: &Publication) -> Result<(), String> {
        let Publication { publisher, topic, qos, .. } = *publication;
        if !publication.may_arrive {
            return Err("a message that must not be published".into());
        }
        if delivery.topic != TOPICS[topic] || delivery.payload != publication.payload {
            return Err(format!("topic or payload is not that of {publication:?}"));
        }
        if delivery.retain && !publication.retain {
            return Err("the retain flag on what was not retained".into());
        }
        let takes = |s: &&Subscription| s.takes(topic, publisher == me);
        if !self.history.iter().filter(takes).any(|s| s.qos.min(qos) == delivery.qos) {
            return Err(format!("no subscription of {:?} gives it like that", self.history));
        }
        let ids = delivery.subscription_ids.iter();
        if !ids.clone().all(|id| self.history.iter().filter(takes).any(|s| s.filter + 1 == usize::from(*id))) {
            return Err(format!("subscription identifiers {ids:?} of other subscriptions"));
        }
        Ok(())
    }

    fn count(&mut self, number: Number, delivery: &Delivery, publication: &Publication) -> Result<(), String> {
        let Publication { publisher, topic, qos, retain, sends, is_will, .. } = *publication;
        let is_first = !self.got.contains_key(&number);
        let times = self.got.entry(number).or_default();
        // Sent again where it may have been sent before: the same delivery.
        if delivery.dup && !is_first && delivery.qos == 1 {
            return Ok(());
        }
        *times += 1;
        // A message may come again as the retained one of its topic.
        let most = if qos == 2 { 1 } else { sends };
        if !retain && *times > most {
            return Err(format!("delivered {times} times, sent {sends} times at QoS {qos}"));
        }
        if is_first && !delivery.retain && !is_will && topic != TOPICS.len() - 1 {
            let last = self.last.insert((publisher, topic, qos, delivery.qos), number);
            if last.is_some_and(|last| last > number) {
                return Err(format!("{number} after {last:?}"));
            }
        }
        Ok(())
    }

    /// PUBREL from the broker.
    pub(crate) fn released(&mut self, id: u16) {
        self.steps.push(Step::PubComp(id));
    }

    /// The client has answered.
    pub(crate) fn answered(&mut self, step: Step) {
        match step {
            Step::PubAck(id) => drop(self.open.remove(&id)),
            Step::PubRec(_) => {}
            Step::PubComp(id) => {
                self.open.remove(&id);
                self.received.remove(&id);
            }
            Step::PubRel(id) => {
                for outgoing in self.outgoing.iter_mut().filter(|outgoing| outgoing.id == id) {
                    outgoing.released = true;
                }
            }
        }
    }

    /// PUBACK, PUBREC or PUBCOMP: which message it was for.
    pub(crate) fn acknowledged(&mut self, first: u8, id: u16, reason: u8) -> Result<Number, String> {
        let unknown = || format!("acknowledgement {first:02X} of packet id {id}, for which none is due");
        let at = self.outgoing.iter().position(|outgoing| outgoing.id == id).ok_or_else(unknown)?;
        let outgoing = &mut self.outgoing[at];
        let number = outgoing.number;
        match first {
            0x70 if outgoing.released => drop(self.outgoing.remove(at)),
            0x40 | 0x50 if outgoing.due > 0 => {
                outgoing.due -= 1;
                let is_first = !outgoing.received;
                outgoing.received = true;
                if first == 0x40 || reason >= 0x80 {
                    self.outgoing.remove(at);
                } else if is_first {
                    self.steps.push(Step::PubRel(id));
                }
            }
            _ => return Err(unknown()),
        }
        Ok(number)
    }

    /// The connection is gone: answers to what came on it mean nothing any more.
    pub(crate) fn interrupted(&mut self) {
        self.steps.clear();
        self.open.clear();
    }

    /// What was wanted and cannot be asked for any more: the subscription that took it changes.
    pub(crate) fn excuse(&mut self, filter: usize, all: &[Publication], also_acknowledged: bool) {
        let subscription = Subscription { filter, qos: 0, no_local: false };
        self.wanted.retain(|number| {
            let publication = &all[*number as usize];
            !subscription.takes(publication.topic, false) || (publication.acknowledged && !also_acknowledged)
        });
    }

    /// Messages that were acknowledged to their publisher and have not come.
    pub(crate) fn missing<'a>(&'a self, all: &'a [Publication]) -> impl Iterator<Item = Number> + 'a {
        let due = |number: &&Number| all[**number as usize].acknowledged && !self.got.contains_key(*number);
        self.wanted.iter().filter(due).copied()
    }
}
