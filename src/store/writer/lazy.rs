//! What may be written later: steps that nobody waits for, and when clients left. It rides with the next commit.

use std::collections::HashMap;

use crate::store::{
    api::{Entry, Sequence},
    sessions::{SessionId, Step},
    shared::{Control, Job},
};

/// Steps that wait from which on a commit of their own is due.
const STEPS_MAX: u64 = 4096;

/// Most runs of steps that wait while nothing can be written, 2 MiB. What comes then is forgotten, as by a crash: the message is
/// delivered again.
const RUNS_MAX: usize = 1 << 16;

/// Neighbouring messages that took the same step.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepRun {
    pub(super) session: SessionId,
    pub(super) first: Sequence,
    pub(super) last: Sequence,
    pub(super) step: Step,
}

/// What waits, in order.
#[derive(Debug, Default)]
pub(super) struct Lazy {
    runs: Vec<StepRun>,
    /// The last run of each session.
    last: HashMap<SessionId, usize>,
    steps: u64,
    /// The last message sent, and the monotonic time of leaving.
    left: HashMap<SessionId, (Sequence, u64)>,
}

impl Lazy {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.left.is_empty()
    }

    /// Whether so much waits that it is to be written now.
    pub(super) fn is_due(&self) -> bool {
        self.steps >= STEPS_MAX || self.left.len() as u64 >= STEPS_MAX
    }

    /// Adds a step; false where it had to be forgotten.
    pub(super) fn step(&mut self, session: SessionId, seq: Sequence, step: Step) -> bool {
        let last = self.last.get(&session).and_then(|at| self.runs.get_mut(*at));
        if let Some(run) = last.filter(|run| run.step == step && run.last + 1 == seq) {
            run.last = seq;
        } else {
            if self.runs.len() >= RUNS_MAX {
                return false;
            }
            self.last.insert(session, self.runs.len());
            self.runs.push(StepRun { session, first: seq, last: seq, step });
        }
        self.steps += 1;
        true
    }

    pub(super) fn leave(&mut self, session: SessionId, sent: Sequence, at: u64) {
        self.left.insert(session, (sent, at));
    }

    pub(super) fn runs(&self) -> &[StepRun] {
        &self.runs
    }

    pub(super) fn left(&self) -> impl Iterator<Item = (SessionId, Sequence, u64)> + '_ {
        self.left.iter().map(|(session, (sent, at))| (*session, *sent, *at))
    }

    /// It is written.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Whether all of a job may be written later.
pub(super) fn is_lazy(job: &Job) -> bool {
    match job {
        Job::Batch(batch) => batch.entries.iter().all(|entry| match entry {
            Entry::Step { step, .. } => *step != Step::Received,
            Entry::Publish(_) | Entry::Release { .. } | Entry::Handover(_) => false,
        }),
        Job::Control(Control::SessionLeft { .. }, _) => true,
        Job::Control(..) | Job::Damaged { .. } => false,
    }
}
