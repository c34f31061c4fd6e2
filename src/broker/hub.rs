//! What all connections share.

use std::{fmt::Display, sync::Arc, time::Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    access::{Access, Principal},
    fanout::{Fanout, Onward, Round},
    metrics::Metrics,
    pending::Pending,
    publisher::{Decision, Errand},
    retained::Retained,
    sessions::Sessions,
    sys::Sys,
};
use crate::{
    intake::{Intake, Publish, SessionCopy},
    message::Message,
};

/// The heart of the broker.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) access: Access,
    pub(crate) intake: Intake,
    pub(crate) fanout: Arc<Fanout>,
    pub(crate) retained: Retained,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) metrics: Metrics,
    /// To the publisher task: wills, and what the gateway itself has to say.
    pub(crate) publisher: mpsc::Sender<Errand>,
    /// Connections whose CONNECT has not come.
    pub(crate) pending: Pending,
    /// No new connections.
    pub(crate) closed: CancellationToken,
    /// Connections finish what arrived and end.
    pub(crate) stopping: CancellationToken,
    /// Connections end at once.
    pub(crate) aborted: CancellationToken,
    /// Nobody is left who could give the publisher anything.
    pub(crate) last_call: CancellationToken,
    /// All connections.
    pub(crate) connections: TaskTracker,
    /// What the gateway says of itself.
    pub(crate) sys: Sys,
}

/// Who was refused, for the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    pub(crate) listener: &'a str,
    pub(crate) address: &'a str,
    /// Empty while it is not known.
    pub(crate) client_id: &'a str,
}

impl Hub {
    /// Counts and logs that a client was refused or sent away: `word` for the metric, `cause` for people.
    pub(crate) fn refused(&self, who: Who<'_>, word: &'static str, cause: impl Display) {
        self.metrics.refused(word);
        let Who { listener, address, client_id } = who;
        tracing::warn!(listener, address, client = client_id, reason = word, error = %cause, "client refused");
    }

    /// Logs that access rules stop a client. Counted by the caller, message by message.
    pub(crate) fn denied(who: Who<'_>, action: &'static str, topic: &str) {
        let Who { listener, address, client_id } = who;
        tracing::warn!(listener, address, client = client_id, action, topic, "access rules stop a client");
    }

    /// Logs that access rules with `%c` or `%u` do nothing for a client because of its names.
    pub(crate) fn unfit_names(who: Who<'_>, user: &Principal) {
        let Who { listener, address, client_id } = who;
        tracing::warn!(
            listener,
            address,
            client = client_id,
            %user,
            "access rules with %c or %u allow this client nothing: its client id or user name has one of + # / in it"
        );
    }

    /// Does with an accepted message what is left to do: keeps it where it is retained, and gives it to local subscribers.
    pub(crate) fn accepted(&self, publish: Publish, onward: Onward, round: &mut Round<'_>, now: Instant) {
        let Publish { message, copies, set_retained, retained_revision, .. } = publish;
        if set_retained {
            self.retained.set(&message, retained_revision, now);
        }
        self.deliver(message, &copies, onward, set_retained, round);
    }

    /// Gives a message to local subscribers.
    pub(crate) fn deliver(
        &self,
        message: Message,
        copies: &[SessionCopy],
        onward: Onward,
        retained: bool,
        round: &mut Round<'_>,
    ) {
        round.deliver(message, copies, onward, retained);
        for orphan in round.take_orphans() {
            // Nobody can wait here, and its queue is long.
            if self.publisher.try_send(Errand::Orphan(orphan)).is_err() {
                self.metrics.drops.queue_full(1);
            }
        }
    }

    /// Publishes a message of a client that has gone, or of the gateway itself, and waits until it is decided.
    /// `None`: nobody decided, for the gateway stops or the store takes nothing any more.
    pub(crate) async fn publish(&self, message: Message) -> Option<Decision> {
        let (done, decided) = oneshot::channel();
        // The publisher ends last of all, so either it answers or nothing is published any more.
        self.publisher.send(Errand::Publish { message, done: Some(done) }).await.ok()?;
        decided.await.ok()
    }

    /// Whether a message is to be kept as the retained one of its topic; counts it when there is no room.
    pub(crate) fn retains(&self, message: &Message) -> bool {
        if !message.retain {
            return false;
        }
        let room = self.retained.has_room(message);
        if !room {
            self.metrics.refused("retained-full");
        }
        room
    }
}
