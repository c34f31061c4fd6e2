//! What the doors and the store's threads share: the queue, the published books, the state of the whole.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64, mpsc::SyncSender},
    time::{Duration, Instant},
};

use bytestring::ByteString;
use rusqlite::Connection;
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{
    alarms::Alarms,
    api::{DeadFilter, Entry, Refusal, Run, Sequence, Stored, StreamId, WhenFull},
    books::{Fit, Holes},
    clock::Boots,
    configure::Configure,
    disk::DiskWait,
    doors::{Door, Doors},
    failure::Failure,
    handle::StoreError,
    import::{Import, Imported},
    lane::LaneShared,
    orders::{Done, Order, OrderError},
    queue::{Counts, QueueBooks},
    sessions::{QueueLimits, RestoredSession, RetainedMessage, SessionId, SessionMessage, SessionRecord},
};
use crate::{
    stats::{DeadLetter, DeadStats},
    topic::TopicName,
};

/// Most bytes of messages that may wait for the writer, of all lanes together.
pub(super) const QUEUE_BYTES_MAX: usize = 4 << 20;

/// What a batch counts for in the queue besides its messages; bounds the number of batches to 1024.
pub(super) const BATCH_BYTES: usize = 4 << 10;

/// Most settlements and other small things that may wait for the writer.
pub(super) const CONTROLS_MAX: usize = 512;

/// Most reads that may wait for the reader.
pub(super) const READS_MAX: usize = 64;

/// Places of the queue: nothing that holds a permit ever finds it full.
pub(super) const QUEUE_PLACES: usize = QUEUE_BYTES_MAX / BATCH_BYTES + CONTROLS_MAX + 8;

/// Reason of a drop: QoS 0, `qos0 = "live-only"`, and the uplink was away.
pub(super) const OFFLINE: &str = "offline";

/// Reason of a drop: QoS 0, and the stream, the store or the disk was full.
pub(super) const QOS0_FULL: &str = "qos0-full";

/// Reason of a drop: `when_full = "drop-oldest"`.
pub(super) const OLDEST: &str = "oldest";

/// Reason of a drop: `when_full = "drop-newest"`.
pub(super) const NEWEST: &str = "newest";

/// Reason of a drop: larger than the whole stream may be, and nobody to tell.
pub(super) const TOO_LARGE: &str = "too-large";

/// Reason of a drop or a dead letter: cannot be read back.
pub(super) const DAMAGED: &str = "damaged";

/// What the writer is asked to do, in order.
#[derive(Debug)]
pub(super) enum Work {
    /// Something to decide and commit.
    Job(Job),
    /// The configuration has changed.
    Configure(Configure),
    /// Commit, checkpoint, end.
    Close,
    /// The reader failed. `epoch`: how often the store had been resumed then; an old one is no news.
    Trouble { failure: Failure, epoch: u64 },
    /// End at once and leave everything as a crash would.
    #[cfg(test)]
    Abandon,
    /// Let SQLite find the disk full from so many pages on (`PRAGMA max_page_count`).
    #[cfg(test)]
    MaxPages(u32),
    /// Let every write find the disk full, or none.
    #[cfg(test)]
    NoSpace(bool),
}

/// What is decided and committed.
#[derive(Debug)]
pub(super) enum Job {
    /// Entries of a lane.
    Batch(Batch),
    /// Anything else that somebody wants.
    Control(Control, OwnedSemaphorePermit),
    /// The reader met rows that make no sense, and waits for `done`; so there is only ever one of these.
    Damaged { place: Place, rows: Vec<(Sequence, String)>, done: oneshot::Sender<()> },
}

/// Where rows are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Stream(usize),
    Queue(SessionId),
}

/// Entries on their way, with their share of the queue.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) lane: Arc<LaneShared>,
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: usize,
    /// Given back when the batch is decided.
    pub(super) room: OwnedSemaphorePermit,
    /// The lane's own; travels back with the batch.
    pub(super) slot: OwnedSemaphorePermit,
}

/// Small things for the writer.
#[derive(Debug)]
pub(super) enum Control {
    Settle {
        stream: usize,
        runs: Vec<Run>,
    },
    /// `id`: set by the writer.
    SaveSession {
        session: Box<SessionRecord>,
        id: Option<SessionId>,
        done: oneshot::Sender<SessionId>,
    },
    /// With the time at which it was said.
    SessionLeft {
        session: SessionId,
        sent: Sequence,
        at: u64,
    },
    ForgetWill {
        session: SessionId,
        done: oneshot::Sender<()>,
    },
    DeleteSession {
        client_id: ByteString,
        done: oneshot::Sender<()>,
    },
    ForgetRetained {
        expired: Vec<(TopicName, u64)>,
        done: oneshot::Sender<()>,
    },
    /// `outcome`: set by the writer.
    Order {
        order: Order,
        outcome: Option<Done>,
        done: oneshot::Sender<Done>,
    },
    /// `outcome`: set by the writer.
    Import {
        import: Box<Import>,
        outcome: Option<Result<Imported, OrderError>>,
        done: oneshot::Sender<Result<Imported, OrderError>>,
    },
    Flush {
        done: oneshot::Sender<()>,
    },
}

/// What the reader is asked for.
#[derive(Debug)]
pub(super) enum Query {
    Read {
        stream: usize,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
        reply: oneshot::Sender<Vec<Stored>>,
    },
    Sessions {
        reply: oneshot::Sender<Vec<RestoredSession>>,
    },
    ReadSession {
        session: SessionId,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
        reply: oneshot::Sender<Vec<SessionMessage>>,
    },
    Retained {
        reply: oneshot::Sender<Vec<RetainedMessage>>,
    },
    FindKept {
        stream: usize,
        since: i64,
        until: i64,
        reply: oneshot::Sender<Holes>,
    },
    ReadKept {
        stream: usize,
        run: u64,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
        reply: oneshot::Sender<Vec<Stored>>,
    },
    /// What is kept for replay, whatever replay runs.
    LookKept {
        stream: usize,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
        reply: oneshot::Sender<Vec<Stored>>,
    },
    Dead {
        filter: DeadFilter,
        reply: oneshot::Sender<Vec<DeadLetter>>,
    },
    /// Close the connection and keep what is asked until `Resume`; `closed` then.
    Suspend {
        closed: SyncSender<()>,
    },
    /// Go on with this connection.
    Resume {
        connection: Box<Connection>,
        epoch: u64,
    },
    End,
}

/// A query and its share of the reads, which it keeps until it is answered: so many, and no more, are anywhere between the callers
/// and the reader, also of those whose callers have given up.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) query: Query,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// Places of the reader's queue: for all reads, and for what comes without a permit.
pub(super) const ASKED_PLACES: usize = READS_MAX + 4;

/// How tests let writes fail.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Every transaction fails when it begins, and opening too.
    NoWrite,
    /// The next commit fails after it is done, then as `NoWrite`.
    LostSync,
    /// The next commit finds no space for the index of the log.
    FullIndex,
    /// Mending works, and the first transaction after a salvage fails.
    AfterSalvage,
}

/// Whether the store works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// Closed in order.
    Closed,
    /// Poisoned, with the cause.
    Failed(Arc<str>),
}

/// What is published of a session's queue after each commit that touches it.
#[derive(Debug)]
pub(super) struct QueueDoor {
    /// The last message that was sent to the client, as the broker says.
    pub(super) sent: AtomicU64,
    /// The books and limits as of the last commit.
    pub(super) published: Mutex<(QueueBooks, QueueLimits)>,
}

/// The store as of the last measurement.
#[derive(Debug, Clone, Default)]
pub(super) struct Glance {
    pub(super) bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) last_commit: Option<Instant>,
    pub(super) refusing: Option<Refusal>,
    /// What is the matter while nothing can be stored.
    pub(super) suspended: Option<Suspended>,
    /// What has been found of damage so far.
    pub(super) alarms: Alarms,
}

impl Suspended {
    /// For people: what is the matter, what that means, what is done about it.
    pub(super) fn sentence(&self) -> String {
        let (cause, retry) = (&self.cause, self.retry.as_secs().max(1));
        format!("{cause}; messages are refused until that is over, tried again every {retry} s")
    }
}

/// A disk in trouble.
#[derive(Debug, Clone)]
pub(super) struct Suspended {
    /// In words.
    pub(super) cause: String,
    /// How long until it is tried again, at most.
    pub(super) retry: Duration,
}

/// Shared by all handles, lanes and threads of a store.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: SyncSender<Work>,
    pub(super) queries: SyncSender<Asked>,
    pub(super) bytes: Arc<Semaphore>,
    pub(super) controls: Arc<Semaphore>,
    pub(super) reads: Arc<Semaphore>,
    pub(super) doors: Doors,
    /// Of all sessions that have not ended.
    pub(super) queues: RwLock<HashMap<SessionId, Arc<QueueDoor>>>,
    /// All queues together, with those of ended sessions, as of the last commit.
    pub(super) queue_totals: Mutex<Counts>,
    pub(super) dead: Mutex<DeadStats>,
    pub(super) boots: RwLock<Boots>,
    pub(super) glance: Mutex<Glance>,
    pub(super) state: watch::Sender<State>,
    /// Changes whenever there may be room for what was held.
    pub(super) room: watch::Sender<u64>,
    /// Moved by the writer whenever it has gone round, at least once a second while it works.
    pub(super) heartbeat: Arc<AtomicU64>,
    /// What the writer is waiting for the disk with.
    pub(super) disk: DiskWait,
    /// How often what is stored has been salvaged while running.
    pub(super) salvages: watch::Sender<u64>,
    #[cfg(test)]
    pub(super) fault: Mutex<Option<Fault>>,
}

/// The lock's content, also when a thread panicked with it: all that is under our locks is replaced whole.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn door(&self, stream: StreamId) -> Option<Arc<Door>> {
        self.doors.of(stream)
    }

    /// Why nothing works any more; `Closed` too for what came too late to be noticed.
    pub(super) fn ended(&self) -> StoreError {
        match &*self.state.borrow() {
            State::Failed(cause) => StoreError::Failed(cause.to_string()),
            State::Open | State::Closed => StoreError::Closed,
        }
    }

    /// Ends everything: nobody waits for the store any more. The first cause stays.
    pub(super) fn end(&self, state: State) {
        self.bytes.close();
        self.controls.close();
        self.reads.close();
        self.state.send_if_modified(|current| {
            let open = *current == State::Open;
            if open {
                *current = state;
            }
            open
        });
        self.announce_room();
    }

    pub(super) fn announce_room(&self) {
        self.room.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    /// Whether a message of so many bytes, refused for this reason, would be taken now.
    pub(super) fn has_room(&self, blocked: &Blocked) -> bool {
        if locked(&self.glance).refusing.is_some() {
            return false;
        }
        let bytes = blocked.bytes;
        match blocked.refusal {
            Refusal::StoreFull | Refusal::DiskFull | Refusal::Suspended => true,
            Refusal::StreamFull(_) => {
                blocked.streams.iter().filter_map(|&id| self.door(id)).all(|door| door.has_room(bytes))
            }
            Refusal::QueueFull => {
                blocked.sessions.iter().filter_map(|&id| self.queue(id)).all(|door| door.has_room(bytes))
            }
        }
    }

    pub(super) fn queue(&self, session: SessionId) -> Option<Arc<QueueDoor>> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner).get(&session).cloned()
    }
}

impl QueueDoor {
    pub(super) fn new(books: QueueBooks, limits: QueueLimits) -> Self {
        let sent = books.left.map_or(0, |left| left.sent);
        Self { sent: AtomicU64::new(sent), published: Mutex::new((books, limits)) }
    }

    pub(super) fn books(&self) -> QueueBooks {
        locked(&self.published).0
    }

    fn has_room(&self, bytes: u64) -> bool {
        let (books, limits) = *locked(&self.published);
        limits.when_full != WhenFull::Reject || books.fit(limits, bytes) != Fit::Full
    }
}

/// What keeps a lane from going on, for [`super::Lane::room`].
#[derive(Debug, Clone)]
pub(super) struct Blocked {
    pub(super) refusal: Refusal,
    pub(super) bytes: u64,
    pub(super) streams: SmallVec<[StreamId; 2]>,
    pub(super) sessions: SmallVec<[SessionId; 2]>,
}

impl Blocked {
    /// By what holds everybody.
    pub(super) fn wholly(refusal: Refusal) -> Self {
        Self { refusal, bytes: 0, streams: SmallVec::new(), sessions: SmallVec::new() }
    }
}
