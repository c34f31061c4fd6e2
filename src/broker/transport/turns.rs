//! Handshakes compute one at a time.
//!
//! A signature takes up to 20 ms on a small board. When the power of a plant comes back, all of its devices shake hands at
//! once; without a limit every worker thread would be busy with that, and those who are connected already would wait.
//! A turn is held while a handshake computes and never while it waits for its client, so that silent clients hold up nobody.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use tokio::sync::Semaphore;

/// Handshakes that compute at the same time; the gateway has at least two worker threads.
const AT_ONCE: usize = 1;

/// Turns to compute, handed out in the order of asking.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Turns {
    /// Does a piece of work, one step per turn.
    pub(super) async fn work<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            let turn = self.0.acquire().await;
            let step = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            drop(turn);
            match step {
                Poll::Ready(output) => return output,
                Poll::Pending => woken().await,
            }
        }
    }
}

/// Waits until the task is woken; what wakes it was arranged before.
async fn woken() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    #[tokio::test]
    async fn who_waits_for_its_client_holds_up_nobody() {
        let turns = Arc::new(Turns::default());
        let (go, wait) = oneshot::channel();
        let silent = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.work(wait).await }
        });
        for _ in 0..100 {
            let quick = turns.work(async {
                tokio::task::yield_now().await;
                7
            });
            assert_eq!(timeout(Duration::from_secs(20), quick).await.unwrap(), 7);
        }
        go.send(8).unwrap();
        assert_eq!(timeout(Duration::from_secs(20), silent).await.unwrap().unwrap(), Ok(8));
    }
}
