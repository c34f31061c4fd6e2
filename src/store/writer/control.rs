//! What the writer does besides storing: settlements, damaged rows.

use super::Writer;
use crate::store::{
    api::{Fate, Run, Sequence},
    failure::Failure,
    shared::{Control, DAMAGED},
};

impl Writer<'_> {
    pub(super) fn control(&mut self, control: &mut Control) -> Result<(), Failure> {
        match control {
            Control::Settle { stream, runs } => runs.iter().try_for_each(|run| self.settle(*stream, run)),
            Control::SaveSession { session, id, .. } => {
                *id = Some(self.save_session(session)?);
                Ok(())
            }
            Control::SessionLeft { session, sent, at } => {
                self.session_left(*session, *sent, *at);
                Ok(())
            }
            Control::ForgetWill { session, .. } => self.forget_will(*session),
            Control::ForgetRetained { expired, .. } => self.forget_retained(expired),
            Control::DeleteSession { client_id, .. } => self.delete_session(client_id),
            Control::Order { order, outcome, .. } => {
                *outcome = Some(self.order(order)?);
                Ok(())
            }
            Control::Import { import, outcome, .. } => {
                *outcome = Some(self.import(import)?);
                Ok(())
            }
            Control::Flush { .. } => Ok(()),
        }
    }

    /// Moves the head past a run and counts it. What has left already is passed over.
    fn settle(&mut self, index: usize, run: &Run) -> Result<(), Failure> {
        let books = &self.transaction.streams[index].books;
        let (first, last) = (run.first.max(books.head), run.last.min(books.next.saturating_sub(1)));
        if first > last {
            return Ok(());
        }
        if first > books.head {
            // Would leave messages behind the head without a fate. Keep them: they are sent again.
            tracing::error!(first, head = books.head, "a settlement does not begin at the head and was ignored");
            return Ok(());
        }
        match &run.fate {
            Fate::Forwarded => {
                let count = self.pass_forwarded(index, last)?;
                self.transaction.changing(index).books.forwarded += count;
            }
            Fate::Expired => {
                let count = self.pass(index, last)?;
                self.transaction.changing(index).books.expired += count;
            }
            Fate::Dead { reason, detail } => {
                for seq in first..=last {
                    if !self.transaction.streams[index].books.holes.contains(seq) {
                        self.bury(index, seq, reason, detail)?;
                    }
                }
                let count = self.pass(index, last)?;
                self.transaction.changing(index).books.dead.add(reason, count);
            }
        }
        Ok(())
    }

    /// Moves the head past `last`; returns how many messages that were.
    pub(super) fn pass(&mut self, index: usize, last: Sequence) -> Result<u64, Failure> {
        let end = self.transaction.end_of(index, last)?;
        Ok(self.transaction.changing(index).books.pass(last, end))
    }

    /// Takes a row that makes no sense out of the middle of the backlog: as it is, to the dead letters.
    pub(super) fn bury_damaged(&mut self, index: usize, seq: Sequence, detail: &str) -> Result<(), Failure> {
        let books = &self.transaction.streams[index].books;
        if seq < books.head || seq >= books.next || books.holes.contains(seq) {
            return Ok(());
        }
        tracing::error!(seq, error = detail, "a stored message cannot be read and was moved to the dead letters");
        self.bury(index, seq, DAMAGED, detail)?;
        let before_head = self.transaction.streams[index].books.head;
        let end = self.transaction.end_of(index, seq)?;
        let books = &mut self.transaction.changing(index).books;
        books.dead.add(DAMAGED, 1);
        books.holes.add(seq, seq + 1);
        if seq == before_head {
            books.head_offset = end;
            books.skip_holes();
        }
        Ok(())
    }
}

impl Control {
    /// Tells who waits that it is committed.
    pub(super) fn done(self) {
        match self {
            Self::Settle { .. } | Self::SessionLeft { .. } => {}
            Self::SaveSession { id, done, .. } => {
                let id = id.expect("a session that was saved has a number");
                let _ = done.send(id);
            }
            Self::Order { outcome, done, .. } => {
                let outcome = outcome.expect("an order that was committed has an outcome");
                let _ = done.send(outcome);
            }
            Self::Import { outcome, done, .. } => {
                let outcome = outcome.expect("an import that was committed has an outcome");
                let _ = done.send(outcome);
            }
            Self::DeleteSession { done, .. }
            | Self::ForgetWill { done, .. }
            | Self::ForgetRetained { done, .. }
            | Self::Flush { done } => {
                // Whoever asked may have given up waiting.
                let _ = done.send(());
            }
        }
    }
}
