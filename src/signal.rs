//! Signals: SIGTERM and SIGINT mean stop, SIGHUP means reload; what is done about them is the caller's.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

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
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal as Number, getpid, kill_process};
    use std::time::Duration;

    // One test for all signals: they go to the whole process, so two tests would take each other's.
    #[tokio::test]
    async fn signals_are_caught_and_told_apart() {
        let mut signals = Signals::catch().unwrap();
        for (number, expected) in [
            (Number::HUP, Signal::Reload),
            (Number::TERM, Signal::Stop("SIGTERM")),
            (Number::INT, Signal::Stop("SIGINT")),
            (Number::TERM, Signal::Stop("SIGTERM")),
        ] {
            kill_process(getpid(), number).unwrap();
            let caught = tokio::time::timeout(Duration::from_secs(10), signals.next()).await.unwrap();
            assert_eq!(caught, expected);
        }
    }
}
