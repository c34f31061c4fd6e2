//! Signals: SIGTERM and SIGINT stop in order, a second one at once; SIGHUP asks for a reload.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What somebody outside wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop; the name of the signal, for the log.
    Stop(&'static str),
    /// Read the configuration again.
    Reload,
}

/// The process's signals, caught from [`Signals::catch`] on.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
}

impl Signals {
    /// Catches the signals. Call it before anything is opened, so that a stop during a long start is a stop in order.
    /// Needs a tokio runtime.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Stop("SIGTERM"),
            Some(()) = self.interrupt.recv() => Signal::Stop("SIGINT"),
            Some(()) = self.hangup.recv() => Signal::Reload,
            // tokio closes these streams with the runtime only, and then nobody waits here.
            else => std::future::pending().await,
        }
    }

    /// Cancels `stop` at the first SIGTERM or SIGINT and returns at the second, upon which the caller is to exit at once:
    /// what was acknowledged is on disk, so nothing is lost but the courtesy of a DISCONNECT.
    ///
    /// This version cannot reload, and says so: staying silent would leave somebody believing that it did.
    pub async fn guard(mut self, stop: CancellationToken) {
        loop {
            match self.next().await {
                Signal::Reload => {
                    tracing::warn!("SIGHUP: this version does not reload; restart to apply a new configuration");
                }
                Signal::Stop(signal) if !stop.is_cancelled() => {
                    tracing::info!(signal, "stopping");
                    stop.cancel();
                }
                Signal::Stop(signal) => {
                    tracing::warn!(signal, "second signal to stop: exiting at once");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal as Number, getpid, kill_process};
    use std::time::Duration;

    // One test for all signals: they go to the whole process, so two tests would take each other's.
    #[tokio::test]
    async fn the_first_signal_stops_in_order_the_second_at_once_and_sighup_does_neither() {
        let signals = Signals::catch().unwrap();
        let mut observer = Signals::catch().unwrap();
        let stop = CancellationToken::new();
        let guard = tokio::spawn(signals.guard(stop.clone()));

        kill_process(getpid(), Number::HUP).unwrap();
        assert_eq!(observer.next().await, Signal::Reload);
        assert!(!stop.is_cancelled());

        kill_process(getpid(), Number::TERM).unwrap();
        assert_eq!(observer.next().await, Signal::Stop("SIGTERM"));
        tokio::time::timeout(Duration::from_secs(10), stop.cancelled()).await.unwrap();
        assert!(!guard.is_finished());

        kill_process(getpid(), Number::INT).unwrap();
        tokio::time::timeout(Duration::from_secs(10), guard).await.unwrap().unwrap();
    }
}
