//! The verifier: a subscriber that enters every arrival in the books and says at the end what was lost, swapped or repeated.

use std::{
    io,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{io::Interest, net::TcpStream, sync::mpsc, time::timeout};

use crate::{
    books::{Acknowledged, Arrivals, Figures, Stamp},
    histogram::{Histogram, Quantiles},
    publish::{flush, greet, read, unix_us},
    wire::{self, Version},
};

/// What to subscribe to, and when to be done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `host:port`.
    pub from: String,
    /// Protocol version (5 is needed to see `tg-id`).
    pub version: Version,
    /// Topic filter.
    pub filter: String,
    /// 0 or 1.
    pub qos: u8,
    /// Client id.
    pub client_id: String,
    /// User name and password.
    pub login: Option<(String, String)>,
    /// Keep the session across reconnects.
    pub keep_session: bool,
    /// Give up waiting for the rest when nothing came for this long.
    pub idle: Duration,
    /// When all is there: how long to listen for repetitions.
    pub linger: Duration,
}

/// What the harness says while the verifier runs.
#[derive(Debug)]
pub(crate) enum Order {
    /// Finish when everything in this journal has arrived.
    Expect(Acknowledged),
    /// Finish when this many different messages have arrived.
    Count(u64),
    /// Say how many have arrived.
    Status,
}

/// The result, for JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    figures: Figures,
    expected: u64,
    lost: u64,
    /// The first few of what was lost: sensor, first, last.
    lost_ranges: Vec<(u32, u64, u64)>,
    connects: u64,
    /// From the first to the last first delivery.
    elapsed_s: f64,
    per_s: f64,
    latency: Quantiles,
    last_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Status<'a> {
    #[serde(flatten)]
    figures: &'a Figures,
    connected: bool,
}

#[derive(Debug)]
enum Goal {
    None,
    Journal(Acknowledged),
    Count(u64),
}

struct Verifier {
    plan: Plan,
    orders: mpsc::Receiver<Order>,
    arrivals: Arrivals,
    latency: Histogram,
    first: Option<Instant>,
    last: Option<Instant>,
    /// When anything came last, or when the goal was set.
    heard: Instant,
    goal: Goal,
    met: Option<Instant>,
    checked_at_distinct: u64,
    announced: bool,
    connected: bool,
    connects: u64,
    last_error: Option<String>,
    out: Vec<u8>,
    inbox: Vec<u8>,
}

/// Runs until the goal is met, or nothing more comes. Prints `ready` when subscribed, and a line for every `status`.
pub(crate) async fn run(plan: Plan, orders: mpsc::Receiver<Order>) -> Report {
    let mut verifier = Verifier {
        plan,
        orders,
        arrivals: Arrivals::default(),
        latency: Histogram::default(),
        first: None,
        last: None,
        heard: Instant::now(),
        goal: Goal::None,
        met: None,
        checked_at_distinct: u64::MAX,
        announced: false,
        connected: false,
        connects: 0,
        last_error: None,
        out: Vec::new(),
        inbox: Vec::new(),
    };
    while !verifier.finished() {
        if let Err(error) = verifier.one_connection().await {
            verifier.connected = false;
            verifier.last_error = Some(error.to_string());
            verifier.obey();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    verifier.report()
}

impl Verifier {
    fn finished(&mut self) -> bool {
        if matches!(self.goal, Goal::None) {
            return false;
        }
        if self.met.is_none() && self.goal_met() {
            self.met = Some(Instant::now());
        }
        self.met.is_some_and(|at| at.elapsed() > self.plan.linger) || self.heard.elapsed() > self.plan.idle
    }

    fn goal_met(&mut self) -> bool {
        let distinct = self.arrivals.figures.distinct;
        match &self.goal {
            Goal::None => false,
            Goal::Count(count) => distinct >= *count,
            Goal::Journal(journal) => {
                // The full comparison costs time: only when enough came, and only when something changed.
                if distinct < journal.count() || distinct == self.checked_at_distinct {
                    return false;
                }
                self.checked_at_distinct = distinct;
                self.arrivals.missing(journal).0 == 0
            }
        }
    }

    fn obey(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Expect(journal) => self.goal = Goal::Journal(journal),
                Order::Count(count) => self.goal = Goal::Count(count),
                Order::Status => {
                    let status = Status { figures: &self.arrivals.figures, connected: self.connected };
                    say(&serde_json::to_string(&status).unwrap_or_default());
                    continue;
                }
            }
            self.heard = Instant::now();
        }
    }

    async fn one_connection(&mut self) -> io::Result<()> {
        let stream = timeout(Duration::from_secs(10), self.connect())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no CONNACK in time"))??;
        self.connects += 1;
        self.connected = true;
        let mut ping_at = Instant::now() + Duration::from_secs(20);
        while !self.finished() {
            self.obey();
            if Instant::now() >= ping_at {
                wire::put_ping(&mut self.out);
                ping_at = Instant::now() + Duration::from_secs(20);
            }
            let interest =
                if self.out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let Ok(ready) = timeout(Duration::from_millis(20), stream.ready(interest)).await else { continue };
            let ready = ready?;
            if ready.is_readable() {
                read(&stream, &mut self.inbox)?;
                self.hear()?;
            }
            if !self.out.is_empty() {
                flush(&stream, &mut self.out)?;
            }
        }
        Ok(())
    }

    async fn connect(&mut self) -> io::Result<TcpStream> {
        self.out.clear();
        self.inbox.clear();
        let stream = TcpStream::connect(&self.plan.from).await?;
        stream.set_nodelay(true)?;
        let Plan { version, ref client_id, keep_session, ref login, .. } = self.plan;
        let login = login.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
        wire::put_connect(&mut self.out, version, client_id, !keep_session, login);
        let answer = greet(&stream, version, &mut self.out, &mut self.inbox).await?;
        if !answer.session_present {
            wire::put_subscribe(&mut self.out, version, &self.plan.filter, self.plan.qos);
        }
        self.hear()?;
        Ok(stream)
    }

    fn hear(&mut self) -> io::Result<()> {
        let inbox = std::mem::take(&mut self.inbox);
        let mut used = 0;
        let now_us = unix_us();
        while let Some(frame) = wire::frame(&inbox[used..])? {
            used += frame.len;
            match frame.kind() {
                wire::PUBLISH => self.arrived(wire::publish(frame, self.plan.version)?, now_us),
                wire::SUBACK => {
                    let code = frame.body.last().copied().unwrap_or(0x80);
                    if code >= 0x80 {
                        return Err(io::Error::other(format!("SUBACK with code 0x{code:02x}")));
                    }
                    if !std::mem::replace(&mut self.announced, true) {
                        say("ready");
                    }
                }
                wire::DISCONNECT => {
                    let reason = frame.body.first().copied().unwrap_or(0);
                    return Err(io::Error::other(format!("DISCONNECT with reason 0x{reason:02x}")));
                }
                _ => {}
            }
        }
        self.inbox = inbox;
        self.inbox.drain(..used);
        Ok(())
    }

    fn arrived(&mut self, publish: wire::Publish<'_>, now_us: u64) {
        if publish.qos == 1 {
            wire::put_acknowledgement(&mut self.out, wire::PUBACK, publish.packet_id);
        }
        let now = Instant::now();
        self.heard = now;
        let Some(stamp) = Stamp::read(publish.payload) else {
            self.arrivals.figures.foreign += 1;
            return;
        };
        if self.arrivals.enter(stamp, publish.tg_id) {
            self.latency.add(now_us.saturating_sub(stamp.sent_unix_us));
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn report(self) -> Report {
        let (lost, mut lost_ranges) = match &self.goal {
            Goal::Journal(journal) => self.arrivals.missing(journal),
            Goal::Count(count) => (count.saturating_sub(self.arrivals.figures.distinct), Vec::new()),
            Goal::None => (0, Vec::new()),
        };
        lost_ranges.truncate(20);
        let expected = match &self.goal {
            Goal::Journal(journal) => journal.count(),
            Goal::Count(count) => *count,
            Goal::None => 0,
        };
        let elapsed_s = self.first.zip(self.last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        Report {
            expected,
            lost,
            lost_ranges,
            connects: self.connects,
            elapsed_s,
            per_s: self.arrivals.figures.distinct as f64 / elapsed_s.max(1e-6),
            latency: self.latency.quantiles(),
            last_error: self.last_error,
            figures: self.arrivals.figures,
        }
    }
}

#[allow(clippy::print_stdout, reason = "the harness reads this tool's standard output")]
fn say(line: &str) {
    use io::Write as _;
    println!("{line}");
    let _ = io::stdout().flush();
}
