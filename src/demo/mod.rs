//! The demo: the whole main job on one machine, with its proof, in under 30 seconds.
//!
//! Real parts only. The gateway is this very executable as a process of its own (`run -c FILE`), with synced commits
//! in a temporary folder. The upstream is an embedded rumqttd server; a subscriber there checks every message. The
//! sensors are rumqttc clients, half of them MQTT 5, half 3.1.1, that publish at QoS 1 and remember what was
//! acknowledged.
//!
//! ```text
//! sensors ──▶ gateway ──▶ gate ──▶ rumqttd ──▶ subscriber
//!    │       (process)                            │
//!    └── acknowledged ──── compared with ── arrived┘
//! ```
//!
//! | phase | what happens |
//! | --- | --- |
//! | online | messages pass through |
//! | outage | the gate before the upstream is shut (`gate.rs` says why there is one); the backlog grows on disk |
//! | kill -9 | of the gateway process, in the middle of the outage; the sensors find nobody there |
//! | restart | the same command again: the backlog is there, the sensors come back by themselves |
//! | drain | the gate is open again; the backlog goes upstream, the sensors go on |
//! | proof | the sensors stop, the last message arrives, all parties' figures are compared |
//!
//! rumqttd is given room for everything it gets (`upstream.rs`), so that what arrives at the subscriber is what it
//! acknowledged to the gateway: the proof compares the two counts, so a loss on that last way would be seen as well,
//! and would fail the demo. Everything is bounded: each wait by a deadline, the whole by [`DEADLINE`].
//!
//! Ctrl-C and SIGTERM end the demo, and errors do, without leaving the gateway or the folder behind.

mod book;
mod gate;
mod gateway;
mod proof;
mod screen;
mod sensor;
mod stage;
mod upstream;

use std::{
    io::{self, Write},
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};

pub use proof::Proof;

/// Longest time the whole demo may take before it gives up.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Most messages a second: what the longest possible demo publishes then (some 80 MB) still fits into what rumqttd keeps,
/// so that it throws nothing away however far its subscriber is behind.
pub const MAX_MESSAGES_PER_S: u32 = 10_000;

/// How much the demo does.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Simulated sensors, 1 to 99.
    pub sensors: usize,
    /// Messages a second of all sensors together, 1 to [`MAX_MESSAGES_PER_S`].
    pub messages_per_s: u32,
    /// The proof as JSON instead of a table.
    pub json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { sensors: 16, messages_per_s: 4000, json: false }
    }
}

/// Why the demo could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More or fewer sensors than can be.
    #[error("a demo has 1 to 99 sensors and 1 to {MAX_MESSAGES_PER_S} messages a second")]
    Options,
    /// The machine did not let us.
    #[error("the demo could not {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The gateway did something it should not have done: a fault of ours.
    #[error("{what}; the end of its log:\n{log}")]
    Gateway {
        /// What it did.
        what: String,
        /// The last lines of its log.
        log: String,
    },
    /// The embedded upstream failed, or something arrived there that should not have.
    #[error("upstream: {0}")]
    Upstream(String),
    /// Something took too long: an overloaded machine, or a fault of ours.
    #[error("after {after_s} s still waiting for {what}; the end of the gateway's log:\n{log}")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// For how long, in seconds.
        after_s: u64,
        /// The last lines of its log.
        log: String,
    },
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

/// Plays the demo on a runtime of its own: progress to stderr, the proof to stdout. An error if anything was lost, out
/// of order, or failed. Blocks; not to be called within a runtime.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let proof = runtime.block_on(play(options))?;
    let text = if options.json { proof.json() + "\n" } else { proof.table(screen::painter_for_stdout()) };
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|source| Error::Io { what: "write the proof", source })?;
    anyhow::ensure!(proof.holds(), "the demo did not prove what it should");
    Ok(())
}

/// Plays the demo, with its progress on stderr. Call it within a multi-threaded tokio runtime.
///
/// The caller should have no log output from rumqttd and rumqttc below ERROR: both tell a lot of what is the play's
/// intention here.
pub async fn play(options: &Options) -> Result<Proof, Error> {
    if !(1..=99).contains(&options.sensors) || !(1..=MAX_MESSAGES_PER_S).contains(&options.messages_per_s) {
        return Err(Error::Options);
    }
    let mut stage = stage::Stage::build(options).await?;
    let played = tokio::select! {
        played = stage.play() => played,
        interrupted = interruption() => Err(interrupted),
    };
    // When this returns, the moving part of the screen, the gateway and its folder are gone.
    stage.clear();
    played
}

/// Waits for Ctrl-C or SIGTERM.
async fn interruption() -> Error {
    let listen = |kind| signal(kind).map_err(|source| Error::Io { what: "listen for signals", source });
    let (mut interrupt, mut terminate) = match (listen(SignalKind::interrupt()), listen(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Error::Interrupted
}
