//! Doors of the store: what the stations call.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use bytestring::ByteString;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::{
    api::{OnRefusal, Position, Run, Sequence, Stored, StreamId},
    clock::Now,
    lane::{self, Lane, Returns},
    lock::DirectoryLock,
    sessions::{QueueStats, RestoredSession, RetainedMessage, SessionId, SessionMessage, SessionRecord},
    shared::{Asked, Control, Job, Query, Shared, State, Suspended, Work, locked},
};
use crate::{
    stats::{StoreStats, StreamStats},
    topic::TopicName,
};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory or a file in it cannot be made or used. Trying again helps once the operator has mended it.
    #[error("cannot {step} `{}`: {source}", path.display())]
    Directory {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has the data directory. Trying again helps once that one has ended.
    #[error("the data directory `{}` is in use by another gateway{}", path.display(), pid.as_ref().map_or_else(|| ", or by a command that reads it".to_owned(), |pid| format!(" (process {pid})")))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, where the file names it.
        pid: Option<String>,
    },
    /// The database was written by a newer version; it was not touched. Only a newer program helps.
    #[error("the database `{}` has version {found}, this program knows versions up to {known}; it was left untouched", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file is a sound SQLite database, but not ours; it was not touched.
    #[error("`{}` is a database of some other program (application id {found:#x}); it was left untouched", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its `PRAGMA application_id`.
        found: i64,
    },
    /// SQLite refused, and not because of damage (that is salvaged) - a full disk, permissions, a failing device.
    #[error("cannot {step} `{}`: {cause}", path.display())]
    Database {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What SQLite said.
        cause: String,
    },
    /// Two streams have the same name: a mistake of the caller.
    #[error("the stream `{0}` is configured twice")]
    TwoStreams(String),
    /// A metric is registered already: a mistake of the caller.
    #[error("cannot register the store's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The system gave no thread.
    #[error("cannot start the store's threads: {0}")]
    Threads(std::io::Error),
}

/// Why the store no longer takes or gives anything.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The store has failed for good; the process must end and be started again.
    #[error("the store has failed: {0}")]
    Failed(String),
    /// Not done before the deadline; it may still be done later.
    #[error("the store did not commit within the deadline")]
    Deadline,
    /// No such stream: a mistake of the caller.
    #[error("there is no stream {0:?}")]
    NoSuchStream(StreamId),
}

/// The open store: owns the writer and reader threads and the lock on the data directory.
///
/// Dropping it closes it.
#[derive(Debug)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Option<JoinHandle<()>>,
    pub(super) reader: Option<JoinHandle<()>>,
    pub(super) _lock: DirectoryLock,
}

impl Store {
    /// Commits what is queued, checkpoints, closes the database and gives up the lock. Blocks.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.end(Work::Close);
        match &*self.shared.state.borrow() {
            State::Failed(cause) => Err(StoreError::Failed(cause.to_string())),
            State::Open | State::Closed => Ok(()),
        }
    }

    /// Ends as a crash of the process would: nothing more is committed, nothing is checkpointed.
    #[cfg(test)]
    pub(super) fn abandon(mut self) {
        self.end(Work::Abandon);
    }

    fn end(&mut self, last: Work) {
        let Some(writer) = self.writer.take() else { return };
        // Reserved places: neither is refused for want of room, only because the thread is gone already.
        let _ = self.shared.queries.send(Asked { query: Query::End, permit: None });
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let _ = self.shared.queue.send(last);
        let _ = writer.join();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end(Work::Close);
    }
}

/// A door to the store; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// A new lane: batches submitted on it are decided in order and come back in order.
    ///
    /// `session`: the client id under which QoS 2 packet ids are remembered; `None` where the session ends with the connection.
    pub fn lane(&self, on_refusal: OnRefusal, session: Option<ByteString>) -> (Lane, Returns) {
        lane::lane(&self.shared, on_refusal, session)
    }

    /// Up to `max_messages` messages and about `max_bytes` of one stream, from `from` (or the head, if that is later) on, oldest first.
    /// At least one message if there is one. Only committed messages.
    ///
    /// At most [`READ_MESSAGES_MAX`](super::READ_MESSAGES_MAX) messages and [`READ_BYTES_MAX`](super::READ_BYTES_MAX) bytes,
    /// whatever was asked for.
    pub async fn read(
        &self,
        stream: StreamId,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let position = *self.door(stream)?.position.borrow();
        if from >= position.next || position.head == position.next {
            return self.working().map(|()| Vec::new());
        }
        let stream = stream.0 as usize;
        self.ask(|reply| Query::Read { stream, from, max_messages, max_bytes, reply }).await
    }

    /// Says what became of messages: each in the transaction that counts it. Runs must be given in order, beginning at the head;
    /// what a run says of messages that have left meanwhile (dropped, purged, expired) is passed over. Returns when queued, not when committed.
    pub async fn settle(&self, stream: StreamId, runs: Vec<Run>) -> Result<(), StoreError> {
        self.door(stream)?;
        self.control(Control::Settle { stream: stream.0 as usize, runs }).await
    }

    /// Where a stream stands, and a way to wait for it to change.
    ///
    /// # Panics
    /// When there is no such stream: ids come from the store.
    pub fn position(&self, stream: StreamId) -> watch::Receiver<Position> {
        self.shared.door(stream).expect("stream ids come from the store").position.subscribe()
    }

    /// The books of all configured streams, in configuration order (`to` is left for the caller to fill in); then of those that are
    /// not configured any more.
    pub fn streams(&self) -> Vec<StreamStats> {
        let now = Now::read();
        let boots = self.shared.boots.read().unwrap_or_else(PoisonError::into_inner);
        self.shared.doors.in_order().iter().map(|door| door.stats(&boots, now)).collect()
    }

    /// The store at a glance.
    pub fn stats(&self) -> StoreStats {
        let glance = locked(&self.shared.glance).clone();
        StoreStats {
            bytes: glance.bytes,
            free_bytes: glance.free_bytes,
            written_bytes: glance.written_bytes,
            last_commit_ago: glance.last_commit.map(|at| at.elapsed()),
            refusing: glance.refusing.map(|refusal| refusal.sentence().to_owned()),
            suspended: glance.suspended.as_ref().map(Suspended::sentence),
            stalled: self.shared.disk.waiting_for(),
            salvages: glance.alarms.salvages,
            lost_messages: glance.alarms.lost,
            quarantine_bytes: glance.alarms.quarantine_bytes,
            checked: glance.alarms.checked,
        }
    }

    /// Counts a QoS 0 message of a `live-only` stream as accepted and dropped while its uplink is away.
    ///
    /// Written with the next commit, within a second at the latest: a crash may forget both sides of the count, never one.
    #[expect(clippy::unused_async, reason = "a door of the agreement; it may have to wait one day")]
    pub async fn drop_offline(&self, stream: StreamId, count: u64) -> Result<(), StoreError> {
        self.working()?;
        self.door(stream)?.offline.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// All remembered sessions of clients.
    pub async fn sessions(&self) -> Result<Vec<RestoredSession>, StoreError> {
        self.ask(|reply| Query::Sessions { reply }).await
    }

    /// Remembers a session (all but its `received`, which lanes keep), as one whose client is connected; returns when it is committed.
    ///
    /// The id stays the same until the session is deleted.
    pub async fn save_session(&self, session: SessionRecord) -> Result<SessionId, StoreError> {
        let (done, answer) = oneshot::channel();
        self.control(Control::SaveSession { session: Box::new(session), id: None, done }).await?;
        self.answered(answer).await
    }

    /// The client of a session is away from now on, and `sent` is the last message of its queue that was ever sent to it (0: none).
    /// Returns when queued, not when committed: that takes up to a second.
    pub async fn session_left(&self, session: SessionId, sent: Sequence) -> Result<(), StoreError> {
        let at = Now::read().mono_ms;
        self.control(Control::SessionLeft { session, sent, at }).await
    }

    /// The will of a session was published, or is no longer due; changes nothing else of it. Returns when that is committed.
    pub async fn forget_will(&self, session: SessionId) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.control(Control::ForgetWill { session, done }).await?;
        self.answered(answer).await
    }

    /// Up to `max_messages` messages and about `max_bytes` of the queue of one session, from `from` on, oldest first. At least one if
    /// there is one. Only committed messages; bounded as [`Handle::read`].
    pub async fn read_session(
        &self,
        session: SessionId,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<SessionMessage>, StoreError> {
        self.ask(|reply| Query::ReadSession { session, from, max_messages, max_bytes, reply }).await
    }

    /// Everything up to `seq` of this queue has been sent: `when_full = "drop-oldest"` spares it. In memory only.
    pub fn sent(&self, session: SessionId, seq: Sequence) {
        if let Some(door) = self.shared.queue(session) {
            door.sent.fetch_max(seq, Ordering::Relaxed);
        }
    }

    /// The books of the queues of all clients together, of ended sessions too.
    pub fn queues(&self) -> QueueStats {
        locked(&self.shared.queue_totals).stats()
    }

    /// The books of the queue of one session, `None` where there is no such session.
    pub fn queue(&self, session: SessionId) -> Option<QueueStats> {
        self.shared.queue(session).map(|door| door.books().counts.stats())
    }

    /// Forgets a session and its packet ids; returns when that is committed.
    pub async fn delete_session(&self, client_id: ByteString) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.control(Control::DeleteSession { client_id, done }).await?;
        self.answered(answer).await
    }

    /// All retained messages.
    pub async fn retained(&self) -> Result<Vec<RetainedMessage>, StoreError> {
        self.ask(|reply| Query::Retained { reply }).await
    }

    /// Deletes the retained messages of these topics, where they still are of these revisions; returns when that is committed.
    pub async fn forget_retained(&self, expired: Vec<(TopicName, u64)>) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.control(Control::ForgetRetained { expired, done }).await?;
        self.answered(answer).await
    }

    /// Whether the system's clock has been set since this boot, as far as can be told.
    pub fn clock_synced(&self) -> bool {
        Now::read().synced()
    }

    /// Moves at least once a second while the writer works; also while it waits for a disk that is merely slow ([`DISK_PATIENCE`](super::DISK_PATIENCE)).
    pub fn pulse(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.heartbeat.load(Ordering::Relaxed).rotate_left(24).wrapping_add(shared.disk.patience())
    }

    /// Changes whenever the database was salvaged while running: what was read before may be there no more, and the books may
    /// stand elsewhere.
    pub fn salvages(&self) -> watch::Receiver<u64> {
        self.shared.salvages.subscribe()
    }

    /// Waits until the store has failed for good (a defect of the program; a disk that fails is waited for): the process must end.
    ///
    /// Waits for ever when the store is closed in order.
    pub async fn failed(&self) -> String {
        let mut state = self.shared.state.subscribe();
        let failed = state.wait_for(|state| matches!(state, State::Failed(_))).await;
        match failed.as_deref() {
            Ok(State::Failed(cause)) => cause.to_string(),
            Ok(State::Open | State::Closed) | Err(_) => "the store is gone".to_owned(),
        }
    }

    /// Waits until everything submitted or settled before this call is committed.
    pub async fn flush(&self, deadline: Duration) -> Result<(), StoreError> {
        let flush = async {
            let (done, answer) = oneshot::channel();
            self.control(Control::Flush { done }).await?;
            self.answered(answer).await
        };
        tokio::time::timeout(deadline, flush).await.unwrap_or(Err(StoreError::Deadline))
    }

    fn door(&self, stream: StreamId) -> Result<Arc<super::doors::Door>, StoreError> {
        self.shared.door(stream).ok_or(StoreError::NoSuchStream(stream))
    }

    fn working(&self) -> Result<(), StoreError> {
        if *self.shared.state.borrow() == State::Open { Ok(()) } else { Err(self.shared.ended()) }
    }

    pub(super) async fn control(&self, control: Control) -> Result<(), StoreError> {
        let permit = Arc::clone(&self.shared.controls).acquire_owned().await.map_err(|_| self.shared.ended())?;
        self.shared.queue.try_send(Work::Job(Job::Control(control, permit))).map_err(|_| self.shared.ended())
    }

    pub(super) async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, StoreError> {
        let permit: OwnedSemaphorePermit =
            Arc::clone(&self.shared.reads).acquire_owned().await.map_err(|_| self.shared.ended())?;
        let (reply, answer) = oneshot::channel();
        let asked = Asked { query: query(reply), permit: Some(permit) };
        self.shared.queries.try_send(asked).map_err(|_| self.shared.ended())?;
        self.answered(answer).await
    }

    pub(super) async fn answered<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, StoreError> {
        if let Ok(answer) = answer.await {
            return Ok(answer);
        }
        // Whoever dropped the question says next why; wait for it, so that the cause is told.
        let mut state = self.shared.state.subscribe();
        let _ = state.wait_for(|state| *state != State::Open).await;
        Err(self.shared.ended())
    }
}
