//! Going on after a suspension: everybody sees the books as they were loaded anew, and what was in doubt is settled.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use bytestring::ByteString;
use rusqlite::{Connection, OptionalExtension};

use super::desk::Desk;
use crate::store::{
    api::Outcome,
    books::Books,
    metrics::Metrics,
    opening::Loaded,
    queue::QueueBooks,
    sessions::{SessionId, is_reserved},
    shared::{Asked, Job, Query, QueueDoor, Shared, locked},
};

/// What a commit that may be there would have left behind.
#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) mark: Mark,
    /// What it entered of what the doors had counted: `offline` and `qos0_full` of these streams.
    pub(super) entered: Vec<(usize, (u64, u64))>,
}

/// By what it is known: a transaction is there as a whole or not at all.
#[derive(Debug)]
pub(super) enum Mark {
    /// These are the books of the stream then.
    Stream(usize, Books),
    /// These are the books of the queue then.
    Queue(SessionId, QueueBooks),
    /// This packet id is remembered then.
    Received(ByteString, u16),
    /// By nothing; all that was in it can be done twice.
    Nothing,
}

/// A commit that may be there.
#[derive(Debug)]
pub(super) struct Doubt {
    /// The outcomes of the jobs, in order, should it be there.
    pub(super) outcomes: Vec<Vec<Outcome>>,
    pub(super) evidence: Evidence,
}

impl Mark {
    fn is_in(&self, loaded: &Loaded) -> bool {
        match self {
            Self::Stream(index, books) => loaded.streams.get(*index).is_some_and(|(_, found)| found == books),
            Self::Queue(id, books) => loaded.sessions.queues.iter().any(|(found, of, _)| found == id && of == books),
            Self::Received(session, packet_id) => is_received(&loaded.connection, session, *packet_id),
            Self::Nothing => false,
        }
    }
}

fn is_received(connection: &Connection, session: &str, packet_id: u16) -> bool {
    let found = connection
        .query_row("SELECT 1 FROM received WHERE session = ?1 AND packet_id = ?2", (session, packet_id), |_| Ok(()))
        .optional();
    matches!(found, Ok(Some(())))
}

/// Shows the books of what was loaded.
pub(super) fn publish(shared: &Shared, metrics: &Metrics, loaded: &Loaded) {
    *shared.boots.write().unwrap_or_else(PoisonError::into_inner) = loaded.boots.clone();
    for (door, (_, books)) in shared.doors.all().iter().zip(&loaded.streams) {
        locked(&door.published).books.clone_from(books);
        door.paused.store(books.operated.paused, Ordering::Relaxed);
        door.replay.send_replace(books.operated.replay_position());
        door.position.send_replace(books.position());
    }
    let mut totals = loaded.sessions.ledger.ended;
    let mut queues = HashMap::with_capacity(loaded.sessions.queues.len());
    for (id, books, session) in &loaded.sessions.queues {
        if !session.as_ref().is_some_and(|session| is_reserved(&session.client_id)) {
            totals.add(books.counts);
        }
        let Some(session) = session else { continue };
        let door = shared.queue(*id).unwrap_or_else(|| Arc::new(QueueDoor::new(*books, session.limits)));
        *locked(&door.published) = (*books, session.limits);
        queues.insert(*id, door);
    }
    *shared.queues.write().unwrap_or_else(PoisonError::into_inner) = queues;
    *locked(&shared.queue_totals) = totals;
    metrics.queues.show(&totals);
    *locked(&shared.dead) = loaded.dead;
    metrics.dead.show(&loaded.dead);
    let mut glance = locked(&shared.glance);
    let checked = glance.alarms.checked;
    glance.alarms = crate::store::alarms::Alarms { checked, ..loaded.alarms };
    metrics.alarms.show(&glance.alarms);
}

/// Gives the outcomes of what was in doubt where it is there after all; else it is decided again, before anything that came later.
pub(super) fn settle_doubt(desk: &mut Desk, loaded: &Loaded) {
    let failed = std::mem::take(&mut desk.kept.failed);
    let doubt = desk.kept.doubt.take().filter(|doubt| doubt.evidence.mark.is_in(loaded));
    let Some(Doubt { outcomes, evidence }) = doubt else {
        desk.kept.deferred.splice(0..0, failed);
        return;
    };
    for (index, (offline, qos0_full)) in evidence.entered {
        let door = desk.shared.doors.at(index);
        door.offline.fetch_sub(offline, Ordering::Relaxed);
        door.qos0_full.fetch_sub(qos0_full, Ordering::Relaxed);
    }
    let mut again = Vec::new();
    let mut outcomes = outcomes.into_iter();
    for job in failed {
        let outcome = outcomes.next();
        match (job, outcome) {
            (Job::Batch(batch), Some(outcomes)) => {
                batch.lane.give_back(batch.entries, &outcomes, batch.slot);
                drop(batch.room);
            }
            (Job::Control(control, permit), Some(_)) => {
                control.done();
                drop(permit);
            }
            (job, _) => again.push(job),
        }
    }
    desk.kept.deferred.splice(0..0, again);
}

/// Gives the reader its connection; what was asked meanwhile is answered now.
pub(super) fn wake_reader(shared: &Shared, connection: Connection, epoch: u64) {
    let query = Query::Resume { connection: Box::new(connection), epoch };
    // A place is kept for it; the reader is gone only when the whole store ends.
    let _ = shared.queries.send(Asked { query, permit: None });
}
