//! Session queues: what becomes of the copies of a message, and the steps of their delivery.

use std::sync::atomic::Ordering;

use super::{
    Mode, Writer,
    decide::Decision,
    queues::{QueuedRow, first_row},
};
use crate::{
    message::Message,
    store::{
        api::{OnRefusal, Outcome, Refusal, Sequence, WhenFull},
        books::Fit,
        failure::Failure,
        lane::LaneShared,
        queue::{self, Drop, Left},
        row,
        sessions::{SessionCopy, SessionId, Step},
        shared::Blocked,
    },
};

/// Most messages that one message drops from a queue whose limits were lowered.
const DROPS_MAX: usize = 1024;

impl Writer<'_> {
    /// Why a message cannot be accepted for the sake of a queue, if so. A queue that drops refuses nothing.
    pub(super) fn queue_refusal(
        &self,
        copies: &[SessionCopy],
        bytes: u64,
        can_be_told: bool,
        store_full: bool,
    ) -> Option<Refusal> {
        copies.iter().find_map(|copy| {
            let queue = self.transaction.queues.live(copy.session)?;
            match (queue.limits.when_full, queue.books.fit(queue.limits, bytes)) {
                (WhenFull::Reject, Fit::Full) => Some(Refusal::QueueFull),
                (WhenFull::Reject, Fit::Never) if can_be_told => Some(Refusal::QueueFull),
                (WhenFull::Reject, Fit::Fits) if store_full => Some(Refusal::StoreFull),
                (WhenFull::DropOldest, Fit::Fits | Fit::Full) if store_full && queue.books.counts.messages == 0 => {
                    Some(Refusal::StoreFull)
                }
                _ => None,
            }
        })
    }

    /// Appends a copy to the queue of its session, or drops and counts it as that says.
    pub(super) fn take_copy(
        &mut self,
        copy: &mut SessionCopy,
        message: &Message,
        properties: Option<&[u8]>,
        bytes: u64,
    ) -> Result<(), Failure> {
        copy.seq = None;
        let id = copy.session;
        let store_full = self.space.store_full(bytes);
        let Some(queue) = self.transaction.queues.live(id) else { return Ok(()) };
        let dropped = match (queue.books.fit(queue.limits, bytes), queue.limits.when_full) {
            (Fit::Never, _) => Some(Drop::TooLarge),
            (Fit::Full, WhenFull::DropNewest) => Some(Drop::Newest),
            (Fit::Fits, WhenFull::DropNewest) if store_full => Some(Drop::Newest),
            (Fit::Full, WhenFull::DropOldest) => self.drop_oldest_queued(id, bytes, store_full)?,
            (Fit::Fits, WhenFull::DropOldest) if store_full => self.drop_oldest_queued(id, bytes, true)?,
            (Fit::Fits | Fit::Full, _) => None,
        };
        if let Some(reason) = dropped {
            if let Some(queue) = self.transaction.queues.changing(id) {
                queue.books.counts.queued += 1;
                queue.books.counts.drop(reason, 1);
            }
            return Ok(());
        }
        copy.seq = self.append_queued(copy, message, properties, bytes)?;
        Ok(())
    }

    fn append_queued(
        &mut self,
        copy: &SessionCopy,
        message: &Message,
        properties: Option<&[u8]>,
        bytes: u64,
    ) -> Result<Option<Sequence>, Failure> {
        self.transaction.begin()?;
        let (boot, at) = (self.boot, self.transaction.now.mono_ms);
        let Some(queue) = self.transaction.queues.appending(copy.session) else { return Ok(None) };
        let seq = queue.books.append(bytes);
        let end = queue.books.end_offset;
        let ids = copy.subscription_ids.as_deref().map(queue::encode_ids);
        let insert = &mut self.transaction.queues.insert;
        insert.raw_bind_parameter(1, queue::key(copy.session, seq))?;
        insert.raw_bind_parameter(2, end.cast_signed())?;
        insert.raw_bind_parameter(3, bytes.cast_signed())?;
        insert.raw_bind_parameter(4, boot)?;
        insert.raw_bind_parameter(5, at.cast_signed())?;
        insert.raw_bind_parameter(6, queue::delivery_flags(row::flags(message), copy))?;
        insert.raw_bind_parameter(7, ids)?;
        insert.raw_bind_parameter(8, &*message.client)?;
        insert.raw_bind_parameter(9, message.topic.as_str())?;
        insert.raw_bind_parameter(10, properties)?;
        insert.raw_bind_parameter(11, &*message.payload)?;
        insert.raw_execute()?;
        self.transaction.inserted += 1;
        self.space.note_appended(bytes);
        Ok(Some(seq))
    }

    /// Drops the oldest messages that were not sent yet until one of so many bytes fits; in a full store until as much has gone
    /// as comes. What is in flight is spared: then the new message is the oldest that can be dropped, and the reason is returned.
    fn drop_oldest_queued(&mut self, id: SessionId, bytes: u64, store_full: bool) -> Result<Option<Drop>, Failure> {
        let mut paid = 0;
        for _ in 0..DROPS_MAX {
            let Some(queue) = self.transaction.queues.live(id) else { return Ok(None) };
            let fits = queue.books.fit(queue.limits, bytes) == Fit::Fits;
            if fits && (!store_full || paid >= bytes) {
                return Ok(None);
            }
            let from = queue.books.head.max(queue.door.sent.load(Ordering::Relaxed) + 1);
            let Some(row) = first_row(self.transaction.connection, id, from, queue.books.next)? else {
                return Ok(Some(Drop::Oldest));
            };
            if row.received {
                // Was sent before a crash.
                queue.door.sent.fetch_max(row.seq, Ordering::Relaxed);
                continue;
            }
            paid += row.bytes;
            self.leave(id, row)?;
            if let Some(queue) = self.transaction.queues.changing(id) {
                queue.books.counts.drop(Drop::Oldest, 1);
            }
        }
        Ok(None)
    }

    pub(super) fn decide_step(
        &mut self,
        (session, seq, step): (SessionId, Sequence, Step),
        lane: &LaneShared,
        mode: Mode,
    ) -> Result<Decision, Failure> {
        if mode != Mode::NoWrite {
            self.step(session, seq, step)?;
        } else if step == Step::Received {
            let refusal = Refusal::DiskFull;
            return Ok(match lane.on_refusal {
                OnRefusal::Report => Decision::Done(Outcome::Refused(refusal)),
                OnRefusal::Hold => Decision::Hold(Blocked::wholly(refusal)),
            });
        } else {
            self.put_off(session, seq, step);
        }
        Ok(Decision::Done(Outcome::Stepped))
    }

    /// Remembers a step for later. Where too many wait for a full disk it is forgotten, as by a crash.
    pub(super) fn put_off(&mut self, session: SessionId, seq: Sequence, step: Step) {
        if self.transaction.queues.live(session).is_some() && !self.transaction.lazy.step(session, seq, step) {
            tracing::debug!(session = session.0, seq, "a step of a delivery is forgotten: the disk is full");
        }
    }

    /// Writes what was put off; forgotten once it is committed.
    pub(super) fn catch_up_lazy(&mut self) -> Result<(), Failure> {
        if self.transaction.lazy.is_empty() {
            return Ok(());
        }
        let lazy = std::mem::take(&mut self.transaction.lazy);
        let done = self.write_lazy(&lazy);
        self.transaction.lazy = lazy;
        self.transaction.lazy_written = true;
        done
    }

    fn write_lazy(&mut self, lazy: &super::lazy::Lazy) -> Result<(), Failure> {
        for run in lazy.runs() {
            for seq in run.first..=run.last {
                self.step(run.session, seq, run.step)?;
            }
        }
        for (session, sent, at) in lazy.left() {
            self.session_left(session, sent, at);
        }
        Ok(())
    }

    pub(super) fn session_left(&mut self, session: SessionId, sent: Sequence, at: u64) {
        if self.transaction.queues.live(session).is_none() {
            return;
        }
        let boot = self.boot;
        if let Some(queue) = self.transaction.queues.changing(session) {
            queue.door.sent.fetch_max(sent, Ordering::Relaxed);
            queue.books.left = Some(Left { boot, at, sent });
        }
    }

    /// One step of a delivery. Of a message that is not there (dropped, session gone) it changes nothing.
    pub(super) fn step(&mut self, session: SessionId, seq: Sequence, step: Step) -> Result<(), Failure> {
        let Some(queue) = self.transaction.queues.live(session) else { return Ok(()) };
        let head = queue.books.head;
        if !(head..queue.books.next).contains(&seq) {
            return Ok(());
        }
        let Some(row) = first_row(self.transaction.connection, session, seq, seq + 1)? else {
            return if seq == head { Err(missing(session, seq)) } else { Ok(()) };
        };
        match step {
            Step::Received if row.received => return Ok(()),
            Step::Received => return self.receive(session, row),
            Step::Delivered | Step::Expired | Step::TooLarge => self.leave(session, row)?,
        }
        let Some(queue) = self.transaction.queues.changing(session) else { return Ok(()) };
        let counts = &mut queue.books.counts;
        match step {
            Step::Received => {}
            Step::Delivered => counts.delivered += 1,
            Step::Expired => counts.expired += 1,
            Step::TooLarge => counts.drop(Drop::TooLarge, 1),
        }
        Ok(())
    }

    /// Empties a row whose PUBREC came: only its place is still needed.
    fn receive(&mut self, session: SessionId, row: QueuedRow) -> Result<(), Failure> {
        self.transaction.begin()?;
        let connection = self.transaction.connection;
        let id = queue::key(session, row.seq);
        connection.prepare_cached(queue::RECEIVE_QUEUED)?.execute((id, queue::RECEIVED))?;
        if let Some(queue) = self.transaction.queues.changing(session) {
            queue.books.counts.bytes = queue.books.counts.bytes.saturating_sub(row.bytes);
        }
        Ok(())
    }

    /// Takes a row out of its queue: the oldest by moving the head, for rows are deleted many at a time; others at once.
    fn leave(&mut self, session: SessionId, row: QueuedRow) -> Result<(), Failure> {
        self.transaction.begin()?;
        let connection = self.transaction.connection;
        let Some(queue) = self.transaction.queues.changing(session) else { return Ok(()) };
        if queue.books.leave(row.seq, row.bytes, row.end) {
            let one = (queue::key(session, row.seq), queue::key(session, row.seq + 1));
            connection.prepare_cached(queue::DELETE_QUEUED)?.execute(one)?;
        } else if queue.books.holes() > 0 {
            let (head, next) = (queue.books.head, queue.books.next);
            let oldest = first_row(connection, session, head, next)?.ok_or_else(|| missing(session, head))?;
            queue.books.head = oldest.seq;
        }
        Ok(())
    }

    /// Drops a row that makes no sense.
    pub(super) fn drop_damaged(&mut self, session: SessionId, seq: Sequence, detail: &str) -> Result<(), Failure> {
        let Some(queue) = self.transaction.queues.live(session) else { return Ok(()) };
        if !(queue.books.head..queue.books.next).contains(&seq) {
            return Ok(());
        }
        let Some(row) = first_row(self.transaction.connection, session, seq, seq + 1)? else { return Ok(()) };
        tracing::error!(session = session.0, seq, error = detail, "a queued message cannot be read and was dropped");
        self.leave(session, row)?;
        if let Some(queue) = self.transaction.queues.changing(session) {
            queue.books.counts.drop(Drop::Damaged, 1);
        }
        Ok(())
    }
}

fn missing(session: SessionId, seq: Sequence) -> Failure {
    Failure::Damaged(format!("message {seq} of the queue {} is missing", session.0))
}
