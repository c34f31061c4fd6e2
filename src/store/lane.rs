//! Lanes: one client's bounded, ordered way into the store, and the way back.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytestring::ByteString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::PollSemaphore;

use super::{
    api::{Entry, OnRefusal, Outcome, Returned},
    handle::StoreError,
    shared::{BATCH_BYTES, Batch, Blocked, Job, QUEUE_BYTES_MAX, Shared, State, Work, locked},
};

/// Most batches of one lane that are on their way or came back and were not received yet.
pub const LANE_BATCHES_MAX: usize = 256;

/// What the lane and the writer both know of a lane.
#[derive(Debug)]
pub(super) struct LaneShared {
    pub(super) on_refusal: OnRefusal,
    pub(super) session: Option<ByteString>,
    returns: mpsc::Sender<Way>,
    /// Set by the writer when it hands entries back; cleared by [`Lane::room`].
    held: AtomicBool,
    /// The attempt at a transaction in which entries were held; counts only if that attempt was committed.
    held_in: AtomicU64,
    blocked: Mutex<Option<Blocked>>,
}

#[derive(Debug)]
struct Way {
    returned: Returned,
    _slot: OwnedSemaphorePermit,
}

impl LaneShared {
    pub(super) fn is_held(&self, attempt: u64) -> bool {
        self.held.load(Ordering::Acquire) || self.held_in.load(Ordering::Relaxed) == attempt
    }

    pub(super) fn hold(&self, attempt: u64, blocked: Blocked) {
        self.held_in.store(attempt, Ordering::Relaxed);
        *locked(&self.blocked) = Some(blocked);
    }

    /// Hands a decided batch back. The lane's own slots leave room for it; a lane that is gone wants nothing back.
    pub(super) fn give_back(&self, mut entries: Vec<Entry>, outcomes: &[Outcome], slot: OwnedSemaphorePermit) {
        let held = entries.split_off(outcomes.len().min(entries.len()));
        if !held.is_empty() {
            self.held.store(true, Ordering::Release);
        }
        let verdicts = entries.into_iter().zip(outcomes.iter().copied()).collect();
        let _ = self.returns.try_send(Way { returned: Returned { verdicts, held }, _slot: slot });
    }
}

pub(super) fn lane(shared: &Arc<Shared>, on_refusal: OnRefusal, session: Option<ByteString>) -> (Lane, Returns) {
    let (sender, receiver) = mpsc::channel(LANE_BATCHES_MAX);
    let lane = LaneShared {
        on_refusal,
        session,
        returns: sender,
        held: AtomicBool::new(false),
        held_in: AtomicU64::new(0),
        blocked: Mutex::new(None),
    };
    let lane = Lane {
        ours: Arc::new(lane),
        shared: Arc::clone(shared),
        slots: Arc::new(Semaphore::new(LANE_BATCHES_MAX)),
        bytes: PollSemaphore::new(Arc::clone(&shared.bytes)),
    };
    (lane, Returns { receiver, state: shared.state.subscribe() })
}

/// One client's way into the store: bounded, ordered.
#[derive(Debug)]
pub struct Lane {
    ours: Arc<LaneShared>,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    /// The store's `bytes`, with our place among those who wait for them.
    bytes: PollSemaphore,
}

impl Lane {
    /// Waits for room in the store's queue for a batch of this many bytes. Cancel safe. The permit does nothing until used.
    ///
    /// Lanes are served in the order in which they began to wait: whoever cancels and asks for as many bytes again has kept its place
    /// (and whoever never asks again gives it up with [`Lane::room`] or the lane).
    ///
    /// Waits too while [`LANE_BATCHES_MAX`] batches of this lane are on their way or lie unreceived in its [`Returns`].
    pub async fn reserve(&mut self, bytes: usize) -> Result<Permit<'_>, StoreError> {
        let wanted = bytes.saturating_add(BATCH_BYTES).min(QUEUE_BYTES_MAX);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| self.shared.ended())?;
        let room = poll_fn(|context| self.bytes.poll_acquire_many(context, wanted)).await;
        let room = room.ok_or_else(|| self.shared.ended())?;
        Ok(Permit { lane: self, bytes, room, slot })
    }

    /// Waits until entries that were handed back (`Returned::held`) have a chance to fit, and reopens the lane for them.
    /// Call it only when every submitted batch has come back. Cancel safe.
    pub async fn room(&mut self) -> Result<(), StoreError> {
        // May take hours; others can use what was waited for.
        self.bytes = PollSemaphore::new(Arc::clone(&self.shared.bytes));
        let mut changes = self.shared.room.subscribe();
        loop {
            changes.borrow_and_update();
            if *self.shared.state.borrow() != State::Open {
                return Err(self.shared.ended());
            }
            let blocked = locked(&self.ours.blocked).clone();
            if blocked.is_none_or(|blocked| self.shared.has_room(&blocked)) {
                *locked(&self.ours.blocked) = None;
                self.ours.held.store(false, Ordering::Release);
                return Ok(());
            }
            changes.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }
}

/// Room for one batch.
#[derive(Debug)]
pub struct Permit<'lane> {
    lane: &'lane mut Lane,
    bytes: usize,
    room: OwnedSemaphorePermit,
    slot: OwnedSemaphorePermit,
}

impl Permit<'_> {
    /// Submits a batch. Never waits, never fails: its [`Returned`] comes on the lane's [`Returns`].
    pub fn submit(self, batch: Vec<Entry>) {
        let lane = Arc::clone(&self.lane.ours);
        let batch = Batch { lane, entries: batch, bytes: self.bytes, room: self.room, slot: self.slot };
        // Refused only when the writer is gone; the lane's `Returns` says so.
        let _ = self.lane.shared.queue.try_send(Work::Job(Job::Batch(batch)));
    }
}

/// Where a lane's batches come back.
#[derive(Debug)]
pub struct Returns {
    receiver: mpsc::Receiver<Way>,
    state: watch::Receiver<State>,
}

impl Returns {
    /// The next batch that was decided; `None` when the store has failed or closed and nothing more will come. Cancel safe.
    pub async fn recv(&mut self) -> Option<Returned> {
        let way = tokio::select! {
            biased;
            way = self.receiver.recv() => way,
            // What was decided before the end is already in the channel.
            _ = self.state.wait_for(|state| *state != State::Open) => self.receiver.try_recv().ok(),
        };
        way.map(|way| way.returned)
    }
}
