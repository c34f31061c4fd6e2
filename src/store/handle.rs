//! Doors of the store: what the stations call.

use std::time::Duration;

use bytestring::ByteString;
use tokio::sync::watch;

use super::api::{
    Entry, OnRefusal, Position, Returned, Run, Sequence, SessionRecord, Settings, Stored, StreamId, StreamSettings,
};
use crate::{
    message::Message,
    stats::{StoreStats, StreamStats},
};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

/// Why the store no longer takes or gives anything.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// The open store: owns the writer and reader threads and the lock on the data directory.
#[derive(Debug)]
pub struct Store {}

/// Opens the store: locks the directory, opens or makes the database, migrates, recovers, starts the threads.
///
/// `streams` in configuration order; the [`StreamId`]s are the indexes into it. Blocks; call it before the runtime is busy.
pub fn open(
    _settings: &Settings,
    _streams: &[StreamSettings],
    _registry: &prometheus::Registry,
) -> Result<(Store, Handle), OpenError> {
    unimplemented!()
}

impl Store {
    /// Commits what is queued, checkpoints, closes the database and gives up the lock. Blocks.
    pub fn close(self) -> Result<(), StoreError> {
        unimplemented!()
    }
}

/// A door to the store; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {}

impl Handle {
    /// A new lane: batches submitted on it are decided in order and come back in order.
    ///
    /// `session`: the client id under which QoS 2 packet ids are remembered; `None` where the session ends with the connection.
    pub fn lane(&self, _on_refusal: OnRefusal, _session: Option<ByteString>) -> (Lane, Returns) {
        unimplemented!()
    }

    /// Up to `max_messages` messages and about `max_bytes` of one stream, from `from` (or the head, if that is later) on, oldest first.
    /// At least one message if there is one. Only committed messages.
    pub async fn read(
        &self,
        _stream: StreamId,
        _from: Sequence,
        _max_messages: usize,
        _max_bytes: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        unimplemented!()
    }

    /// Says what became of messages: each in the transaction that counts it. Runs must be given in order, beginning at the head;
    /// what a run says of messages that have left meanwhile (dropped, purged, expired) is passed over. Returns when queued, not when committed.
    pub async fn settle(&self, _stream: StreamId, _runs: Vec<Run>) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Where a stream stands, and a way to wait for it to change.
    pub fn position(&self, _stream: StreamId) -> watch::Receiver<Position> {
        unimplemented!()
    }

    /// The books of all configured streams, in configuration order (`to` is left for the caller to fill in).
    pub fn streams(&self) -> Vec<StreamStats> {
        unimplemented!()
    }

    /// The store at a glance.
    pub fn stats(&self) -> StoreStats {
        unimplemented!()
    }

    /// Counts a QoS 0 message of a `live-only` stream as accepted and dropped while its uplink is away.
    pub async fn drop_offline(&self, _stream: StreamId, _count: u64) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// All remembered sessions.
    pub async fn sessions(&self) -> Result<Vec<SessionRecord>, StoreError> {
        unimplemented!()
    }

    /// Remembers a session (all but its `received`, which lanes keep); returns when it is committed.
    pub async fn save_session(&self, _session: SessionRecord) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Forgets a session and its packet ids; returns when that is committed.
    pub async fn delete_session(&self, _client_id: ByteString) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// All retained messages.
    pub async fn retained(&self) -> Result<Vec<Message>, StoreError> {
        unimplemented!()
    }

    /// Waits until the store has failed for good (a write error other than "disk full"): the process must end.
    pub async fn failed(&self) -> String {
        unimplemented!()
    }

    /// Waits until everything submitted or settled before this call is committed.
    pub async fn flush(&self, _deadline: Duration) -> Result<(), StoreError> {
        unimplemented!()
    }
}

/// One client's way into the store: bounded, ordered.
#[derive(Debug)]
pub struct Lane {}

impl Lane {
    /// Waits for room in the store's queue for a batch of this many bytes. Cancel safe. The permit does nothing until used.
    pub async fn reserve(&mut self, _bytes: usize) -> Result<Permit<'_>, StoreError> {
        unimplemented!()
    }

    /// Waits until entries that were handed back (`Returned::held`) have a chance to fit, and reopens the lane for them.
    /// Call it only when every submitted batch has come back. Cancel safe.
    pub async fn room(&mut self) -> Result<(), StoreError> {
        unimplemented!()
    }
}

/// Room for one batch.
#[derive(Debug)]
pub struct Permit<'lane> {
    _lane: &'lane mut Lane,
}

impl Permit<'_> {
    /// Submits a batch. Never waits, never fails: its [`Returned`] comes on the lane's [`Returns`].
    pub fn submit(self, _batch: Vec<Entry>) {
        unimplemented!()
    }
}

/// Where a lane's batches come back.
#[derive(Debug)]
pub struct Returns {}

impl Returns {
    /// The next batch that was decided; `None` when the store has failed or closed and nothing more will come. Cancel safe.
    pub async fn recv(&mut self) -> Option<Returned> {
        unimplemented!()
    }
}
