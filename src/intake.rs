//! Intake: decides which streams take a message, and is the broker's only way to the store.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use bytestring::ByteString;
use smallvec::SmallVec;

pub use crate::store::{
    Entry, Handover, Lane, OnRefusal, Outcome, Permit, Publish, QueueLimits, QueueStats, Refusal, RestoredSession,
    RetainedMessage, Returned, Returns, Sequence, SessionCopy, SessionId, SessionMessage, SessionRecord, SessionWill,
    Stage, Step, StoreError, StreamId, WhenFull,
};
use crate::{
    message::QoS,
    store,
    topic::{TopicFilter, TopicName},
};

/// What one stream takes.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The stream.
    pub stream: StreamId,
    /// It takes a message when one of these matches ...
    pub from: Vec<TopicFilter>,
    /// ... and none of these does.
    pub except: Vec<TopicFilter>,
    /// `qos0 = "live-only"`: QoS 0 messages are taken only while this says that the uplink is connected.
    pub live_only: Option<Arc<AtomicBool>>,
}

impl Rule {
    fn takes(&self, topic: &TopicName) -> bool {
        self.from.iter().any(|filter| filter.matches(topic)) && !self.except.iter().any(|filter| filter.matches(topic))
    }
}

/// What streams take, as it is now; shared by all that clone it.
#[derive(Debug, Clone)]
struct Rules(Arc<RwLock<Arc<[Rule]>>>);

impl Rules {
    fn now(&self) -> Arc<[Rule]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The way from the broker into the store; cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    store: store::Handle,
    rules: Rules,
}

impl Intake {
    /// Intake for these rules, in the order of the configuration.
    pub fn new(store: store::Handle, rules: Vec<Rule>) -> Self {
        Self { store, rules: Rules(Arc::new(RwLock::new(rules.into()))) }
    }

    /// From now on these rules hold, for all clones of this too. A message is matched by the rules before or by these, never by some of each.
    pub fn replace(&self, rules: Vec<Rule>) {
        *self.rules.0.write().unwrap_or_else(PoisonError::into_inner) = rules.into();
    }

    /// The streams that take a message of this topic and QoS, each once, in configuration order.
    ///
    /// A `live-only` stream whose uplink is away does not take QoS 0; that drop is counted here, in the store.
    pub async fn streams_for(&self, topic: &TopicName, qos: QoS) -> Result<SmallVec<[StreamId; 2]>, StoreError> {
        let mut streams = SmallVec::new();
        let rules = self.rules.now();
        for rule in rules.iter().filter(|rule| rule.takes(topic)) {
            let away = |live: &Arc<AtomicBool>| !live.load(Ordering::Relaxed);
            if qos == QoS::AtMostOnce && rule.live_only.as_ref().is_some_and(away) {
                self.store.drop_offline(rule.stream, 1).await?;
            } else {
                streams.push(rule.stream);
            }
        }
        Ok(streams)
    }

    /// A new lane into the store for one connection; see [`store::Handle::lane`].
    pub fn lane(&self, on_refusal: OnRefusal, session: Option<ByteString>) -> (Lane, Returns) {
        self.store.lane(on_refusal, session)
    }

    /// All remembered sessions; see [`store::Handle::sessions`].
    pub async fn sessions(&self) -> Result<Vec<RestoredSession>, StoreError> {
        self.store.sessions().await
    }

    /// Remembers a session; see [`store::Handle::save_session`].
    pub async fn save_session(&self, session: SessionRecord) -> Result<SessionId, StoreError> {
        self.store.save_session(session).await
    }

    /// The client of a session is away from now on; see [`store::Handle::session_left`].
    pub async fn session_left(&self, session: SessionId, sent: Sequence) -> Result<(), StoreError> {
        self.store.session_left(session, sent).await
    }

    /// The will of a session was published; see [`store::Handle::forget_will`].
    pub async fn forget_will(&self, session: SessionId) -> Result<(), StoreError> {
        self.store.forget_will(session).await
    }

    /// A page of the queue of a session; see [`store::Handle::read_session`].
    pub async fn read_session(
        &self,
        session: SessionId,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<SessionMessage>, StoreError> {
        self.store.read_session(session, from, max_messages, max_bytes).await
    }

    /// Everything up to `seq` of this queue has been sent; see [`store::Handle::sent`].
    pub fn sent(&self, session: SessionId, seq: Sequence) {
        self.store.sent(session, seq);
    }

    /// The books of all queues together; see [`store::Handle::queues`].
    pub fn queues(&self) -> QueueStats {
        self.store.queues()
    }

    /// The books of one queue; see [`store::Handle::queue`].
    pub fn queue(&self, session: SessionId) -> Option<QueueStats> {
        self.store.queue(session)
    }

    /// Forgets a session; see [`store::Handle::delete_session`].
    pub async fn delete_session(&self, client_id: ByteString) -> Result<(), StoreError> {
        self.store.delete_session(client_id).await
    }

    /// All retained messages; see [`store::Handle::retained`].
    pub async fn retained(&self) -> Result<Vec<RetainedMessage>, StoreError> {
        self.store.retained().await
    }

    /// Deletes retained messages that expired; see [`store::Handle::forget_retained`].
    pub async fn forget_retained(&self, expired: Vec<(TopicName, u64)>) -> Result<(), StoreError> {
        self.store.forget_retained(expired).await
    }
}
