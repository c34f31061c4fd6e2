//! What the admin room asks of the broker: publishing, and the end of a client's connection.

use std::{future::ready, sync::Arc};

use crate::{
    admin::{Answer, Refused, Why},
    broker::{Broker, DEFAULT_MAX_PACKET, Expelled, NotTaken},
    intake::Refusal,
    message::Message,
    stats::Published,
    store,
};

/// Publishes a message.
pub(super) fn publish(broker: &Arc<Broker>, store: &store::Handle, message: Message) -> Answer<Published> {
    let (broker, store) = (Arc::clone(broker), store.clone());
    Box::pin(async move {
        let taken = broker.publish(message).await.map_err(|not_taken| refused(&store, not_taken))?;
        let names = taken.streams.iter().filter_map(|id| store.name_of(*id)).collect();
        Ok(Published { streams: names, sessions: taken.sessions as u64, retained: taken.retained })
    })
}

/// The largest payload that can be published.
pub(super) fn publish_max_bytes(broker: &Broker) -> usize {
    broker.max_packet().unwrap_or(DEFAULT_MAX_PACKET).try_into().unwrap_or(usize::MAX)
}

fn refused(store: &store::Handle, not_taken: NotTaken) -> Refused {
    let (cause, words) = match not_taken {
        NotTaken::Reserved => (Why::Reserved, not_taken.to_string()),
        NotTaken::Stopping => (Why::Stopping, not_taken.to_string()),
        NotTaken::Unknown => return Refused { why: Why::Failed, message: not_taken.to_string() },
        NotTaken::Refused(Refusal::StreamFull(id)) => {
            let name = store.name_of(id).unwrap_or_default();
            (Why::Full, format!("the stream `{name}` is full and has when_full = \"reject\""))
        }
        NotTaken::Refused(Refusal::QueueFull) => {
            (Why::Full, "the queue of a local session is full and has queue_when_full = \"reject\"".to_owned())
        }
        NotTaken::Refused(Refusal::StoreFull) => (Why::Full, "the store has reached its max_bytes".to_owned()),
        NotTaken::Refused(Refusal::DiskFull) => {
            (Why::Full, "the disk is full, or less than min_free is left on it".to_owned())
        }
        NotTaken::Refused(Refusal::Suspended) => {
            (Why::Suspended, store.stats().suspended.unwrap_or_else(|| "the store is suspended".to_owned()))
        }
    };
    Refused { why: cause, message: format!("{words}; the message was not accepted") }
}

/// Ends the connection of a client.
pub(super) fn disconnect(broker: &Arc<Broker>, client_id: String) -> Answer<()> {
    if client_id.is_empty() {
        return Box::pin(ready(Err(unknown(&client_id))));
    }
    let broker = Arc::clone(broker);
    Box::pin(async move {
        match broker.expel(&client_id).await {
            Expelled::Gone => Ok(()),
            Expelled::Away => {
                let message = format!("the client `{client_id}` is not connected; only its session is here");
                Err(Refused { why: Why::NotConnected, message })
            }
            Expelled::Unknown => Err(unknown(&client_id)),
        }
    })
}

fn unknown(client_id: &str) -> Refused {
    let message = format!("there is no client called `{client_id}`; GET /api/v1/clients lists them");
    Refused { why: Why::NotFound, message }
}
