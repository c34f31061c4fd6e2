//! What the writer gathers for one transaction.

use crate::store::{
    api::Entry,
    configure::Configure,
    failure::Failure,
    shared::{Job, Work},
};

/// Most bytes of messages in one transaction, more or less one batch.
const ROUND_BYTES_MAX: usize = 1 << 20;

/// Most entries in one transaction, more or less one batch.
const ROUND_ENTRIES_MAX: usize = 4096;

/// Most batches and controls in one transaction.
const ROUND_JOBS_MAX: usize = 2048;

/// What is decided together.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) jobs: Vec<Job>,
    pub(super) bytes: usize,
    pub(super) entries: usize,
    pub(super) last: Option<Last>,
    /// What was put off must not wait any longer.
    pub(super) due: bool,
    /// What holds from the next round on.
    pub(super) configure: Option<Configure>,
    /// The reader has failed meanwhile.
    pub(super) trouble: Option<(Failure, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Close,
    #[cfg(test)]
    Abandon,
}

impl Round {
    pub(super) fn push(&mut self, work: Work) {
        match work {
            Work::Close => self.last = Some(Last::Close),
            #[cfg(test)]
            Work::Abandon => self.last = Some(Last::Abandon),
            #[cfg(test)]
            Work::MaxPages(_) | Work::NoSpace(_) => unreachable!("tests set it while nothing else is queued"),
            Work::Configure(configure) => self.configure = Some(configure),
            Work::Trouble { failure, epoch } => self.trouble = Some((failure, epoch)),
            Work::Job(job) => {
                if let Job::Batch(batch) = &job {
                    self.bytes += batch.bytes;
                    self.entries += batch.entries.len();
                    for entry in &batch.entries {
                        let publish = match entry {
                            Entry::Publish(publish) => publish,
                            Entry::Handover(handover) => &handover.publish,
                            Entry::Release { .. } | Entry::Step { .. } => continue,
                        };
                        self.entries += publish.copies.len();
                        self.bytes += publish.copies.len() * publish.message.footprint();
                    }
                }
                self.jobs.push(job);
            }
        }
    }

    pub(super) fn is_big(&self) -> bool {
        self.bytes >= ROUND_BYTES_MAX
            || self.entries >= ROUND_ENTRIES_MAX
            || self.jobs.len() >= ROUND_JOBS_MAX
            || self.last.is_some()
            || self.configure.is_some()
            || self.trouble.is_some()
    }
}
