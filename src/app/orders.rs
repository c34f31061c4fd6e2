//! What an operator asks of the admin room, passed on to the store.

use std::collections::HashMap;

use crate::{
    admin::{Answer, DeadQuestion, Order, Refused, Why},
    stats::DeadLetter,
    store::{self, DeadFilter, OrderError},
};

/// Carries out an order.
pub(super) fn operate(
    store: &store::Handle,
    gateway_id: &str,
    destinations: &HashMap<String, String>,
    order: Order,
) -> Answer<u64> {
    if let Order::Replay { stream, .. } = &order
        && store.is_configured(stream)
        && !destinations.contains_key(stream)
    {
        let message = format!("the stream `{stream}` has no `to`: it goes nowhere");
        return Box::pin(std::future::ready(Err(Refused { why: Why::Conflict, message })));
    }
    let (store, gateway) = (store.clone(), gateway_id.to_owned());
    Box::pin(async move {
        let done = match order {
            Order::Pause { stream } => store.pause(find(&store, &stream)?, true).await.map(|()| 0),
            Order::Resume { stream } => store.pause(find(&store, &stream)?, false).await.map(|()| 0),
            Order::Purge { stream, to } => store.purge_to(find(&store, &stream)?, to).await,
            Order::Replay { stream, since_unix_ms, until_unix_ms } => {
                store.replay(find(&store, &stream)?, since_unix_ms, until_unix_ms).await
            }
            Order::StopReplay { stream } => store.stop_replay(find(&store, &stream)?).await,
            Order::RetryDead { id } => store.retry_dead(id, &gateway).await.map(|()| 1),
            Order::PurgeDead { id } => store.purge_dead(id).await.map(|()| 1),
            Order::PurgeAllDead { stream } => {
                let stream = stream.map(|stream| find(&store, &stream)).transpose()?;
                store.purge_all_dead(stream).await
            }
        };
        done.map_err(refused)
    })
}

/// Finds dead letters.
pub(super) fn dead(store: &store::Handle, question: DeadQuestion) -> Answer<Vec<DeadLetter>> {
    let store = store.clone();
    Box::pin(async move {
        let filter = match question {
            DeadQuestion::One(id) => DeadFilter { id: Some(id), limit: 1, ..DeadFilter::default() },
            DeadQuestion::List { stream, after, limit } => {
                let stream = stream.map(|stream| find(&store, &stream)).transpose()?;
                DeadFilter { id: None, stream, after, limit }
            }
        };
        store.dead(filter).await.map_err(|error| refused(error.into()))
    })
}

pub(super) fn find(store: &store::Handle, stream: &str) -> Result<store::StreamId, Refused> {
    store.find(stream).ok_or_else(|| Refused {
        why: Why::NotFound,
        message: format!("there is no stream called `{stream}`; GET /api/v1/streams lists them"),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn refused(error: OrderError) -> Refused {
    let why = match &error {
        OrderError::Store(_) => Why::Failed,
        OrderError::NoSuchDeadLetter(_) => Why::NotFound,
        OrderError::Unreadable(_)
        | OrderError::NotConfigured(_)
        | OrderError::ReplayRuns { .. }
        | OrderError::NothingKept(_)
        | OrderError::NoReplay(_) => Why::Conflict,
        OrderError::NoRoom { .. } => Why::Full,
    };
    Refused { why, message: error.to_string() }
}
