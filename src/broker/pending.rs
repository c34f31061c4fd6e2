//! Connections that have not sent their CONNECT: how many there may be, and how much they may send.
//!
//! A client that means it sends its CONNECT at once, and a short one; so when there are too many connections without
//! one on a listener, or too many bytes of them on all listeners together, the oldest must go. A crowd that connects and
//! says nothing, or half of something long, thus costs a bounded amount of memory and keeps nobody out. What each may
//! send is bounded by [`CONNECT_MAX`](super::limits::CONNECT_MAX), and how long it may take by
//! [`CONNECT_TIMEOUT`](super::CONNECT_TIMEOUT).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::limits::{PENDING_BYTES, PENDING_CONNECTS_MAX};

/// All of them; shared by the listeners.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending(Arc<Mutex<Crowd>>);

#[derive(Debug, Default)]
struct Crowd {
    next: u64,
    /// In the order in which they came.
    waiting: BTreeMap<u64, Waiting>,
    /// Of each listener that has any, by its number.
    counts: BTreeMap<usize, usize>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    listener: usize,
    bytes: usize,
    leave: CancellationToken,
}

/// One such connection; it is no longer one when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pending: Pending,
    number: u64,
    leave: CancellationToken,
}

impl Pending {
    /// Takes in a connection of the listener of this number.
    pub(crate) fn enter(&self, listener: usize) -> Place {
        let mut crowd = self.crowd();
        if crowd.counts.get(&listener).is_some_and(|count| *count >= PENDING_CONNECTS_MAX) {
            crowd.evict(|waiting| waiting.listener == listener);
        }
        let (number, leave) = (crowd.next, CancellationToken::new());
        crowd.next += 1;
        *crowd.counts.entry(listener).or_default() += 1;
        crowd.waiting.insert(number, Waiting { listener, bytes: 0, leave: leave.clone() });
        Place { pending: self.clone(), number, leave }
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        // Whole after every statement, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    /// Sends the oldest away for which `of` says yes.
    fn evict(&mut self, of: impl Fn(&Waiting) -> bool) {
        let oldest = self.waiting.iter().find(|(_, waiting)| of(waiting)).map(|(number, _)| *number);
        if let Some(waiting) = oldest.and_then(|number| self.remove(number)) {
            waiting.leave.cancel();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.bytes -= waiting.bytes;
        if let Some(count) = self.counts.get_mut(&waiting.listener) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&waiting.listener);
            }
        }
        Some(waiting)
    }
}

impl Place {
    /// The connection must go.
    pub(crate) async fn evicted(&self) {
        self.leave.cancelled().await;
    }

    /// The connection holds this many bytes now. When they are too many over all, the oldest that holds some must go.
    pub(crate) fn holds(&self, bytes: usize) {
        let mut crowd = self.pending.crowd();
        // Gone where it was sent away just now.
        let Some(waiting) = crowd.waiting.get_mut(&self.number) else { return };
        let before = std::mem::replace(&mut waiting.bytes, bytes);
        crowd.bytes = crowd.bytes - before + bytes;
        while crowd.bytes > PENDING_BYTES {
            crowd.evict(|waiting| waiting.bytes > 0);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.crowd().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(places: &[Place]) -> Vec<usize> {
        (0..places.len()).filter(|at| places[*at].leave.is_cancelled()).collect()
    }

    #[test]
    fn the_oldest_of_a_full_listener_must_go_and_other_listeners_do_not_notice() {
        let pending = Pending::default();
        let other = pending.enter(1);
        let mut places: Vec<Place> = (0..PENDING_CONNECTS_MAX).map(|_| pending.enter(0)).collect();
        assert!(gone(&places).is_empty());
        drop(places.remove(0));
        places.push(pending.enter(0));
        assert!(gone(&places).is_empty(), "somebody had left");
        places.push(pending.enter(0));
        assert_eq!(gone(&places), [0]);
        assert!(!other.leave.is_cancelled());
    }

    #[test]
    fn the_oldest_that_hold_bytes_must_go_until_the_rest_is_within_the_bound() {
        let pending = Pending::default();
        let places: Vec<Place> = (0..6).map(|listener| pending.enter(listener)).collect();
        places[1].holds(PENDING_BYTES / 2);
        places[2].holds(PENDING_BYTES / 4);
        places[3].holds(PENDING_BYTES / 4);
        places[3].holds(PENDING_BYTES / 4);
        assert!(gone(&places).is_empty());
        places[4].holds(1);
        assert_eq!(gone(&places), [1], "those that hold nothing stay");
        places[1].holds(PENDING_BYTES);
        places[5].holds(PENDING_BYTES + 1);
        assert_eq!(gone(&places), [1, 2, 3, 4, 5]);
        drop(places);
        let crowd = pending.crowd();
        assert_eq!((crowd.bytes, crowd.waiting.len(), crowd.counts.values().sum::<usize>()), (0, 0, 0));
    }
}
