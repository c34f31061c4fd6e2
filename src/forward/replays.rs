//! Replays: every stream has a second lane, for what is sent again.
//!
//! The lane is one like the others: it has its place among the turns (below every priority, with the share that none is denied), the same
//! token bucket, window and ledger, and its refusals are judged alike. What differs is where its rows come from and where their fate goes
//! ([`Source`]), the mark `tg-replay`, and that the stream's time to live does not apply: whoever asks for a replay wants what is old.
//!
//! Each replay has a number. What is in flight of one that was stopped is waited for before the next one begins, so that an
//! acknowledgement never counts for the wrong one; deliveries in doubt (QoS 2) are given up.

use tokio::sync::watch;

use super::{feed::Read, ledger::Ledger, suspects::Suspects};
use crate::store::{Handle, Position, ReplayPosition, Run, Sequence, StoreError, Stored, StreamId};

/// Lower than every priority of a stream.
pub(super) const PRIORITY: i8 = i8::MIN;

/// Share of the memory for reading ahead that a replay gets: that of one of so many streams.
pub(super) const READ_AHEAD_SHARE: usize = 64;

/// Where nothing is to be read.
const NOWHERE: Position = Position { head: Sequence::MAX, next: Sequence::MAX };

/// Where a lane's rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The backlog of a stream.
    Backlog(StreamId),
    /// What is kept of it, in the replay of this number.
    Replay(StreamId, u64),
}

impl Source {
    pub(super) const fn is_replay(self) -> bool {
        matches!(self, Self::Replay(..))
    }

    pub(super) async fn read(self, store: &Handle, read: Read) -> Result<Vec<Stored>, StoreError> {
        let Read { from, max_messages, max_bytes, .. } = read;
        match self {
            Self::Backlog(stream) => store.read(stream, from, max_messages, max_bytes).await,
            Self::Replay(stream, run) => store.read_kept(stream, run, from, max_messages, max_bytes).await,
        }
    }

    pub(super) async fn settle(self, store: &Handle, runs: Vec<Run>) -> Result<(), StoreError> {
        match self {
            Self::Backlog(stream) => store.settle(stream, runs).await,
            Self::Replay(stream, run) => store.replayed(stream, run, runs).await,
        }
    }
}

/// What drives the second lane of a stream.
#[derive(Debug)]
pub(super) struct Replay {
    lane: usize,
    asked: watch::Receiver<ReplayPosition>,
    /// What the lane's feed goes by.
    position: watch::Sender<Position>,
    /// The replay that the lane is about.
    run: u64,
}

/// What a look at a replay asks for.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// The lane begins anew with the replay of this number.
    pub(super) begins: Option<(usize, u64)>,
    /// Deliveries to be completed, whatever the upstream made of them.
    pub(super) release: Vec<u16>,
}

impl Replay {
    pub(super) fn new(lane: usize, asked: watch::Receiver<ReplayPosition>) -> (Self, watch::Receiver<Position>) {
        let (sender, position) = watch::channel(NOWHERE);
        (Self { lane, asked, position: sender, run: 0 }, position)
    }

    /// Sees to it that the lane is about the replay that is asked for.
    pub(super) fn look(&mut self, ledger: &mut Ledger, suspects: &mut Suspects) -> Looked {
        let asked = *self.asked.borrow();
        let mut looked = Looked::default();
        let runs = asked.next < asked.end;
        if runs && asked.run != self.run {
            looked.release = ledger.release_doubts(self.lane);
            if !ledger.is_idle(self.lane) {
                self.go_by(NOWHERE);
                return looked;
            }
            ledger.forget_lane(self.lane);
            suspects.forget_lane(self.lane);
            self.run = asked.run;
            looked.begins = Some((self.lane, asked.run));
        }
        self.go_by(if runs { Position { head: asked.next, next: asked.end } } else { NOWHERE });
        looked
    }

    fn go_by(&self, position: Position) {
        self.position.send_if_modified(|current| std::mem::replace(current, position) != position);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{forward::ledger::Ack, message::QoS, uplink::Backoff};

    fn asked(run: u64, next: Sequence, end: Sequence) -> ReplayPosition {
        ReplayPosition { run, next, end }
    }

    #[test]
    fn the_next_replay_begins_when_nothing_of_the_last_is_in_flight() {
        let backoff = Backoff { min: std::time::Duration::ZERO, max: std::time::Duration::ZERO };
        let (mut ledger, mut suspects) = (Ledger::new(2), Suspects::new(2, backoff));
        ledger.connect(10, false);
        let (sender, receiver) = watch::channel(asked(0, 0, 0));
        let (mut replay, position) = Replay::new(1, receiver);
        assert_eq!(replay.look(&mut ledger, &mut suspects).begins, None);
        assert_eq!(*position.borrow(), NOWHERE);
        sender.send_replace(asked(1, 5, 20));
        assert_eq!(replay.look(&mut ledger, &mut suspects).begins, Some((1, 1)));
        assert_eq!(*position.borrow(), Position { head: 5, next: 20 });
        assert_eq!(replay.look(&mut ledger, &mut suspects).begins, None);
        let id = ledger.next_id();
        ledger.sent(1, 5, id, QoS::AtLeastOnce, Instant::now());
        // Stopped, and begun anew from an earlier number.
        sender.send_replace(asked(1, 0, 0));
        replay.look(&mut ledger, &mut suspects);
        assert_eq!(*position.borrow(), NOWHERE);
        sender.send_replace(asked(2, 3, 20));
        assert_eq!(replay.look(&mut ledger, &mut suspects).begins, None, "5 may still be acknowledged");
        assert_eq!(*position.borrow(), NOWHERE);
        ledger.answer(Ack::Acknowledged, id, false);
        assert_eq!(replay.look(&mut ledger, &mut suspects).begins, Some((1, 2)));
        assert_eq!((ledger.next_to_read(1), ledger.take_ready(1)), (0, vec![]));
    }

    #[test]
    fn a_delivery_in_doubt_of_a_replay_that_was_stopped_is_given_up() {
        let backoff = Backoff { min: std::time::Duration::ZERO, max: std::time::Duration::ZERO };
        let (mut ledger, mut suspects) = (Ledger::new(2), Suspects::new(2, backoff));
        ledger.connect(10, false);
        let (sender, receiver) = watch::channel(asked(1, 5, 20));
        let (mut replay, _position) = Replay::new(1, receiver);
        replay.look(&mut ledger, &mut suspects);
        let id = ledger.next_id();
        ledger.sent(1, 5, id, QoS::ExactlyOnce, Instant::now());
        ledger.disconnect();
        ledger.connect(10, true);
        sender.send_replace(asked(2, 5, 20));
        let looked = replay.look(&mut ledger, &mut suspects);
        assert_eq!((looked.begins, looked.release), (None, vec![id]));
        assert!(!ledger.has_doubts());
        ledger.answer(Ack::Completed, id, false);
        let looked = replay.look(&mut ledger, &mut suspects);
        assert_eq!((looked.begins, looked.release), (Some((1, 2)), vec![]));
    }
}
