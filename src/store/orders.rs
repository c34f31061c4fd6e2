//! What an operator asks of the store, and its doors: pause, resume, purge.

use std::sync::{Arc, atomic::AtomicBool};

use tokio::sync::oneshot;

use super::{
    api::StreamId,
    handle::{Handle, StoreError},
    shared::Control,
};

/// What the writer is asked to do; answered once it is committed.
#[derive(Debug)]
pub(super) enum Order {
    Pause { stream: usize, paused: bool },
    Purge { stream: usize },
}

/// How many messages an order was about.
pub(super) type Done = Result<u64, OrderError>;

/// Why an order was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OrderError {
    /// The store no longer takes anything.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Handle {
    /// The stream of this name, configured or not.
    pub fn find(&self, name: &str) -> Option<StreamId> {
        let at = self.shared.doors.iter().position(|door| door.name == name)?;
        u32::try_from(at).ok().map(StreamId)
    }

    /// Pauses a stream, or lets it go on; returns when that is committed. What is in flight is still settled.
    pub async fn pause(&self, stream: StreamId, paused: bool) -> Result<(), OrderError> {
        self.order(Order::Pause { stream: self.index(stream)?, paused }).await.map(|_| ())
    }

    /// Whether a stream is paused; changes as it does, and [`Handle::position`] tells when.
    ///
    /// # Panics
    /// When there is no such stream.
    pub fn paused(&self, stream: StreamId) -> Arc<AtomicBool> {
        let door = self.shared.door(stream).expect("stream ids come from the configuration that opened the store");
        Arc::clone(&door.paused)
    }

    /// Everything in the backlog now leaves as purged; returns how many messages that were, when it is committed.
    ///
    /// Of a stream that is not configured any more, what is kept for replay goes too: nobody else could ever ask for it.
    /// Costs the same for one message and for a million: the rows are deleted later, in slices.
    pub async fn purge(&self, stream: StreamId) -> Result<u64, OrderError> {
        self.order(Order::Purge { stream: self.index(stream)? }).await
    }

    fn index(&self, stream: StreamId) -> Result<usize, StoreError> {
        self.shared.door(stream).map(|_| stream.0 as usize).ok_or(StoreError::NoSuchStream(stream))
    }

    pub(super) async fn order(&self, order: Order) -> Result<u64, OrderError> {
        let (done, answer) = oneshot::channel();
        self.control(Control::Order { order, outcome: None, done }).await?;
        self.answered(answer).await?
    }
}
