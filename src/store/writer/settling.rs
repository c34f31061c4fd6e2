//! Settlements ride together: what the upstream acknowledged is written once a second where nothing hangs on it.
//!
//! A settlement changes the row of its stream, a page of its own in the log beside that of the messages. Written with every commit it would make a
//! lone message cost half as much again, and by itself a sync more. So it waits for the tick (1 s), for [`MESSAGES_MAX`] settled messages, for any other
//! control (their order is kept), or for the moment when its room is needed: whatever the round brings must fit into every stream and the
//! store without it, and nobody may be waiting for room. A crash forgets what waits: up to a second of forwarded messages is sent again under the same ids.

use std::time::Instant;

use super::{Round, Writer};
use crate::store::shared::{Control, Job};

/// Settled messages from which on they are written without waiting.
const MESSAGES_MAX: u64 = 4096;

/// Settlements that may wait, half of what may be queued at all.
const JOBS_MAX: usize = crate::store::shared::CONTROLS_MAX / 2;

/// What waits, in order.
#[derive(Debug, Default)]
pub(super) struct PutOff {
    jobs: Vec<Job>,
    messages: u64,
}

impl PutOff {
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// All of them.
    pub(super) fn into_jobs(self) -> Vec<Job> {
        self.jobs
    }

    fn add(&mut self, job: Job) {
        if let Job::Control(Control::Settle { runs, .. }, _) = &job {
            for run in runs {
                self.messages = self.messages.saturating_add(run.last.saturating_sub(run.first).saturating_add(1));
            }
        }
        self.jobs.push(job);
    }
}

impl Writer<'_> {
    /// Takes the settlements out of a round that can do without them, or puts those that waited before everything else.
    pub(super) fn put_off_settlements(&mut self, round: &mut Round) {
        let (settlements, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut round.jobs).into_iter().partition(is_settlement);
        for job in settlements {
            self.put_off.add(job);
        }
        let full = self.put_off.messages >= MESSAGES_MAX || self.put_off.jobs.len() >= JOBS_MAX;
        let asked = round.due || round.last.is_some() || others.iter().any(wants_order);
        if full || asked || !self.has_room_without(round) {
            round.jobs = std::mem::take(&mut self.put_off).jobs;
        }
        round.jobs.extend(others);
    }

    /// Whether all of a round fits everywhere as things stand, and nobody waits for room.
    fn has_room_without(&mut self, round: &Round) -> bool {
        let (entries, bytes) = (round.entries as u64, round.bytes as u64);
        let fits = |max: Option<u64>, held: u64, more: u64| max.is_none_or(|max| held.saturating_add(more) <= max);
        let streams = self.transaction.streams.iter().all(|stream| {
            fits(stream.limits.max_messages, stream.books.backlog_messages(), entries)
                && fits(stream.limits.max_bytes, stream.books.backlog_bytes(), bytes)
        });
        streams
            && self.transaction.shared.room.receiver_count() == 0
            && self.space.refusing(Instant::now()).is_none()
            && !self.space.is_full_with(bytes)
    }
}

fn is_settlement(job: &Job) -> bool {
    matches!(job, Job::Control(Control::Settle { .. }, _))
}

/// Whether a job must find everything settled that was settled before it.
fn wants_order(job: &Job) -> bool {
    match job {
        Job::Batch(_) | Job::Control(Control::SessionLeft { .. } | Control::Settle { .. }, _) => false,
        Job::Control(..) | Job::Damaged { .. } => true,
    }
}
