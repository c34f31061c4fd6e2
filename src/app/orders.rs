//! What an operator asks of the admin room, passed on to the store.

use crate::{
    admin::{Answer, Order, Refused, Why},
    store::{self, OrderError},
};

/// Carries out an order.
pub(super) fn operate(store: &store::Handle, order: Order) -> Answer<u64> {
    let store = store.clone();
    Box::pin(async move {
        let done = match order {
            Order::Pause { stream } => store.pause(find(&store, &stream)?, true).await.map(|()| 0),
            Order::Resume { stream } => store.pause(find(&store, &stream)?, false).await.map(|()| 0),
            Order::Purge { stream } => store.purge(find(&store, &stream)?).await,
        };
        done.map_err(refused)
    })
}

fn find(store: &store::Handle, stream: &str) -> Result<store::StreamId, Refused> {
    store.find(stream).ok_or_else(|| Refused {
        why: Why::NotFound,
        message: format!("there is no stream called `{stream}`; GET /api/v1/streams lists them"),
    })
}

fn refused(error: OrderError) -> Refused {
    let why = match &error {
        OrderError::Store(_) => Why::Failed,
    };
    Refused { why, message: error.to_string() }
}
