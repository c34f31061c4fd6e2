//! Receipts: whether a client took a message, said once for each.
//!
//! A message that only sessions without a queue in the store want is on disk with whoever offered it until a client has it. All
//! deliveries of it share one publication, and that its receipt. The first client that acknowledges it (at QoS 0: to which it was
//! written) makes the receipt say so; where the last delivery ends without that - clients went, queues were full - it says that, too.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use crate::intake::Sequence;

/// What became of a message that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// Its number with whoever offered it.
    pub(crate) seq: Sequence,
    /// Whether a client has it; otherwise nobody ever will.
    pub(crate) taken: bool,
}

/// Says what became of one message. The channel must have a place for each that is out.
#[derive(Debug)]
pub(crate) struct Receipt {
    seq: Sequence,
    said: AtomicBool,
    tell: mpsc::Sender<Report>,
}

impl Receipt {
    pub(crate) fn new(seq: Sequence, tell: mpsc::Sender<Report>) -> Self {
        Self { seq, said: AtomicBool::new(false), tell }
    }

    pub(super) fn taken(&self) {
        self.say(true);
    }

    /// There is nothing to say.
    pub(super) fn hush(&self) {
        self.said.store(true, Ordering::Release);
    }

    fn say(&self, taken: bool) {
        if !self.said.swap(true, Ordering::AcqRel) {
            // Nobody listens any more: then the message is still with whoever offered it.
            let _ = self.tell.try_send(Report { seq: self.seq, taken });
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.say(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_one_thing_once() {
        let (tell, mut told) = mpsc::channel(4);
        let receipt = Receipt::new(7, tell.clone());
        receipt.taken();
        receipt.taken();
        drop(receipt);
        drop(Receipt::new(8, tell));
        assert_eq!(told.try_recv(), Ok(Report { seq: 7, taken: true }));
        assert_eq!(told.try_recv(), Ok(Report { seq: 8, taken: false }));
        assert!(told.try_recv().is_err());
    }
}
