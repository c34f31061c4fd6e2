//! The stage: all parts together, and the order of events.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    DEADLINE, Error, Options,
    gate::Gate,
    gateway::Gateway,
    proof::{Proof, Times},
    screen::{Mark, Moment, Screen, thousands},
    sensor::{Sensor, Tally},
    upstream::Upstream,
};

/// Time between two looks at everything.
const TICK: Duration = Duration::from_millis(40);
/// How long the phases take that have a length of their own.
const ONLINE: Duration = Duration::from_secs(4);
const OUTAGE_BEFORE_KILL: Duration = Duration::from_secs(4);
const OUTAGE_AFTER_RESTART: Duration = Duration::from_secs(3);
const AFTER_DRAIN: Duration = Duration::from_secs(3);
/// How long the gateway stays dead, so that the sensors notice.
const DEAD: Duration = Duration::from_millis(500);
/// How long any other wait may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the subscriber may be behind what the upstream has acknowledged, before what is missing counts as lost.
const SUBSCRIBER_BEHIND: Duration = Duration::from_secs(10);

/// All parts.
pub(super) struct Stage {
    screen: Screen,
    options: Options,
    upstream: Upstream,
    gate: Gate,
    gateway: Gateway,
    tally: Arc<Tally>,
    stop_sensors: CancellationToken,
    /// Each returns its number and how many readings it published.
    sensors: JoinSet<(usize, u64)>,
    begin: Instant,
    largest_backlog: u64,
}

/// The figures of a moment, for conditions.
#[derive(Clone, Copy)]
struct Now {
    /// `None` while the gateway is down.
    backlog: Option<u64>,
    acknowledged: u64,
    /// Different messages that have arrived upstream, by their `tg-id`.
    ids: u64,
}

impl Stage {
    /// Starts the upstream and prepares the rest.
    pub(super) async fn build(options: &Options) -> Result<Self, Error> {
        let upstream = Upstream::start(options.sensors).await?;
        let gate = Gate::before(upstream.address)
            .await
            .map_err(|source| Error::Io { what: "put a gate before the upstream", source })?;
        let gateway = Gateway::prepare(gate.address())?;
        let outage = OUTAGE_BEFORE_KILL + DEAD + OUTAGE_AFTER_RESTART;
        Ok(Self {
            screen: Screen::new(u64::from(options.messages_per_s) * outage.as_secs()),
            options: options.clone(),
            upstream,
            gate,
            gateway,
            tally: Arc::default(),
            stop_sensors: CancellationToken::new(),
            sensors: JoinSet::new(),
            begin: Instant::now(),
            largest_backlog: 0,
        })
    }

    /// The whole play.
    pub(super) async fn play(&mut self) -> Result<Proof, Error> {
        let mut times = Times::default();
        self.introduce();
        let ready = self.gateway.start().await?;
        let text = format!("gateway ready after {} ms (process {})", ready.as_millis(), self.pid());
        self.screen.event(Mark::Good, &text);
        self.start_sensors();
        self.pass("online", ONLINE).await?;
        let memory_before = self.gateway.resident_bytes().await?;

        let outage = Instant::now();
        self.gate.shut();
        self.screen.event(Mark::Bad, "outage: the gate before the upstream is shut");
        self.pass("outage", OUTAGE_BEFORE_KILL).await?;
        times.restart = self.kill_and_restart().await?;
        self.pass("outage", OUTAGE_AFTER_RESTART).await?;
        let memory_with_backlog = self.gateway.resident_bytes().await?;

        times.outage = outage.elapsed();
        self.drain(&mut times).await?;
        self.pass("online", AFTER_DRAIN).await?;

        let published = self.finish().await?;
        times.total = self.begin.elapsed();
        let proof = self.prove(&published, times).await?;
        Ok(Proof { memory_bytes_before: memory_before, memory_bytes_with_backlog: memory_with_backlog, ..proof })
    }

    fn introduce(&mut self) {
        let Options { sensors, messages_per_s, .. } = self.options;
        let version_5 = sensors.div_ceil(2);
        let title = self.screen.paint("1", "Tidegate demo");
        let folder = self.gateway.data_dir();
        for line in [
            format!("\n  {title}   sensors ──▶ gateway ──▶ upstream, with an outage and a kill -9\n"),
            format!(
                "  sensors    {sensors} rumqttc clients ({version_5} MQTT 5, {} MQTT 3.1.1), QoS 1, {}/s",
                sensors - version_5,
                thousands(messages_per_s.into())
            ),
            format!("  gateway    this program, a process of its own on {},", self.gateway.mqtt),
            format!("             synced commits in {}", folder.display()),
            "  upstream   an embedded rumqttd server; a subscriber there checks every message".to_owned(),
            "             rumqttd cannot be stopped, so a TCP gate before it makes the outage\n".to_owned(),
        ] {
            self.screen.say(&line);
        }
    }

    fn pid(&self) -> u32 {
        self.gateway.pid().unwrap_or_default()
    }

    fn start_sensors(&mut self) {
        let count = self.options.sensors;
        for number in 0..count {
            #[allow(clippy::cast_precision_loss, reason = "there are at most 99 sensors")]
            let per_s = f64::from(self.options.messages_per_s) / count as f64;
            let sensor = Sensor {
                number,
                gateway: self.gateway.mqtt,
                version_5: number % 2 == 0,
                per_s,
                tally: Arc::clone(&self.tally),
                stop: self.stop_sensors.clone(),
            };
            self.sensors.spawn(async move { (number, sensor.run().await) });
        }
    }

    async fn kill_and_restart(&mut self) -> Result<Duration, Error> {
        let backlog = self.look("outage").await?.backlog.unwrap_or_default();
        let pid = self.pid();
        self.gateway.kill();
        let text = format!("kill -9 of the gateway (process {pid}), backlog {}", thousands(backlog));
        self.screen.event(Mark::Bad, &text);
        self.pass("killed", DEAD).await?;
        let ready = self.gateway.start().await?;
        let backlog = self.look("outage").await?.backlog.unwrap_or_default();
        let text = format!(
            "gateway ready after {} ms (process {}), backlog {}",
            ready.as_millis(),
            self.pid(),
            thousands(backlog)
        );
        self.screen.event(Mark::Good, &text);
        Ok(ready)
    }

    /// From the upstream's return until all that waited then has arrived, while the sensors go on.
    async fn drain(&mut self, times: &mut Times) -> Result<(), Error> {
        let waiting = self.look("drain").await?.backlog.unwrap_or_default();
        let before = self.upstream.book().distinct_ids();
        self.gate.open();
        let opened = Instant::now();
        let text =
            format!("the upstream is back after {:.1} s, backlog {}", times.outage.as_secs_f64(), thousands(waiting));
        self.screen.event(Mark::Good, &text);
        self.until("drain", "the first message after the outage", |now| now.ids > before).await?;
        times.reconnect = opened.elapsed();
        let draining = Instant::now();
        let now = self.until("drain", "the backlog to arrive", |now| now.ids >= before + waiting).await?;
        times.drain = draining.elapsed();
        times.drained = now.ids - before;
        let text = format!("all that waited has arrived, {:.2} s after the first of it", times.drain.as_secs_f64());
        self.screen.event(Mark::Good, &text);
        Ok(())
    }

    /// Stops the sensors, and waits until everything is acknowledged and has arrived. Returns what each published.
    async fn finish(&mut self) -> Result<Vec<(usize, u64)>, Error> {
        self.stop_sensors.cancel();
        self.screen.event(Mark::Plain, "the sensors stop; what is on its way arrives");
        let sent = Arc::clone(&self.tally);
        self.until("finish", "the last acknowledgements", |now| now.acknowledged >= sent.sent.load(Relaxed)).await?;
        let mut published = Vec::new();
        while let Some(sensor) = self.sensors.join_next().await {
            published.push(sensor.map_err(|e| Error::Io { what: "run a sensor", source: e.into() })?);
        }
        self.until("finish", "the backlog to be empty", |now| now.backlog == Some(0)).await?;
        // The upstream has acknowledged all; its subscriber gets the rest at its own pace.
        let forwarded = self.gateway.figures().await?.forwarded;
        let late = Instant::now() + SUBSCRIBER_BEHIND;
        while self.upstream.book().distinct_ids() < forwarded && Instant::now() < late {
            self.look("finish").await?;
            tokio::time::sleep(TICK).await;
        }
        Ok(published)
    }

    async fn prove(&mut self, published: &[(usize, u64)], times: Times) -> Result<Proof, Error> {
        let books = self.gateway.figures().await?;
        self.gateway.stop().await?;
        self.screen.event(Mark::Plain, "the gateway stopped in order");
        let book = self.upstream.book();
        let proof = Proof {
            sent: published.iter().map(|(_, count)| count).sum(),
            acknowledged: self.tally.acknowledged.load(Relaxed),
            received: book.distinct(),
            duplicates: book.duplicates(),
            published_again: book.published_again(),
            lost: published.iter().map(|(sensor, count)| book.missing(*sensor, *count)).sum(),
            out_of_order: book.out_of_order(),
            largest_backlog: self.largest_backlog,
            ..Proof::default()
        };
        Ok(proof.with_books(books, book.distinct_ids()).with_times(times))
    }

    /// Lets time pass while everything runs.
    async fn pass(&mut self, phase: &'static str, time: Duration) -> Result<(), Error> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look(phase).await?;
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Waits for a condition, at most [`PATIENCE`].
    async fn until(
        &mut self,
        phase: &'static str,
        what: &'static str,
        mut condition: impl FnMut(Now) -> bool,
    ) -> Result<Now, Error> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let now = self.look(phase).await?;
            if condition(now) {
                return Ok(now);
            }
            tokio::time::sleep(TICK).await;
        }
        Err(self.late(what, PATIENCE))
    }

    fn late(&self, what: &'static str, after: Duration) -> Error {
        Error::Late { what, after_s: after.as_secs(), log: self.gateway.log_tail() }
    }

    /// Looks at every part: shows the figures, and fails if something is wrong.
    async fn look(&mut self, phase: &'static str) -> Result<Now, Error> {
        if self.begin.elapsed() > DEADLINE {
            return Err(self.late("the end of the demo", DEADLINE));
        }
        if let Some(fault) = self.upstream.fault() {
            return Err(Error::Upstream(fault));
        }
        self.gateway.check()?;
        let backlog = match self.gateway.pid() {
            Some(_) => Some(self.gateway.figures().await?.backlog.messages),
            None => None,
        };
        self.largest_backlog = self.largest_backlog.max(backlog.unwrap_or_default());
        let sent = self.tally.sent.load(Relaxed);
        let acknowledged = self.tally.acknowledged.load(Relaxed);
        let ids = self.upstream.book().distinct_ids();
        self.screen.show(Moment { phase, sent, acknowledged, backlog, arrived: ids });
        Ok(Now { backlog, acknowledged, ids })
    }

    /// Takes the moving part of the screen away.
    pub(super) fn clear(&mut self) {
        self.screen.clear();
    }
}
