//! The configuration changes while the store works: streams come and go and get other limits, and so does the store itself.
//!
//! One order to the writer, carried out between two rounds: what came before it is decided by what held then. Streams that
//! the database does not have yet are made first, in a transaction of their own; only when that is synced anything else changes,
//! all of it in memory, where nothing can fail. A crash in between leaves empty streams that the next start finds. A stream that is no
//! longer configured keeps all it has; one that comes back goes on with its numbers. While the disk is full or the
//! store is suspended nothing can be made, and the whole order is refused; without a new stream a full disk does not matter.
//!
//! Who gives up waiting has changed nothing, however late the writer comes to it, but that streams may have been made, empty.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    api::{Refusal, StreamId, StreamSettings},
    handle::{Handle, StoreError},
    shared::Work,
};

/// What can change while the store is open.
#[derive(Debug, Clone)]
pub struct Changes {
    /// All streams that are configured from now on, in configuration order; each name once.
    pub streams: Vec<StreamSettings>,
    /// See [`Settings::commit_delay`](super::Settings::commit_delay).
    pub commit_delay: Duration,
    /// See [`Settings::max_bytes`](super::Settings::max_bytes).
    pub max_bytes: u64,
    /// See [`Settings::min_free`](super::Settings::min_free).
    pub min_free: u64,
}

/// Why nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigureError {
    /// The store no longer takes anything.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A new stream needs a place in the database, and nothing can be written now. Trying again later helps.
    #[error("no stream can be added now: {}", .0.sentence())]
    NotNow(Refusal),
    /// The disk failed meanwhile.
    #[error("no stream can be added: {0}")]
    Disk(String),
}

/// For the writer.
#[derive(Debug)]
pub(super) struct Configure {
    pub(super) changes: Changes,
    done: oneshot::Sender<Result<Vec<StreamId>, ConfigureError>>,
    _permit: OwnedSemaphorePermit,
}

impl Configure {
    /// False where whoever asked has given up waiting.
    pub(super) fn answer(self, answer: Result<Vec<StreamId>, ConfigureError>) -> bool {
        self.done.send(answer).is_ok()
    }

    /// Whether whoever asked has given up waiting, and goes on as if this had not been asked.
    pub(super) fn is_given_up(&self) -> bool {
        self.done.is_closed()
    }

    pub(super) fn refuse(self, refusal: Refusal) {
        // Whoever has given up waiting takes it for refused anyway.
        let _ = self.answer(Err(ConfigureError::NotNow(refusal)));
    }
}

impl Handle {
    /// From now on the configuration says this; gives the places of the streams, in the order given. All of it, or nothing: dropped before it
    /// is done, nothing.
    pub async fn configure(&self, changes: Changes) -> Result<Vec<StreamId>, ConfigureError> {
        let permit = Arc::clone(&self.shared.controls).acquire_owned().await.map_err(|_| self.shared.ended())?;
        let (done, answer) = oneshot::channel();
        let configure = Configure { changes, done, _permit: permit };
        self.shared.queue.try_send(Work::Configure(configure)).map_err(|_| self.shared.ended())?;
        answer.await.map_err(|_| self.shared.ended())?
    }
}
