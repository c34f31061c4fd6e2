//! The task of one uplink: connect, forward, back off, again; and what it keeps from one connection to the next.

use std::{
    future::Future,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
    time::{sleep, sleep_until, timeout},
};

use super::{
    ForwardError, Route,
    backoff::Waits,
    connection::{BEAT, Connection, End, Next},
    failback::FailBack,
    feed::Feed,
    ledger::Ledger,
    letter::Stamp,
    pacing::Pacing,
    replays::{self, Replay, Source},
    status::Status,
    suspects::{Dead, Suspects},
    turns::Turns,
};
use crate::{
    store::{self, Fate, Sequence, StoreError, Stored},
    uplink::{self, Inbound, Upstream},
};

/// Longest time that a message which is done waits for others to be settled with it.
const SETTLE_DELAY: Duration = Duration::from_millis(100);

/// Messages done that are settled without waiting.
const SETTLE_MESSAGES: u64 = 4096;

/// Longest wait for the store to take the last settlement when stopping.
const LAST_SETTLEMENT: Duration = Duration::from_secs(5);

/// What a read gave: the lane, its generation, and the rows.
pub(super) type Rows = (usize, u32, Result<Vec<Stored>, StoreError>);

/// Everything that outlives a connection.
pub(super) struct Task {
    pub(super) settings: uplink::Settings,
    pub(super) status: Status,
    pub(super) feeds: Vec<Feed>,
    pub(super) turns: Turns,
    pub(super) ledger: Ledger,
    pub(super) pacing: Pacing,
    pub(super) suspects: Suspects,
    pub(super) fail_back: FailBack,
    pub(super) stamp: Stamp,
    /// At most one read for each lane.
    pub(super) reads: JoinSet<Rows>,
    /// At most one settlement, so that runs reach the store in order.
    pub(super) settling: JoinSet<Result<(), StoreError>>,
    /// Rings when the position of any stream changes.
    pub(super) backlog: Arc<Notify>,
    pub(super) stop: Stop,
    /// Settings that can change on a connection; see `uplink::Settings::tune`.
    pub(super) tuning: watch::Receiver<uplink::Settings>,
    /// Nothing new is to be sent; see [`super::Forwarder::hush`].
    pub(super) hushed: Arc<AtomicBool>,
    /// What comes the other way.
    pub(super) inbound: Inbound,
    store: store::Handle,
    /// For each lane; first those of the streams, then one for the replays of each.
    pub(super) sources: Vec<Source>,
    replays: Vec<Replay>,
    /// Messages done since the last settlement began.
    done: u64,
    done_since: Option<Instant>,
    /// One for each lane; they end with the store.
    _watchers: JoinSet<()>,
}

/// What a forwarder is told while it runs.
pub(super) struct Orders {
    /// Stop; what is in flight may be waited for so long.
    pub(super) stop: watch::Receiver<Option<Duration>>,
    /// Go by these settings, as far as they can change on a connection.
    pub(super) tuning: watch::Receiver<uplink::Settings>,
    /// Send nothing new.
    pub(super) hushed: Arc<AtomicBool>,
}

/// The wish to stop, and for how long what is in flight may be waited for.
#[derive(Debug)]
pub(super) struct Stop {
    receiver: watch::Receiver<Option<Duration>>,
    deadline: Option<Instant>,
}

impl Stop {
    pub(super) fn new(receiver: watch::Receiver<Option<Duration>>) -> Self {
        Self { receiver, deadline: None }
    }

    /// Waits until stopping is asked for; afterwards, for ever. Cancel safe.
    pub(super) async fn requested(&mut self) {
        if self.deadline.is_some() {
            return std::future::pending().await;
        }
        // A sender that was dropped without a word wants no grace.
        let grace = self.receiver.wait_for(Option::is_some).await.map_or(None, |grace| *grace);
        self.deadline = Some(Instant::now() + grace.unwrap_or_default());
    }

    pub(super) fn is_requested(&self) -> bool {
        self.deadline.is_some()
    }

    /// When what is in flight is no longer waited for.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline.unwrap_or_else(Instant::now)
    }
}

/// What came of something that was waited for while not connected.
enum Away<T> {
    Done(T),
    Stop,
}

/// The lanes of an uplink: one for each stream, then one for the replays of each.
struct Lanes {
    feeds: Vec<Feed>,
    sources: Vec<Source>,
    replays: Vec<Replay>,
    priorities: Vec<i8>,
}

impl Lanes {
    fn new(routes: Vec<Route>, store: &store::Handle) -> Self {
        let count = routes.len();
        let again = routes.iter().map(|route| Route { ttl: None, ..route.clone() }).collect::<Vec<_>>();
        let mut lanes = Self { feeds: Vec::new(), sources: Vec::new(), replays: Vec::new(), priorities: Vec::new() };
        for route in routes {
            let (stream, paused) = (route.stream, store.paused(route.stream));
            lanes.priorities.push(route.priority);
            lanes.sources.push(Source::Backlog(stream));
            lanes.feeds.push(Feed::new(route, store.position(stream), paused, count));
        }
        for route in again {
            let (stream, paused) = (route.stream, store.paused(route.stream));
            let (replay, position) = Replay::new(lanes.feeds.len(), store.replay_position(stream));
            lanes.replays.push(replay);
            lanes.priorities.push(replays::PRIORITY);
            lanes.sources.push(Source::Replay(stream, 0));
            lanes.feeds.push(Feed::new(route, position, paused, replays::READ_AHEAD_SHARE));
        }
        lanes
    }
}

/// Rings the bell whenever something changes, until the store is gone.
fn ring<T: Send + Sync + 'static>(watchers: &mut JoinSet<()>, mut watched: watch::Receiver<T>, bell: &Arc<Notify>) {
    let bell = Arc::clone(bell);
    watchers.spawn(async move {
        while watched.changed().await.is_ok() {
            bell.notify_one();
        }
    });
}

impl Task {
    /// Messages of all streams that wait for this uplink.
    pub(super) fn waiting(&self) -> u64 {
        let mine = |name: &str| self.feeds.iter().any(|feed| &*feed.route.name == name);
        self.store.streams().iter().filter(|stream| mine(&stream.name)).map(|stream| stream.backlog_messages).sum()
    }

    pub(super) fn new(
        settings: uplink::Settings,
        routes: Vec<Route>,
        gateway_id: &str,
        store: store::Handle,
        status: Status,
        Orders { stop, tuning, hushed }: Orders,
        inbound: Inbound,
    ) -> Self {
        let backlog = Arc::new(Notify::new());
        let mut watchers = JoinSet::new();
        for route in &routes {
            ring(&mut watchers, store.position(route.stream), &backlog);
            ring(&mut watchers, store.replay_position(route.stream), &backlog);
        }
        let Lanes { feeds, sources, replays, priorities } = Lanes::new(routes, &store);
        let count = feeds.len();
        Self {
            pacing: Pacing::new(settings.messages_per_s, settings.bytes_per_s),
            suspects: Suspects::new(count, settings.backoff),
            fail_back: FailBack::new(settings.backoff.max),
            settings,
            status,
            feeds,
            turns: Turns::new(&priorities),
            ledger: Ledger::new(count),
            stamp: Stamp::new(gateway_id),
            reads: JoinSet::new(),
            settling: JoinSet::new(),
            backlog,
            stop: Stop::new(stop),
            tuning,
            hushed,
            inbound,
            store,
            sources,
            replays,
            done: 0,
            done_since: None,
            _watchers: watchers,
        }
    }

    /// Forwards until it is stopped or the store has failed.
    pub(super) async fn run<U: Upstream>(mut self, mut upstream: U) -> Result<Inbound, ForwardError> {
        let mut waits = Waits::new(self.settings.backoff);
        let mut may_resume = false;
        loop {
            self.status.connecting();
            let connected = match self.while_away(upstream.connect(may_resume)).await? {
                Away::Done(connected) => connected,
                Away::Stop => break,
            };
            let next = match connected {
                Ok(session) => {
                    let End { next, was_good, may_resume: may } =
                        Connection::new(&mut self, &upstream, session).run().await?;
                    may_resume = may;
                    if was_good {
                        waits.made_progress();
                    }
                    next
                }
                Err(errors) => {
                    self.status.not_connected(&errors, self.waiting());
                    Next::BackOff
                }
            };
            match next {
                Next::Stop => break,
                // It was asked for on a connection that ended for another reason first; nobody asks twice.
                Next::Reconnect | Next::BackOff if self.stop.is_requested() => break,
                Next::Reconnect => {}
                Next::BackOff => {
                    self.status.waiting();
                    let wait = waits.next(fastrand::f64());
                    if matches!(self.while_away(sleep(wait)).await?, Away::Stop) {
                        break;
                    }
                }
            }
        }
        self.finish().await
    }

    /// Waits for something while there is no connection; settles what is left meanwhile, and goes on showing that it is alive.
    async fn while_away<T>(&mut self, work: impl Future<Output = T>) -> Result<Away<T>, ForwardError> {
        let mut work = std::pin::pin!(work);
        loop {
            self.status.beat();
            let now = Instant::now();
            self.start_settling(now);
            let look_at = self.settle_at().map_or(now + BEAT, |at| at.min(now + BEAT));
            tokio::select! {
                done = &mut work => return Ok(Away::Done(done)),
                Some(settled) = self.settling.join_next() => settled??,
                () = self.stop.requested() => return Ok(Away::Stop),
                () = self.status.asked() => {}
                () = sleep_until(look_at.into()) => {}
            }
        }
    }

    /// Whether only news can bring something to do.
    pub(super) fn has_nothing_to_do(&self) -> bool {
        !self.inbound.has_left_behind() && self.feeds.iter().all(Feed::is_at_rest)
    }

    /// Goes by what was tuned, if anything was.
    pub(super) fn tune(&mut self) {
        let before = (self.settings.messages_per_s, self.settings.bytes_per_s);
        self.settings.tune(&self.tuning.borrow_and_update());
        let now = (self.settings.messages_per_s, self.settings.bytes_per_s);
        if now != before {
            self.pacing = Pacing::new(now.0, now.1);
        }
    }

    /// Gives the store what is done and not settled yet.
    async fn finish(mut self) -> Result<Inbound, ForwardError> {
        let last = async {
            while let Some(settled) = self.settling.join_next().await {
                settled??;
            }
            for lane in 0..self.sources.len() {
                let runs = self.ledger.take_ready(lane);
                if !runs.is_empty() {
                    self.sources[lane].settle(&self.store, runs).await?;
                }
            }
            // Committed, not only queued: whoever forwards these streams next begins behind what was settled.
            self.store.flush(LAST_SETTLEMENT).await?;
            Ok(())
        };
        // What the store does not take in time is sent again after the next start.
        let settled = match timeout(LAST_SETTLEMENT, last).await {
            Ok(Err(ForwardError::Store(StoreError::Deadline))) | Err(_) => Ok(()),
            Ok(settled) => settled,
        };
        self.status.in_flight(0);
        self.status.stopped();
        settled.map(|()| self.inbound)
    }

    /// Begins to read every stream from the oldest message that is not done.
    pub(super) fn restart_feeds(&mut self) {
        // Reads under way began elsewhere; dropping them ends them.
        self.reads = JoinSet::new();
        for (lane, feed) in self.feeds.iter_mut().enumerate() {
            feed.restart(self.ledger.next_to_read(lane));
        }
    }

    /// The connection is gone: everything in flight is to be sent again.
    pub(super) fn forget_connection(&mut self) {
        self.ledger.disconnect();
        self.restart_feeds();
        self.status.in_flight(0);
    }

    pub(super) fn start_reads(&mut self, now: Instant) {
        for (lane, feed) in self.feeds.iter_mut().enumerate() {
            if let Some(read) = feed.wanted(now) {
                let (store, source) = (self.store.clone(), self.sources[lane]);
                self.reads.spawn(async move { (lane, read.generation, source.read(&store, read).await) });
            }
        }
    }

    pub(super) fn take_rows(&mut self, (lane, generation, rows): Rows) -> Result<(), ForwardError> {
        self.feeds[lane].arrived(Instant::now(), generation, rows?);
        Ok(())
    }

    /// A message is done without the upstream's acknowledgement.
    pub(super) fn settle(&mut self, lane: usize, seq: Sequence, fate: Fate) {
        if let Fate::Dead { reason, detail } = &fate {
            let tell = if self.sources[lane].is_replay() { Status::not_replayed } else { Status::dead };
            tell(&self.status, &self.feeds[lane].route.name, seq, reason, detail);
        }
        self.ledger.settle(lane, seq, fate);
        self.note_done(Instant::now());
    }

    /// One more message is done.
    pub(super) fn note_done(&mut self, now: Instant) {
        self.done += 1;
        self.done_since.get_or_insert(now);
    }

    /// When the next settlement is to begin, if there is something to settle and none is under way.
    pub(super) fn settle_at(&self) -> Option<Instant> {
        let since = self.done_since.filter(|_| self.settling.is_empty())?;
        Some(if self.done >= SETTLE_MESSAGES { since } else { since + SETTLE_DELAY })
    }

    pub(super) fn start_settling(&mut self, now: Instant) {
        if self.settle_at().is_none_or(|at| now < at) {
            return;
        }
        (self.done, self.done_since) = (0, None);
        let mut batch = Vec::new();
        for (lane, source) in self.sources.iter().enumerate() {
            if self.ledger.has_ready(lane) {
                batch.push((*source, self.ledger.take_ready(lane)));
            }
        }
        if batch.is_empty() {
            return;
        }
        let store = self.store.clone();
        self.settling.spawn(async move {
            for (source, runs) in batch {
                source.settle(&store, runs).await?;
            }
            Ok(())
        });
    }

    /// Sees which replays are asked for; returns ids to release.
    pub(super) fn look_at_replays(&mut self) -> Vec<u16> {
        let mut release = Vec::new();
        for replay in &mut self.replays {
            let looked = replay.look(&mut self.ledger, &mut self.suspects);
            release.extend(looked.release);
            if let (Some((lane, run)), Some(Source::Replay(stream, _))) =
                (looked.begins, looked.begins.map(|(lane, _)| self.sources[lane]))
            {
                self.sources[lane] = Source::Replay(stream, run);
                self.feeds[lane].restart(self.ledger.next_to_read(lane));
            }
        }
        release
    }

    /// A message goes to the dead letters.
    pub(super) fn bury(&mut self, lane: usize, dead: Dead) {
        let Dead { seq, reason, detail } = dead;
        self.settle(lane, seq, Fate::Dead { reason, detail });
    }

    /// A lane is read again from its oldest message that is not done, and what was refused may be sent again.
    pub(super) fn reopen(&mut self, lane: usize) {
        self.ledger.reopen(lane);
        self.feeds[lane].restart(self.ledger.next_to_read(lane));
    }
}

impl From<JoinError> for ForwardError {
    fn from(error: JoinError) -> Self {
        Self::Task(error.to_string())
    }
}
