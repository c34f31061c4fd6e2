//! What all connections share.

use std::{fmt::Display, sync::Arc, time::Instant};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    access::{Access, Principal},
    fanout::{Fanout, Round},
    metrics::Metrics,
    noise::Throttle,
    pending::Pending,
    retained::Retained,
    sessions::Sessions,
    sys::Sys,
};
use crate::{
    intake::{Intake, Publish},
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
    pub(crate) publisher: mpsc::Sender<Message>,
    /// Connections whose CONNECT has not come.
    pub(crate) pending: Pending,
    /// No new connections.
    pub(crate) closed: CancellationToken,
    /// Connections finish what arrived and end.
    pub(crate) stopping: CancellationToken,
    /// Connections end at once.
    pub(crate) aborted: CancellationToken,
    /// All connections.
    pub(crate) connections: TaskTracker,
    pub(crate) noise: Throttle,
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
        if let Some(suppressed) = self.noise.pass(Instant::now()) {
            let Who { listener, address, client_id } = who;
            tracing::warn!(listener, address, client_id, reason = word, %cause, suppressed, "client refused");
        }
    }

    /// Logs that access rules stop a client. Counted by the caller, message by message.
    pub(crate) fn denied(&self, who: Who<'_>, action: &'static str, topic: &str) {
        if let Some(suppressed) = self.noise.pass(Instant::now()) {
            let Who { listener, address, client_id } = who;
            tracing::warn!(listener, address, client_id, action, topic, suppressed, "access rules stop a client");
        }
    }

    /// Logs that access rules with `%c` or `%u` do nothing for a client because of its names.
    pub(crate) fn unfit_names(&self, who: Who<'_>, user: &Principal) {
        if let Some(suppressed) = self.noise.pass(Instant::now()) {
            let Who { listener, address, client_id } = who;
            tracing::warn!(
                listener,
                address,
                client_id,
                %user,
                suppressed,
                "access rules with %c or %u allow this client nothing: its client id or user name has one of + # / in it"
            );
        }
    }

    /// Does with an accepted message what is left to do: keeps it where it is retained, and gives it to local subscribers.
    pub(crate) fn accepted(&self, publish: Publish, round: &mut Round<'_>, now: Instant) {
        if publish.set_retained {
            self.retained.set(&publish.message, now);
        }
        round.publish(publish.message);
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
