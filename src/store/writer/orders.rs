//! What an operator asks for, in the writer's hands.

use super::Writer;
use crate::store::{
    Sequence,
    failure::Failure,
    operated::Kept,
    orders::{Done, Order},
};

impl Writer<'_> {
    /// Carries out an order, or says why not.
    pub(super) fn order(&mut self, order: &Order) -> Result<Done, Failure> {
        match order {
            Order::Pause { stream, paused } => {
                let name = &self.transaction.streams[*stream].name;
                tracing::info!(stream = name, paused, "an operator paused a stream, or let it go on");
                self.transaction.changing(*stream).books.operated.paused = *paused;
                Ok(Ok(0))
            }
            Order::Purge { stream, last } => self.purge(*stream, *last).map(Ok),
            Order::Replay { stream, ranges } => Ok(self.begin_replay(*stream, ranges)),
            Order::StopReplay { stream } => Ok(self.stop_replay(*stream)),
            Order::Replayed { stream, run, runs } => Ok(Ok(self.note_replayed(*stream, *run, runs))),
            Order::RetryDead { id, gateway } => self.retry_dead(*id, gateway),
            Order::PurgeDead { id } => self.purge_dead(*id),
            Order::PurgeDeadSlice { stream } => self.purge_dead_slice(*stream),
        }
    }

    /// Moves the head over the backlog up to `last`. The rows become garbage, which is deleted in slices.
    fn purge(&mut self, index: usize, last: Sequence) -> Result<u64, Failure> {
        let stream = &self.transaction.streams[index];
        let whole = last == Sequence::MAX;
        if whole && stream.retain_ms.is_none() && stream.books.operated.kept.is_some() {
            // Not configured any more: nobody else could ever let these go.
            self.transaction.changing(index).books.operated.kept = Kept::default();
        }
        let books = &self.transaction.streams[index].books;
        if books.backlog_messages() == 0 || last < books.head {
            return Ok(0);
        }
        let count = self.pass(index, last.min(books.next - 1))?;
        let stream = self.transaction.changing(index);
        stream.books.purged += count;
        tracing::warn!(stream = stream.name, count, "an operator purged a stream");
        Ok(count)
    }
}
