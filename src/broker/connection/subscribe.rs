//! SUBSCRIBE and UNSUBSCRIBE: changed in memory, saved where the session outlives the connection, then answered.

use std::sync::Arc;

use bytestring::ByteString;
use smallvec::SmallVec;

use super::{Commit, Connection, Ending};
use crate::{
    broker::{
        fanout::{bare, check_filter as check_shared, is_shared},
        limits::{FILTER_LEVELS_MAX, SESSION_FILTER_BYTES},
        packet::{Reason, RetainHandling, Subscribe, SubscribeOptions, Unsubscribe, suback, unsuback},
        sessions::Subscription,
    },
    topic::{TopicError, TopicFilter, TopicName},
};

/// The retained messages that a new subscription is due: what to look for, and how far that has come. Instead of the
/// messages themselves, for there may be 100 000 of them for each client.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(super) filter: TopicFilter,
    pub(super) subscription: Subscription,
    /// The last topic that was looked at.
    pub(super) after: Option<TopicName>,
    /// When the subscription began, as [`Retained::clock`](crate::broker::retained::Retained::clock) has it.
    pub(super) clock: u64,
}

impl Replay {
    /// Whether it belongs to the subscription to this filter.
    pub(crate) fn is_of(&self, filter: &TopicFilter) -> bool {
        self.filter == *filter
    }
}

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
    Subscribe(Vec<Replay>),
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
        let mut replays = Vec::new();
        for (filter, options) in subscribe.filters {
            let subscription = Subscription { options, id: subscribe.subscription_id };
            codes.push(match check_filter(filter, options)? {
                Ok(filter) if !self.badge.may_subscribe(&bare(&filter)) => {
                    self.denied("subscribe to", filter.as_str());
                    self.hub.metrics.refused("acl-subscribe");
                    Reason::NOT_AUTHORIZED.0
                }
                Ok(filter) => self.enter(&filter, subscription, &mut replays),
                Err(reason) => {
                    self.hub.metrics.refused("subscribe");
                    reason.0
                }
            });
        }
        self.answer(Answer { packet_id: subscribe.packet_id, codes, to: Answered::Subscribe(replays) });
        Ok(())
    }

    /// Enters one subscription and gives its SUBACK code.
    fn enter(&mut self, filter: &TopicFilter, subscription: Subscription, replays: &mut Vec<Replay>) -> u8 {
        let subscriptions = &mut self.claim.kept.subscriptions;
        let has_room = || {
            let bytes: usize = subscriptions.keys().map(|filter| filter.as_str().len()).sum();
            subscriptions.len() < self.listener.settings.max_subscriptions
                && bytes + filter.as_str().len() <= SESSION_FILTER_BYTES
                && self.hub.fanout.has_room(filter)
        };
        if !subscriptions.contains_key(filter) && !has_room() {
            self.hub.metrics.refused("subscribe");
            return Reason::QUOTA_EXCEEDED.0;
        }
        let new = subscriptions.insert(filter.clone(), subscription).is_none();
        self.hub.fanout.subscribe(self.claim.subscriber(), filter, subscription.fanout_options());
        // The moment is noted after subscribing: what is retained up to it is sent as such, what comes later is live.
        let due = match subscription.options.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::WhenNew => new,
            RetainHandling::Never => false,
        };
        if due && !is_shared(filter) {
            let clock = self.hub.retained.clock();
            replays.push(Replay { filter: filter.clone(), subscription, after: None, clock });
        }
        subscription.options.qos.number()
    }

    fn unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let mut codes = SmallVec::new();
        for filter in unsubscribe.filters {
            let known = TopicFilter::new(filter).is_ok_and(|filter| {
                self.hub.fanout.unsubscribe(self.claim.subscriber(), &filter);
                self.claim.kept.forget_replay(&filter);
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
            Answered::Subscribe(replays) => {
                suback(&mut self.wire.output, self.version, packet_id, &codes);
                // What earlier subscriptions to the same filters were still due begins anew. A filter that is there twice in
                // one SUBSCRIBE is due twice (MQTT 5, section 3.8.4), but not beyond all bounds.
                let kept = &mut *self.claim.kept;
                for replay in &replays {
                    kept.forget_replay(&replay.filter);
                }
                for replay in replays {
                    if kept.replays.len() >= self.listener.settings.max_subscriptions {
                        kept.forget_replay(&replay.filter);
                    }
                    kept.replays.push_back(replay);
                }
            }
            Answered::Unsubscribe => unsuback(&mut self.wire.output, self.version, packet_id, &codes),
        }
    }
}

/// The filter, or the reason why this one is refused; an error where the whole packet is wrong.
fn check_filter(filter: ByteString, options: SubscribeOptions) -> Result<Result<TopicFilter, Reason>, Ending> {
    if filter.split('/').count() > FILTER_LEVELS_MAX {
        return Ok(Err(Reason::FILTER_INVALID));
    }
    match check_shared(filter) {
        Ok(filter) if is_shared(&filter) && options.no_local => {
            // [MQTT-3.8.3-4]
            Err(Ending::Offence(Reason::PROTOCOL_ERROR, "No Local on a shared subscription"))
        }
        Ok(filter) => Ok(Ok(filter)),
        Err(Some(TopicError::Empty)) => Err(Ending::Offence(Reason::PROTOCOL_ERROR, "empty topic filter")),
        Err(_) => Ok(Err(Reason::FILTER_INVALID)),
    }
}
