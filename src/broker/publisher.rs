//! The gateway's own publisher: wills take the same road as what clients publish (intake, store, fan-out).
//!
//! One message at a time is waited for, because wills are rare; the queue before it is bounded
//! ([`PUBLISHER_QUEUE`](super::limits::PUBLISHER_QUEUE)) and whoever fills it waits. A crash loses the wills that were
//! not published yet, as it loses the connections that they belong to.

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;

use super::{hub::Hub, sys::is_reserved};
use crate::{
    intake::{Entry, Lane, OnRefusal, Outcome, Publish, Returns, StoreError},
    message::Message,
};

/// Publishes what comes until nobody can send any more or the store is gone.
pub(crate) async fn run(hub: Arc<Hub>, mut messages: mpsc::Receiver<Message>) {
    let (mut lane, mut returns) = hub.intake.lane(OnRefusal::Report, None);
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = hub.aborted.cancelled() => return,
        };
        let Some(message) = message else { return };
        if let Err(error) = publish(&hub, &mut lane, &mut returns, message).await {
            tracing::debug!(%error, "will not published");
            hub.aborted.cancelled().await;
            return;
        }
    }
}

async fn publish(hub: &Hub, lane: &mut Lane, returns: &mut Returns, message: Message) -> Result<(), StoreError> {
    if is_reserved(&message.topic) {
        hub.metrics.refused("sys-topic");
        tracing::debug!(topic = %message.topic, client_id = %message.client, "will to a topic of the gateway's own dropped");
        return Ok(());
    }
    let set_retained = hub.retains(&message);
    let streams = hub.intake.streams_for(&message.topic, message.qos).await?;
    let publish =
        Publish { message, streams, packet_id: None, copies: Vec::new(), set_retained, retained_revision: 0, tag: 0 };
    if publish.streams.is_empty() && !set_retained {
        let now = Instant::now();
        hub.accepted(publish, &mut hub.fanout.round(now), now);
        return Ok(());
    }
    let bytes = publish.message.topic.as_str().len() + publish.message.payload.len();
    lane.reserve(bytes).await?.submit(vec![Entry::Publish(publish)]);
    let returned = returns.recv().await.ok_or(StoreError::Closed)?;
    let now = Instant::now();
    for (entry, outcome) in returned.verdicts {
        match (entry, outcome) {
            (Entry::Publish(publish), Outcome::Accepted) => hub.accepted(publish, &mut hub.fanout.round(now), now),
            (Entry::Publish(publish), Outcome::Refused(refusal)) => {
                hub.metrics.refused(refusal.reason());
                tracing::debug!(topic = %publish.message.topic, reason = refusal.reason(), "will refused");
            }
            (Entry::Publish(_), Outcome::Duplicate | Outcome::Released | Outcome::Stepped)
            | (Entry::Release { .. } | Entry::Step { .. }, _) => {}
        }
    }
    Ok(())
}
