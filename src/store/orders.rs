//! What an operator asks of the store, and its doors.

use std::sync::{Arc, atomic::AtomicBool};

use tokio::sync::{oneshot, watch};

use super::{
    api::{DEAD_LIST_MAX, DeadFilter, Position, Refusal, ReplayPosition, Run, Sequence, Stored, StreamId},
    books::Holes,
    dead::{DEAD_MESSAGES_MAX, PURGE_SLICE},
    handle::{Handle, StoreError},
    shared::{Control, Query, locked},
};
use crate::stats::{DeadLetter, DeadStats};

/// What the writer is asked to do; answered once it is committed.
#[derive(Debug)]
pub(super) enum Order {
    Pause { stream: usize, paused: bool },
    Purge { stream: usize, last: Sequence },
    Replay { stream: usize, ranges: Holes },
    StopReplay { stream: usize },
    Replayed { stream: usize, run: u64, runs: Vec<Run> },
    RetryDead { id: u64, gateway: String },
    PurgeDead { id: u64 },
    PurgeDeadSlice { stream: Option<usize> },
}

/// How many messages an order was about.
pub(super) type Done = Result<u64, OrderError>;

/// Why an order was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OrderError {
    /// The store no longer takes anything.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration does not have the stream any more, so it goes nowhere.
    #[error("the stream `{0}` is not configured any more: it goes nowhere")]
    NotConfigured(String),
    /// One replay of a stream at a time.
    #[error("a replay of the stream `{stream}` runs and has {left} messages left; stop it first, or wait")]
    ReplayRuns {
        /// The stream.
        stream: String,
        /// What is left, at most.
        left: u64,
    },
    /// Nothing of the time that was asked for is kept.
    #[error("the stream `{0}` keeps no messages of that time (`retain_sent`)")]
    NothingKept(String),
    /// There is nothing to stop.
    #[error("no replay of the stream `{0}` runs")]
    NoReplay(String),
    /// It was retried, purged or dropped, or never was.
    #[error("there is no dead letter {0}")]
    NoSuchDeadLetter(u64),
    /// A damaged row can be looked at and purged, but is no message any more.
    #[error("the dead letter {0} cannot be read as a message any more; it can only be purged")]
    Unreadable(u64),
    /// There is no room for it in its stream, the store or on the disk; it stays a dead letter.
    #[error("there is no room in the stream `{stream}`: {}", refusal.sentence())]
    NoRoom {
        /// Its stream.
        stream: String,
        /// What is full.
        refusal: Refusal,
    },
}

impl Handle {
    /// The stream of this name, configured or not.
    pub fn find(&self, name: &str) -> Option<StreamId> {
        let at = self.shared.doors.find(name)?;
        u32::try_from(at).ok().map(StreamId)
    }

    /// Whether there is a stream of this name, and the configuration has it.
    pub fn is_configured(&self, name: &str) -> bool {
        self.shared.doors.find(name).is_some_and(|place| self.shared.doors.at(place).is_configured())
    }

    /// The name of a stream.
    pub fn name_of(&self, stream: StreamId) -> Option<String> {
        self.shared.door(stream).map(|door| door.name.clone())
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
        let door = self.shared.door(stream).expect("stream ids come from the store");
        Arc::clone(&door.paused)
    }

    /// Everything in the backlog now leaves as purged; returns how many messages that were, when it is committed.
    ///
    /// Of a stream that is not configured any more, what is kept for replay goes too: nobody else could ever ask for it.
    /// Costs the same for one message and for a million: the rows are deleted later, in slices.
    pub async fn purge(&self, stream: StreamId) -> Result<u64, OrderError> {
        self.purge_to(stream, Sequence::MAX).await
    }

    /// The same up to and with the number `last`: what came in behind it stays, as does what is kept for replay.
    pub async fn purge_to(&self, stream: StreamId, last: Sequence) -> Result<u64, OrderError> {
        self.order(Order::Purge { stream: self.index(stream)?, last }).await
    }

    /// Sends kept messages again: those that were accepted from `since` on and before `until`, in milliseconds since 1970. Returns how many
    /// that are, at most, when it is committed; it goes on by itself, across restarts too.
    pub async fn replay(&self, stream: StreamId, since: i64, until: i64) -> Result<u64, OrderError> {
        let index = self.index(stream)?;
        let door = self.shared.doors.at(index);
        if !door.is_configured() {
            return Err(OrderError::NotConfigured(door.name.clone()));
        }
        let ranges = self.ask(|reply| Query::FindKept { stream: index, since, until, reply }).await?;
        self.order(Order::Replay { stream: index, ranges }).await
    }

    /// Ends the replay of a stream; returns how many messages it had left.
    pub async fn stop_replay(&self, stream: StreamId) -> Result<u64, OrderError> {
        self.order(Order::StopReplay { stream: self.index(stream)? }).await
    }

    /// Where the replay of a stream stands, and a way to wait for it to change.
    ///
    /// # Panics
    /// When there is no such stream.
    pub fn replay_position(&self, stream: StreamId) -> watch::Receiver<ReplayPosition> {
        let door = self.shared.door(stream).expect("stream ids come from the store");
        door.replay.subscribe()
    }

    /// Messages of a replay, as [`Handle::read`] gives those of the backlog. None where another replay runs meanwhile, or none.
    pub async fn read_kept(
        &self,
        stream: StreamId,
        run: u64,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let stream = self.index(stream)?;
        self.ask(|reply| Query::ReadKept { stream, run, from, max_messages, max_bytes, reply }).await
    }

    /// Messages of a stream that were forwarded and are kept for replay, oldest first, from `from` on; bounded as [`Handle::read`].
    pub async fn kept(
        &self,
        stream: StreamId,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let stream = self.index(stream)?;
        self.ask(|reply| Query::LookKept { stream, from, max_messages, max_bytes, reply }).await
    }

    /// Where a stream stands, and how many messages of its backlog have numbers from `from` on and before `end`, both of one moment.
    pub fn backlog_within(
        &self,
        stream: StreamId,
        from: Sequence,
        end: Sequence,
    ) -> Result<(Position, u64), StoreError> {
        let door = self.shared.doors.at(self.index(stream)?);
        let published = locked(&door.published);
        let books = &published.books;
        let (from, end) = (from.max(books.head), end.min(books.next));
        let count = end.saturating_sub(from) - books.holes.within(from, end.max(from));
        Ok((books.position(), count))
    }

    /// Says what became of messages of a replay, in order. What the upstream did not take is passed over: it has it already.
    /// Returns when queued, not when committed.
    pub async fn replayed(&self, stream: StreamId, run: u64, runs: Vec<Run>) -> Result<(), StoreError> {
        let order = Order::Replayed { stream: self.index(stream)?, run, runs };
        // Nobody waits for the answer, as nobody waits for that of `settle`.
        let (done, _) = oneshot::channel();
        self.control(Control::Order { order, outcome: None, done }).await
    }

    /// The figures of all dead letters.
    pub fn dead_stats(&self) -> DeadStats {
        *locked(&self.shared.dead)
    }

    /// Dead letters, oldest first, without their payloads; or one of them, whole.
    pub async fn dead(&self, filter: DeadFilter) -> Result<Vec<DeadLetter>, StoreError> {
        let filter = DeadFilter { limit: filter.limit.clamp(1, DEAD_LIST_MAX), ..filter };
        self.ask(|reply| Query::Dead { filter, reply }).await
    }

    /// Puts the message of a dead letter at the end of its stream, as a new one that says where it came from; `gateway` is the id in its `tg-id`.
    pub async fn retry_dead(&self, id: u64, gateway: &str) -> Result<(), OrderError> {
        self.order(Order::RetryDead { id, gateway: gateway.to_owned() }).await.map(|_| ())
    }

    /// Forgets a dead letter.
    pub async fn purge_dead(&self, id: u64) -> Result<(), OrderError> {
        self.order(Order::PurgeDead { id }).await.map(|_| ())
    }

    /// Forgets all dead letters, or those of one stream; returns how many that were. In slices: what others want is done in between.
    pub async fn purge_all_dead(&self, stream: Option<StreamId>) -> Result<u64, OrderError> {
        let stream = stream.map(|stream| self.index(stream)).transpose()?;
        let mut sum = 0;
        for _ in 0..=DEAD_MESSAGES_MAX / PURGE_SLICE {
            let count = self.order(Order::PurgeDeadSlice { stream }).await?;
            sum += count;
            if count < PURGE_SLICE {
                break;
            }
        }
        Ok(sum)
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
