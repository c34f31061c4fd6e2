//! What a connection leaves behind when it ends before everything was done: by a panic, cut off when the gateway stops,
//! or because the store took too long.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Connection, arrivals::Arrivals};
use crate::{
    broker::{hub::Hub, publisher::Errand},
    intake::{Entry, Outcome, Returns},
};

/// Messages that the store has and has not decided on. Nobody is left to be acknowledged, but once they are accepted
/// local subscribers are to have them.
struct Remains {
    hub: Arc<Hub>,
    arrivals: Arrivals,
    returns: Returns,
    verdicts: VecDeque<(Entry, Outcome)>,
    submitted: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(durable) = &self.durable {
            self.claim.kept.resume = durable.oldest();
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // Only where the end was not in order.
        if let Some(will) = self.will.take() {
            let delay = will.delay.min(Duration::from_secs(u64::from(self.claim.expiry_s)));
            if delay.is_zero() {
                let hub = Arc::clone(&self.hub);
                let errand = Errand::from(will.message);
                if let Err(tokio::sync::mpsc::error::TrySendError::Full(errand)) = hub.publisher.try_send(errand) {
                    let waiting = async move { drop(hub.publisher.send(errand).await) };
                    self.hub.connections.spawn_on(waiting, &runtime);
                }
            } else {
                self.claim.delayed_will = Some((Instant::now() + delay, will.message));
            }
        }
        let inbound = &mut self.inbound;
        if (inbound.submitted > 0 || !inbound.verdicts.is_empty())
            && let Some(returns) = inbound.returns.take()
        {
            let remains = Remains {
                hub: Arc::clone(&self.hub),
                arrivals: std::mem::take(&mut inbound.arrivals),
                returns,
                verdicts: std::mem::take(&mut inbound.verdicts),
                submitted: inbound.submitted,
            };
            self.hub.connections.spawn_on(remains.settle(), &runtime);
        }
    }
}

impl Remains {
    async fn settle(mut self) {
        loop {
            self.deliver();
            if self.submitted == 0 {
                return;
            }
            let returned = tokio::select! {
                biased;
                () = self.hub.aborted.cancelled() => return,
                returned = self.returns.recv() => returned,
            };
            let Some(returned) = returned else { return };
            self.submitted -= 1;
            self.verdicts.extend(returned.verdicts);
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        let mut round = self.hub.fanout.round(now);
        for (entry, outcome) in self.verdicts.drain(..) {
            match entry {
                Entry::Publish(publish) => {
                    let decided = self.arrivals.decide(publish.tag, None);
                    if outcome == Outcome::Accepted {
                        let onward = decided.map(|(_, onward)| onward).unwrap_or_default();
                        self.hub.accepted(publish, onward, &mut round, now);
                    }
                }
                Entry::Release { packet_id } => self.arrivals.released(packet_id),
                Entry::Step { .. } | Entry::Handover(_) => {}
            }
            while let Some((_, passing)) = self.arrivals.next() {
                if let Some(passing) = passing {
                    self.hub.deliver(passing.message, &[], passing.onward, false, &mut round);
                }
            }
        }
    }
}
