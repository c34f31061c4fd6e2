//! What only time can tell of a connection: silence, stalls, memory that an idle client does not need.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{Connection, Ending, durable::STEP_RETRY};
use crate::broker::limits::{IDLE, READ_MIN, WRITE_STALL};

impl Connection {
    /// Looks after everything that only time can tell.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Ending> {
        if self.wire.is_stalled(now) {
            return Err(Ending::Stalled);
        }
        // A client that we do not listen to is not silent.
        if !self.is_listening() || self.is_made_to_wait() {
            self.wire.heard = now;
        }
        let retries = self.retry_steps();
        let silent = now.duration_since(self.wire.heard);
        if self.silence_max.is_some_and(|max| silent >= max) {
            return Err(Ending::Silent);
        }
        let busy = self.wire.input.capacity() + self.wire.output.capacity() > 2 * READ_MIN;
        if silent >= IDLE && busy {
            self.shrink();
        }
        let alive = self.silence_max.map_or(WRITE_STALL, |max| max.saturating_sub(silent));
        let next = if busy { IDLE } else { WRITE_STALL };
        let next = if retries { STEP_RETRY } else { next };
        self.timer.as_mut().reset((now + alive.min(next).max(Duration::from_millis(10))).into());
        Ok(())
    }

    /// Gives the memory of an idle connection back.
    fn shrink(&mut self) {
        let wire = &mut self.wire;
        wire.read_size = READ_MIN;
        if wire.input.is_empty() {
            wire.input = BytesMut::new();
        }
        if wire.output.is_empty() {
            wire.output = BytesMut::new();
        }
        self.inbound.arrivals.shrink();
        for queue in [&mut self.inbox, &mut self.replay] {
            if queue.is_empty() {
                *queue = VecDeque::new();
            }
        }
        self.hub.fanout.shrink(self.claim.subscriber());
    }
}
