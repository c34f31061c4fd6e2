//! A message leaves one queue by being published anew, both or neither.

use super::{Mode, Writer, decide::Decision, queues::first_row};
use crate::store::{
    api::{Handover, Outcome},
    failure::Failure,
    lane::LaneShared,
    sessions::Step,
};

impl Writer<'_> {
    /// Refused as any message is; then it stays in the queue that it comes from.
    pub(super) fn decide_handover(
        &mut self,
        handover: &mut Handover,
        lane: &LaneShared,
        mode: Mode,
    ) -> Result<Decision, Failure> {
        let Handover { from, seq, publish } = handover;
        if !self.is_queued(*from, *seq)? {
            return Ok(Decision::Done(Outcome::Duplicate));
        }
        let decision = self.decide_publish(publish, lane, mode)?;
        if matches!(decision, Decision::Done(Outcome::Accepted)) {
            if mode == Mode::NoWrite {
                self.put_off(*from, *seq, Step::Delivered);
            } else {
                self.step(*from, *seq, Step::Delivered)?;
            }
        }
        Ok(decision)
    }

    fn is_queued(&self, session: crate::store::SessionId, seq: u64) -> Result<bool, Failure> {
        let Some(queue) = self.transaction.queues.live(session) else { return Ok(false) };
        let is_known = (queue.books.head..queue.books.next).contains(&seq);
        Ok(is_known && first_row(self.transaction.connection, session, seq, seq + 1)?.is_some())
    }
}
