//! The gateway's own publisher: wills take the same road as what clients publish (intake, store, fan-out), and so do messages
//! that come over HTTP and those of a shared subscription whose member has gone.
//!
//! What waits goes into the store in batches; the queue before it is bounded
//! ([`PUBLISHER_QUEUE`](super::limits::PUBLISHER_QUEUE)) and whoever fills it waits. A crash loses what was not published
//! yet - but for the wills of sessions that outlive their connections, which stay in the store until they are.
//!
//! It ends last: when the gateway stops, connections leave their wills here, and these are in the store before it closes.

use std::{sync::Arc, time::Instant};

use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};

use super::{
    fanout::{Onward, Orphan, Routed},
    hub::Hub,
    limits::PUBLISHER_BATCH,
    sys::is_reserved,
};
use crate::{
    intake::{Entry, Lane, OnRefusal, Outcome, Publish, Refusal, Returns, StoreError, StreamId},
    message::Message,
};

/// What the publisher is asked to do.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Publish a message; `done` hears what is decided, after the commit.
    Publish { message: Message, done: Option<oneshot::Sender<Decision>> },
    /// Find another member for a message of a shared subscription.
    Orphan(Orphan),
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Every stream that takes it has it, and every lasting session, on disk; and local subscribers have it in their queues.
    Accepted {
        /// The streams.
        streams: SmallVec<[StreamId; 2]>,
        /// How many lasting sessions.
        sessions: usize,
        /// Whether it is the retained one of its topic.
        retained: bool,
    },
    /// Nobody has it.
    Refused(Refusal),
}

impl From<Message> for Errand {
    fn from(message: Message) -> Self {
        Self::Publish { message, done: None }
    }
}

/// What is to be done when the store has decided on an errand.
struct Pending {
    onward: Onward,
    /// Only one member of a shared subscription is to get it.
    is_orphan: bool,
    done: Option<oneshot::Sender<Decision>>,
}

impl Pending {
    fn accepted(mut self, hub: &Hub, publish: Publish) {
        let done = self.done.take();
        let (sessions, retained) = (publish.copies.len(), publish.set_retained);
        let decision = Decision::Accepted { streams: publish.streams.clone(), sessions, retained };
        let now = Instant::now();
        let mut round = hub.fanout.round(now);
        if self.is_orphan {
            round.pass_on(publish.message, &publish.copies, self.onward);
        } else {
            hub.accepted(publish, self.onward, &mut round, now);
        }
        tell(done, decision);
    }
}

/// Tells whoever asked for it, if anybody still waits.
fn tell(done: Option<oneshot::Sender<Decision>>, decision: Decision) {
    if let Some(done) = done {
        let _ = done.send(decision);
    }
}

/// Publishes what comes until nobody can send any more or the store is gone.
pub(crate) async fn run(hub: Arc<Hub>, mut errands: mpsc::Receiver<Errand>) {
    let (mut lane, mut returns) = hub.intake.lane(OnRefusal::Report, None);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = errands.recv_many(&mut batch, PUBLISHER_BATCH) => {}
            () = hub.last_call.cancelled() => return,
        }
        if batch.is_empty() {
            return;
        }
        if let Err(error) = publish(&hub, &mut lane, &mut returns, &mut batch).await {
            tracing::debug!(%error, "messages of the gateway's own publisher not published");
            // Whoever waits for an answer hears that there is none.
            drop((batch, errands));
            return hub.last_call.cancelled().await;
        }
    }
}

async fn publish(
    hub: &Hub,
    lane: &mut Lane,
    returns: &mut Returns,
    errands: &mut Vec<Errand>,
) -> Result<(), StoreError> {
    let (mut entries, mut pending, mut bytes) = (Vec::new(), Vec::new(), 0);
    for errand in errands.drain(..) {
        if let Errand::Publish { message, .. } = &errand
            && is_reserved(&message.topic)
        {
            hub.metrics.refused("sys-topic");
            tracing::debug!(topic = %message.topic, client = %message.client, "will to a topic of the gateway's own dropped");
            continue;
        }
        if let Errand::Orphan(orphan) = &errand
            && orphan.publication.receipt.is_some()
        {
            // Whoever offered it hears of it, and offers it again.
            continue;
        }
        let (publish, then) = prepare(hub, errand).await?;
        if publish.streams.is_empty() && publish.copies.is_empty() && !publish.set_retained {
            then.accepted(hub, publish);
            continue;
        }
        bytes += publish.message.footprint();
        entries.push(Entry::Publish(publish));
        pending.push(then);
    }
    if entries.is_empty() {
        return Ok(());
    }
    lane.reserve(bytes).await?.submit(entries);
    let returned = returns.recv().await.ok_or(StoreError::Closed)?;
    for ((entry, outcome), then) in returned.verdicts.into_iter().zip(pending) {
        match (entry, outcome) {
            (Entry::Publish(publish), Outcome::Accepted) => then.accepted(hub, publish),
            (Entry::Publish(publish), Outcome::Refused(refusal)) => {
                hub.metrics.refused(refusal.reason());
                tracing::debug!(
                    topic = %publish.message.topic, client = %publish.message.client, reason = refusal.reason(),
                    "message of the gateway's own publisher refused"
                );
                tell(then.done, Decision::Refused(refusal));
            }
            (Entry::Publish(_), Outcome::Duplicate | Outcome::Released | Outcome::Stepped)
            | (Entry::Release { .. } | Entry::Step { .. } | Entry::Handover(_), _) => {}
        }
    }
    Ok(())
}

/// What goes into the store for an errand, and what is left to do after it.
async fn prepare(hub: &Hub, errand: Errand) -> Result<(Publish, Pending), StoreError> {
    let is_orphan = matches!(errand, Errand::Orphan(_));
    let (message, streams, set_retained, routed, done) = match errand {
        Errand::Publish { message, done } => {
            let set_retained = hub.retains(&message);
            let streams = hub.intake.streams_for(&message.topic, message.qos).await?;
            let routed = hub.fanout.route(&message);
            (message, streams, set_retained, routed, done)
        }
        Errand::Orphan(Orphan { publication, share }) => {
            let aged = publication.aged(Instant::now());
            let routed = aged.as_ref().map(|message| hub.fanout.route_share(message, &share)).unwrap_or_default();
            if aged.is_none() {
                hub.metrics.drops.expired();
            } else if routed.copies.is_empty() && routed.onward.is_empty() {
                hub.metrics.drops.away(1);
            }
            (aged.unwrap_or_else(|| publication.message.clone()), SmallVec::new(), false, routed, None)
        }
    };
    let Routed { copies, onward, .. } = routed;
    let publish = Publish { message, streams, packet_id: None, copies, set_retained, retained_revision: 0, tag: 0 };
    Ok((publish, Pending { onward, is_orphan, done }))
}
