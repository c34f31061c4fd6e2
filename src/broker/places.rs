//! How many clients a listener takes: a number of places that can change while they are taken.
//!
//! More places are there as soon as nobody waits any more to take some away. Fewer: those that are free go at once, the others as their clients leave; until then
//! nobody new comes in. No client is sent away for it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::Semaphore, task::AbortHandle};

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// All that there are, taken or free.
    count: usize,
    /// How many there should be.
    wanted: usize,
    /// Takes away the places of those who leave, while there are too many.
    shrinking: Option<AbortHandle>,
}

impl Places {
    /// So many.
    pub(crate) fn new(count: usize) -> Self {
        let count = count.min(Semaphore::MAX_PERMITS);
        let state = State { count, wanted: count, shrinking: None };
        Self { free: Arc::new(Semaphore::new(count)), state: Arc::new(Mutex::new(state)) }
    }

    /// To take one from.
    pub(crate) fn free(&self) -> Arc<Semaphore> {
        Arc::clone(&self.free)
    }

    /// From now on there are so many. Must be called within a runtime.
    pub(crate) fn resize(&self, count: usize) {
        let count = count.min(Semaphore::MAX_PERMITS);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shrinking) = state.shrinking.take() {
            shrinking.abort();
        }
        state.wanted = count;
        if count >= state.count {
            self.free.add_permits(count - state.count);
            state.count = count;
            return;
        }
        state.count -= self.free.forget_permits(state.count - count);
        if state.count > count {
            let (free, shared) = (Arc::clone(&self.free), Arc::clone(&self.state));
            let shrink = async move {
                // Closed never. An end that was asked for comes only at a wait, so what is wanted is asked anew under the lock:
                // a place that is not too many any more goes back.
                while let Ok(place) = free.acquire().await {
                    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    if state.count <= state.wanted {
                        return;
                    }
                    place.forget();
                    state.count -= 1;
                    if state.count <= state.wanted {
                        return;
                    }
                }
            };
            state.shrinking = Some(tokio::spawn(shrink).abort_handle());
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shrinking) = state.shrinking.take() {
            shrinking.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fewer_places_send_nobody_away_and_more_are_there_at_once() {
        let places = Places::new(3);
        let take = || places.free().try_acquire_owned().ok();
        let others = || async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        let mut taken = vec![take().unwrap(), take().unwrap(), take().unwrap()];
        assert!(take().is_none());
        places.resize(1);
        others().await;
        taken.truncate(2);
        others().await;
        assert!(take().is_none(), "two are still there");
        places.resize(3);
        others().await;
        let third = take().unwrap();
        assert!(take().is_none());
        places.resize(2);
        others().await;
        drop(third);
        others().await;
        assert!(take().is_none());
        taken.pop();
        assert!(take().is_some());
    }
}
