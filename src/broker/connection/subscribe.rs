//! SUBSCRIBE and UNSUBSCRIBE: changed in memory, saved where the session outlives the connection, then answered.

use std::{collections::VecDeque, sync::Arc};

use bytestring::ByteString;
use smallvec::SmallVec;

use super::{Commit, Connection, Ending};
use crate::{
    broker::{
        fanout::Delivery,
        limits::{FILTER_LEVELS_MAX, REPLAY_MESSAGES, SESSION_FILTER_BYTES, SUBSCRIPTIONS_MAX},
        packet::{Reason, RetainHandling, Subscribe, SubscribeOptions, Unsubscribe, suback, unsuback},
        sessions::Subscription,
    },
    topic::{TopicError, TopicFilter},
};

/// A change of the subscriptions on its way to the disk.
pub(super) struct Saving {
    pub(super) commit: Commit,
    expiry_s: u32,
    answer: Answer,
}

/// What the client gets once the change is safe.
struct Answer {
    packet_id: u16,
    codes: SmallVec<[u8; 4]>,
    to: Answered,
}

enum Answered {
    /// With the retained messages that the new subscriptions are due.
    Subscribe(VecDeque<Delivery>),
    Unsubscribe,
}

/// What a client asks of its subscriptions.
#[derive(Debug)]
pub(super) enum Request {
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
}

impl Connection {
    /// Does what is asked once the messages that the client published before are with the subscribers they had then:
    /// a new subscription gets them as retained messages or not at all, an old one still gets them.
    pub(super) fn request(&mut self, request: Request) -> Result<(), Ending> {
        self.proceed(true)?;
        self.request = Some(request);
        self.take_up_request()
    }

    /// Does what was put off, when its time has come.
    pub(super) fn take_up_request(&mut self) -> Result<(), Ending> {
        if self.inbound.arrivals.len() > 0 {
            return Ok(());
        }
        match self.request.take() {
            Some(Request::Subscribe(subscribe)) => self.subscribe(subscribe),
            Some(Request::Unsubscribe(unsubscribe)) => {
                self.unsubscribe(unsubscribe);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), Ending> {
        let mut codes = SmallVec::new();
        let mut replay = VecDeque::new();
        for (filter, options) in subscribe.filters {
            let subscription = Subscription { options, id: subscribe.subscription_id };
            codes.push(match check_filter(filter)? {
                Ok(filter) if !self.badge.may_subscribe(&filter) => {
                    self.denied("subscribe to", filter.as_str());
                    self.hub.metrics.refused("acl-subscribe");
                    Reason::NOT_AUTHORIZED.0
                }
                Ok(filter) => self.enter(&filter, subscription, &mut replay),
                Err(reason) => {
                    self.hub.metrics.refused("subscribe");
                    reason.0
                }
            });
        }
        self.answer(Answer { packet_id: subscribe.packet_id, codes, to: Answered::Subscribe(replay) });
        Ok(())
    }

    /// Enters one subscription and gives its SUBACK code.
    fn enter(&mut self, filter: &TopicFilter, subscription: Subscription, replay: &mut VecDeque<Delivery>) -> u8 {
        let subscriptions = &mut self.claim.kept.subscriptions;
        let has_room = || {
            let bytes: usize = subscriptions.keys().map(|filter| filter.as_str().len()).sum();
            subscriptions.len() < SUBSCRIPTIONS_MAX
                && bytes + filter.as_str().len() <= SESSION_FILTER_BYTES
                && self.hub.fanout.has_room(filter)
        };
        if !subscriptions.contains_key(filter) && !has_room() {
            self.hub.metrics.refused("subscribe");
            return Reason::QUOTA_EXCEEDED.0;
        }
        let new = subscriptions.insert(filter.clone(), subscription).is_none();
        self.hub.fanout.subscribe(self.claim.subscriber(), filter, subscription.fanout_options());
        // Looked up after subscribing: a message may come twice, as live and as retained, but none falls between.
        let due = match subscription.options.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::WhenNew => new,
            RetainHandling::Never => false,
        };
        if due {
            self.replay_retained(filter, subscription, replay);
        }
        subscription.options.qos.number()
    }

    fn replay_retained(&self, filter: &TopicFilter, subscription: Subscription, replay: &mut VecDeque<Delivery>) {
        let SubscribeOptions { qos, no_local, .. } = subscription.options;
        let mut dropped = 0;
        for publication in
            self.hub.retained.matching(filter).into_iter().chain(self.hub.sys.matching(&self.hub, filter))
        {
            if no_local && publication.message.client == *self.claim.client_id() {
                continue;
            }
            if !self.badge.may_receive(&publication.message.topic) {
                continue;
            }
            if self.replay.len() + replay.len() >= REPLAY_MESSAGES {
                dropped += 1;
                continue;
            }
            let qos = qos.min(publication.message.qos);
            let subscription_ids = subscription.id.map(|id| Box::from([id]));
            replay.push_back(Delivery { publication, qos, retain: true, subscription_ids });
        }
        self.hub.metrics.drops.replay_full(dropped);
    }

    fn unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let mut codes = SmallVec::new();
        for filter in unsubscribe.filters {
            let known = TopicFilter::new(filter).is_ok_and(|filter| {
                self.hub.fanout.unsubscribe(self.claim.subscriber(), &filter);
                self.claim.kept.subscriptions.remove(&filter).is_some()
            });
            codes.push(if known { Reason::SUCCESS.0 } else { Reason::NO_SUBSCRIPTION_EXISTED.0 });
        }
        self.answer(Answer { packet_id: unsubscribe.packet_id, codes, to: Answered::Unsubscribe });
    }

    /// Answers at once where the session ends with the connection, else when the change is committed; until then
    /// nothing more is decoded, so changes stay in order.
    fn answer(&mut self, answer: Answer) {
        if !self.inbound.persistent {
            return self.write_answer(answer);
        }
        let expiry_s = self.claim.expiry_s;
        let record = self.claim.kept.record(self.claim.client_id(), expiry_s);
        let hub = Arc::clone(&self.hub);
        let commit = Box::pin(async move { hub.intake.save_session(record).await.map(drop) });
        self.saving = Some(Saving { commit, expiry_s, answer });
    }

    /// The change is committed.
    pub(super) fn saved(&mut self) {
        if let Some(Saving { expiry_s, answer, .. }) = self.saving.take() {
            self.claim.kept.stored = Some(expiry_s);
            self.write_answer(answer);
        }
    }

    fn write_answer(&mut self, Answer { packet_id, codes, to }: Answer) {
        match to {
            Answered::Subscribe(replay) => {
                suback(&mut self.wire.output, self.version, packet_id, &codes);
                self.replay.extend(replay);
            }
            Answered::Unsubscribe => unsuback(&mut self.wire.output, self.version, packet_id, &codes),
        }
    }
}

/// The filter, or the reason why this one is refused; an error where the whole packet is wrong.
fn check_filter(filter: ByteString) -> Result<Result<TopicFilter, Reason>, Ending> {
    if filter.starts_with("$share/") {
        return Ok(Err(Reason::SHARED_NOT_SUPPORTED));
    }
    if filter.split('/').count() > FILTER_LEVELS_MAX {
        return Ok(Err(Reason::FILTER_INVALID));
    }
    match TopicFilter::new(filter) {
        Ok(filter) => Ok(Ok(filter)),
        Err(TopicError::Empty) => Err(Ending::Offence(Reason::PROTOCOL_ERROR, "empty topic filter")),
        Err(_) => Ok(Err(Reason::FILTER_INVALID)),
    }
}
