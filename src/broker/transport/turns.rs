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

/// Turns to compute.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Those who have not begun wait here, in the order of asking ...
    first: Semaphore,
    /// ... and one of them at a time waits here, with all who have begun. In one queue, everybody would begin before anybody
    /// came to an end, and a crowd that needs longer than `CONNECT_TIMEOUT` for that would never get in.
    compute: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { first: Semaphore::new(AT_ONCE), compute: Semaphore::new(AT_ONCE) }
    }
}

impl Turns {
    /// Does a piece of work, one step per turn.
    pub(super) async fn work<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        let mut first = Some(self.first.acquire().await);
        loop {
            let turn = self.compute.acquire().await;
            let step = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            drop((turn, first.take()));
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
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

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

    /// Waits for an answer that comes at once.
    async fn answered() {
        let mut waited = false;
        poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn who_has_begun_comes_to_an_end_before_others_begin() {
        const CROWD: usize = 100;
        let turns = Arc::new(Turns::default());
        let (begun, most_begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // While somebody computes, the crowd comes.
        let computing = turns.compute.acquire().await.unwrap();
        let crowd: Vec<_> = (0..CROWD)
            .map(|_| {
                let (turns, begun, most_begun) = (Arc::clone(&turns), Arc::clone(&begun), Arc::clone(&most_begun));
                tokio::spawn(async move {
                    let two_steps = async {
                        most_begun.fetch_max(begun.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                        answered().await;
                        begun.fetch_sub(1, Ordering::Relaxed);
                    };
                    turns.work(two_steps).await;
                })
            })
            .collect();
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        drop(computing);
        for one in crowd {
            timeout(Duration::from_secs(20), one).await.unwrap().unwrap();
        }
        assert!(most_begun.load(Ordering::Relaxed) < CROWD / 10, "{most_begun:?}");
    }
}
