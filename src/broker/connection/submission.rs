//! What came from one client, on its way into the store and back.

use std::{collections::VecDeque, future::Future, pin::Pin};

use super::arrivals::Arrivals;
use crate::intake::{Entry, Lane, Outcome, Returned, Returns, StoreError};

/// What came from the client and is on its way through the store.
pub(super) struct Inbound {
    pub(super) arrivals: Arrivals,
    /// Made at the first message that needs it: most subscribers never do. Not here while `submitting` has it.
    pub(super) lane: Option<Lane>,
    pub(super) returns: Option<Returns>,
    /// Decoded and not submitted.
    pub(super) batch: Vec<Entry>,
    pub(super) batch_bytes: usize,
    /// A batch that waits for room in the store's queue. Kept from one event to the next, for its place there is in
    /// the order of coming.
    pub(super) submitting: Option<Submitting>,
    /// Decided by the store, and not acted on while subscribers catch up.
    pub(super) verdicts: VecDeque<(Entry, Outcome)>,
    /// Handed back by the store, to be submitted again when there is room.
    pub(super) held: Vec<Entry>,
    /// Bytes of messages that are decoded and not decided.
    pub(super) undecided_bytes: usize,
    /// Batches submitted and not returned.
    pub(super) submitted: usize,
    /// QoS 1 and 2 publishes without PUBACK or PUBREC.
    pub(super) unacknowledged: usize,
    /// The client's use of our Receive Maximum (MQTT 5, section 4.9).
    pub(super) quota_used: usize,
    /// Whether the store remembers the session: it outlives the connection, or has outlived an earlier one.
    pub(super) persistent: bool,
}

/// A batch on its way into the store's queue.
pub(super) struct Submitting {
    /// Gives the lane back once the batch is there.
    pub(super) work: Pin<Box<dyn Future<Output = Result<Lane, StoreError>> + Send>>,
    /// Packet ids that the batch releases.
    pub(super) releases: Vec<u16>,
}

impl Inbound {
    /// Begins to submit what was decoded, unless entries were handed back: those go first.
    pub(super) fn begin_submit(&mut self) {
        if self.batch.is_empty() || !self.held.is_empty() || self.submitting.is_some() {
            return;
        }
        let mut lane = self.lane.take().expect("a batch is begun with a lane");
        let batch = std::mem::take(&mut self.batch);
        let bytes = std::mem::take(&mut self.batch_bytes);
        let releases = batch.iter().filter_map(released).collect();
        let work = async move {
            lane.reserve(bytes).await?.submit(batch);
            Ok(lane)
        };
        self.submitting = Some(Submitting { work: Box::pin(work), releases });
    }

    /// The batch is in the store's queue.
    pub(super) fn submitted(&mut self, lane: Lane) {
        self.submitting = None;
        self.lane = Some(lane);
        self.submitted += 1;
    }

    /// Packet ids of which the store does not know yet that they are released.
    pub(super) fn unsubmitted_releases(&self) -> impl Iterator<Item = u16> {
        let submitting = self.submitting.iter().flat_map(|submitting| submitting.releases.iter().copied());
        submitting.chain(self.held.iter().chain(&self.batch).filter_map(released))
    }
}

/// The packet id that an entry releases.
fn released(entry: &Entry) -> Option<u16> {
    match entry {
        Entry::Release { packet_id } => Some(*packet_id),
        Entry::Publish(_) | Entry::Step { .. } | Entry::Handover(_) => None,
    }
}

pub(super) async fn submission(submitting: &mut Option<Submitting>) -> Result<Lane, StoreError> {
    match submitting {
        Some(submitting) => submitting.work.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Waits for room for what was held.
pub(super) async fn room(lane: &mut Option<Lane>) -> Result<(), StoreError> {
    lane.as_mut().expect("what was held was submitted on a lane").room().await
}

pub(super) async fn returned(returns: &mut Option<Returns>) -> Option<Returned> {
    returns.as_mut().expect("what was submitted was submitted on a lane").recv().await
}
