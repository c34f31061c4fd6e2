//! Session queues, sessions, wills and retained messages, on real files.

mod basics;
mod damage;
mod full;
mod handover;
mod limits;
mod migration;
mod model;
mod retained;
mod sessions;
mod steps;

use super::*;

pub(super) const UNLIMITED: QueueLimits = QueueLimits { max_messages: 0, max_bytes: 0, when_full: WhenFull::Reject };

pub(super) fn at_most(max_messages: u64, when_full: WhenFull) -> QueueLimits {
    QueueLimits { max_messages, max_bytes: 0, when_full }
}

pub(super) fn record(client_id: &str, limits: QueueLimits) -> SessionRecord {
    SessionRecord {
        client_id: client_id.into(),
        expiry_s: 3600,
        state: Bytes::from(format!("subscriptions of {client_id}")),
        received: Vec::new(),
        limits,
        will: None,
    }
}

pub(super) fn copy(session: SessionId) -> SessionCopy {
    SessionCopy { session, qos: QoS::AtLeastOnce, retain: false, subscription_ids: None, seq: None }
}

/// A message for these sessions and no stream.
pub(super) fn for_sessions(sessions: &[SessionId], number: u64) -> Entry {
    publish_with(&[], number, |publish| publish.copies = sessions.iter().copied().map(copy).collect())
}

pub(super) fn step(session: SessionId, seq: Sequence, step: Step) -> Entry {
    Entry::Step { session, seq, step }
}

impl Bench {
    pub(super) fn save(&self, client_id: &str, limits: QueueLimits) -> SessionId {
        self.wait(self.handle.save_session(record(client_id, limits))).unwrap()
    }

    /// The outcomes of entries and the numbers that their copies got.
    pub(super) fn copied(&self, entries: Vec<Entry>) -> Vec<(Outcome, Vec<Option<Sequence>>)> {
        let mut lane = self.handle.lane(OnRefusal::Report, None);
        self.submit(&mut lane.0, entries);
        let seqs = |entry: &Entry| match entry {
            Entry::Publish(publish) => publish.copies.iter().map(|copy| copy.seq).collect(),
            Entry::Handover(handover) => handover.publish.copies.iter().map(|copy| copy.seq).collect(),
            Entry::Release { .. } | Entry::Step { .. } => Vec::new(),
        };
        let returned = self.wait(lane.1.recv()).unwrap();
        returned.verdicts.iter().map(|(entry, outcome)| (*outcome, seqs(entry))).collect()
    }

    /// Queues messages for one session, which are all taken.
    pub(super) fn queue(&self, session: SessionId, numbers: impl IntoIterator<Item = u64>) {
        let numbers: Vec<u64> = numbers.into_iter().collect();
        for chunk in numbers.chunks(1000) {
            let entries = chunk.iter().map(|&number| for_sessions(&[session], number)).collect();
            for (outcome, seqs) in self.copied(entries) {
                assert!(outcome == Outcome::Accepted && seqs[0].is_some(), "{outcome:?} {seqs:?}");
            }
        }
    }

    /// Takes steps, and waits until they are committed.
    pub(super) fn steps(&self, steps: Vec<Entry>) {
        let mut lane = self.handle.lane(OnRefusal::Report, None);
        assert!(self.outcomes(&mut lane, steps).iter().all(|outcome| *outcome == Outcome::Stepped));
        self.flush();
    }

    /// The whole queue, in pages of so many messages.
    pub(super) fn queued(&self, session: SessionId, page: usize) -> Vec<SessionMessage> {
        let mut all: Vec<SessionMessage> = Vec::new();
        loop {
            let from = all.last().map_or(0, |last| last.seq + 1);
            let more = self.wait(self.handle.read_session(session, from, page, 1 << 20)).unwrap();
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    /// Sequence numbers and payloads of the whole queue; `None` for those whose PUBREC came.
    pub(super) fn queued_numbers(&self, session: SessionId) -> Vec<(Sequence, Option<u64>)> {
        let number = |queued: &SessionMessage| match &queued.stage {
            Stage::Published { message, .. } => Some(number_of(message)),
            Stage::Received => None,
        };
        self.queued(session, 3).iter().map(|queued| (queued.seq, number(queued))).collect()
    }

    pub(super) fn queue_stats(&self, session: SessionId) -> QueueStats {
        let stats = self.handle.queue(session).unwrap();
        assert!(stats.balances(), "{stats:?}");
        stats
    }

    pub(super) fn restored(&self) -> Vec<RestoredSession> {
        self.wait(self.handle.sessions()).unwrap()
    }
}

/// Asks the database of a running or closed store for one number.
pub(super) fn sql_number(dir: &Path, sql: &str) -> i64 {
    let asking = rusqlite::Connection::open(dir.join("tidegate.db")).unwrap();
    asking.query_row(sql, [], |row| row.get(0)).unwrap()
}

pub(super) fn dropped(reason: &str, count: u64) -> Vec<(String, u64)> {
    vec![(reason.to_owned(), count)]
}
