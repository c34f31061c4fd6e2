//! Sensors: each a connection that publishes numbered messages, keeps what is unacknowledged and sends it again, in order,
//! after every reconnect. What was acknowledged is written down for the verifier.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::{io::Interest, net::TcpStream, sync::watch, time::timeout};

use crate::{
    books::{STAMP_BYTES, SeqSet, Stamp},
    histogram::{Histogram, Quantiles},
    wire::{self, Version},
};

/// Bytes gathered before they are written.
const WRITE_BATCH_BYTES: usize = 64 << 10;
/// A connection attempt may take this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait between connection attempts: a sensor is patient, a test is not.
const RECONNECT_WAIT: Duration = Duration::from_millis(50);

/// What all sensors of one run do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `host:port`.
    pub to: String,
    /// Protocol version.
    pub version: Version,
    /// `{}` becomes the number of the sensor.
    pub topic: String,
    /// Client ids are this and the number of the sensor.
    pub client_prefix: String,
    /// User name and password.
    pub login: Option<(String, String)>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Payload bytes.
    pub size: usize,
    /// Most unacknowledged messages.
    pub window: u16,
    /// Messages per sensor; `None` = until told to stop.
    pub count: Option<u64>,
    /// Messages a second and sensor; `None` = as fast as they are acknowledged.
    pub rate: Option<f64>,
    /// Sequence number of the first message.
    pub first_seq: u64,
    /// Keep the session across reconnects (always for QoS 2).
    pub keep_session: bool,
    /// After `stop`: how long acknowledgements may take.
    pub grace: Duration,
}

#[derive(Debug)]
struct Outstanding {
    seq: u64,
    packet_id: u16,
    received: bool,
    sent_unix_us: u64,
}

/// What became of one sensor.
#[derive(Debug, Default)]
pub(crate) struct SensorReport {
    /// Its number.
    pub sensor: u32,
    /// Sequence numbers that were acknowledged with success.
    pub acked: SeqSet,
    /// Sequence numbers used.
    pub sent: u64,
    /// Answered with a reason code of 0x80 or above.
    pub refused: u64,
    /// Sent again after a reconnect.
    pub resent: u64,
    /// Connections made.
    pub connects: u64,
    /// Neither acknowledged nor refused at the end.
    pub unacknowledged: u64,
    /// From sending to acknowledgement.
    pub ack_latency: Histogram,
    /// Last reason for which a connection ended.
    pub last_error: Option<String>,
}

/// What became of all of them, for JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    sensors: usize,
    sent: u64,
    acked: u64,
    refused: u64,
    resent: u64,
    unacknowledged: u64,
    connects: u64,
    /// Acknowledged messages of the sensor that got fewest, as a share of the mean.
    slowest_share: f64,
    elapsed_s: f64,
    acked_per_s: f64,
    ack: Quantiles,
    last_errors: Vec<String>,
}

impl Report {
    /// Adds up the sensors.
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn new(sensors: &[SensorReport], elapsed: Duration) -> Self {
        let sum = |figure: fn(&SensorReport) -> u64| sensors.iter().map(figure).sum::<u64>();
        let mut latency = Histogram::default();
        for sensor in sensors {
            latency.merge(&sensor.ack_latency);
        }
        let mut last_errors: Vec<_> = sensors.iter().filter_map(|s| s.last_error.clone()).collect();
        last_errors.sort();
        last_errors.dedup();
        last_errors.truncate(5);
        let acked = sum(|s| s.acked.len());
        let slowest = sensors.iter().map(|s| s.acked.len()).min().unwrap_or(0);
        Self {
            slowest_share: slowest as f64 * sensors.len() as f64 / (acked as f64).max(1.0),
            sensors: sensors.len(),
            sent: sum(|s| s.sent),
            acked,
            refused: sum(|s| s.refused),
            resent: sum(|s| s.resent),
            unacknowledged: sum(|s| s.unacknowledged),
            connects: sum(|s| s.connects),
            elapsed_s: elapsed.as_secs_f64(),
            acked_per_s: acked as f64 / elapsed.as_secs_f64().max(1e-6),
            ack: latency.quantiles(),
            last_errors,
        }
    }
}

/// Time of day in microseconds.
pub(crate) fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

struct Sensor {
    plan: Plan,
    topic: String,
    next_seq: u64,
    next_id: u16,
    outstanding: VecDeque<Outstanding>,
    payload: Vec<u8>,
    out: Vec<u8>,
    inbox: Vec<u8>,
    window: u16,
    started: Instant,
    stop: watch::Receiver<bool>,
    stop_at: Option<Instant>,
    report: SensorReport,
}

/// Runs one sensor until its count is acknowledged, or until it was told to stop and the grace is over.
pub(crate) async fn run(plan: Plan, sensor: u32, stop: watch::Receiver<bool>) -> SensorReport {
    let payload = (b'a'..=b'z').cycle().take(plan.size.max(STAMP_BYTES)).collect();
    let mut sensor = Sensor {
        topic: plan.topic.replace("{}", &sensor.to_string()),
        next_seq: plan.first_seq,
        next_id: 1,
        outstanding: VecDeque::new(),
        payload,
        out: Vec::new(),
        inbox: Vec::new(),
        window: plan.window,
        started: Instant::now(),
        stop,
        stop_at: None,
        report: SensorReport { sensor, ..SensorReport::default() },
        plan,
    };
    while !sensor.finished() {
        if let Err(error) = sensor.one_connection().await {
            sensor.report.last_error = Some(error.to_string());
            tokio::time::sleep(RECONNECT_WAIT).await;
        }
    }
    sensor.report.unacknowledged = sensor.outstanding.len() as u64;
    sensor.report
}

impl Sensor {
    fn stopping(&mut self) -> bool {
        if self.stop_at.is_none() && *self.stop.borrow() {
            self.stop_at = Some(Instant::now());
        }
        self.stop_at.is_some()
    }

    fn all_sent(&mut self) -> bool {
        self.stopping() || self.plan.count.is_some_and(|count| self.next_seq >= self.plan.first_seq + count)
    }

    fn finished(&mut self) -> bool {
        let over = self.stop_at.is_some_and(|at| at.elapsed() > self.plan.grace);
        over || (self.all_sent() && self.outstanding.is_empty())
    }

    async fn one_connection(&mut self) -> io::Result<()> {
        let stream = timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no CONNACK in time"))??;
        self.report.connects += 1;
        self.send_again();
        let mut ping_at = Instant::now() + Duration::from_secs(20);
        while !self.finished() {
            self.fill();
            if Instant::now() >= ping_at {
                wire::put_ping(&mut self.out);
                ping_at = Instant::now() + Duration::from_secs(20);
            }
            let interest =
                if self.out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            // Paced sensors wake for their next message; the others for the `stop`, which nothing on the socket announces.
            let wake = self.until_next().min(Duration::from_millis(50));
            let Ok(ready) = timeout(wake, stream.ready(interest)).await else { continue };
            let ready = ready?;
            if ready.is_writable() && !self.out.is_empty() {
                flush(&stream, &mut self.out)?;
            }
            if ready.is_readable() {
                read(&stream, &mut self.inbox)?;
                self.hear()?;
            }
        }
        wire::put_disconnect(&mut self.out);
        let _ = flush(&stream, &mut self.out);
        Ok(())
    }

    async fn connect(&mut self) -> io::Result<TcpStream> {
        self.out.clear();
        self.inbox.clear();
        let stream = TcpStream::connect(&self.plan.to).await?;
        stream.set_nodelay(true)?;
        let id = format!("{}{}", self.plan.client_prefix, self.report.sensor);
        let login = self.plan.login.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
        wire::put_connect(&mut self.out, self.plan.version, &id, !self.plan.keep_session, login);
        let answer = greet(&stream, self.plan.version, &mut self.out, &mut self.inbox).await?;
        self.window = self.plan.window.min(answer.receive_maximum);
        Ok(stream)
    }

    fn send_again(&mut self) {
        self.report.resent += self.outstanding.len() as u64;
        for lost in &self.outstanding {
            if lost.received {
                wire::put_acknowledgement(&mut self.out, wire::PUBREL, lost.packet_id);
                continue;
            }
            let stamp = Stamp { sensor: self.report.sensor, seq: lost.seq, sent_unix_us: lost.sent_unix_us };
            stamp.write(&mut self.payload);
            let Plan { version, qos, keep_session, .. } = self.plan;
            wire::put_publish(&mut self.out, version, &self.topic, qos, keep_session, lost.packet_id, &self.payload);
        }
    }

    /// Messages that its rate has let the sensor send, and the part of the next one. Sensors begin at different parts, so
    /// that a thousand of them do not all send in the same millisecond.
    fn paced(&self, rate: f64) -> f64 {
        let part = (f64::from(self.report.sensor) * 0.618_034).fract();
        self.started.elapsed().as_secs_f64() * rate + part
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "pacing")]
    fn allowed_seq(&self) -> u64 {
        let paced = self.plan.rate.map_or(u64::MAX, |rate| self.paced(rate) as u64);
        self.plan.first_seq.saturating_add(paced)
    }

    /// Until the rate lets it send again.
    fn until_next(&self) -> Duration {
        self.plan.rate.map_or(Duration::MAX, |rate| Duration::from_secs_f64((1.0 - self.paced(rate).fract()) / rate))
    }

    fn fill(&mut self) {
        if self.all_sent() {
            return;
        }
        let end = self.plan.count.map_or(u64::MAX, |count| self.plan.first_seq + count).min(self.allowed_seq());
        let now = unix_us();
        while self.next_seq < end
            && self.out.len() < WRITE_BATCH_BYTES
            && self.outstanding.len() < usize::from(self.window)
            && self.outstanding.front().is_none_or(|front| front.packet_id != self.next_id)
        {
            let (seq, packet_id) = (self.next_seq, self.next_id);
            Stamp { sensor: self.report.sensor, seq, sent_unix_us: now }.write(&mut self.payload);
            let Plan { version, qos, .. } = self.plan;
            wire::put_publish(&mut self.out, version, &self.topic, qos, false, packet_id, &self.payload);
            self.next_seq += 1;
            self.report.sent += 1;
            if qos > 0 {
                self.next_id = packet_id.checked_add(1).unwrap_or(1);
                self.outstanding.push_back(Outstanding { seq, packet_id, received: false, sent_unix_us: now });
            } else {
                self.report.acked.insert(seq);
            }
        }
    }

    fn hear(&mut self) -> io::Result<()> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut used = 0;
        let now = unix_us();
        while let Some(frame) = wire::frame(&inbox[used..])? {
            used += frame.len;
            match frame.kind() {
                wire::PUBACK | wire::PUBREC | wire::PUBCOMP => {
                    let (id, reason) = frame.acknowledgement()?;
                    self.acknowledged(frame.kind(), id, reason, now);
                }
                wire::DISCONNECT => {
                    let reason = frame.body.first().copied().unwrap_or(0);
                    return Err(io::Error::other(format!("DISCONNECT with reason 0x{reason:02x}")));
                }
                _ => {}
            }
        }
        inbox.drain(..used);
        self.inbox = inbox;
        Ok(())
    }

    fn acknowledged(&mut self, kind: u8, id: u16, reason: u8, now_us: u64) {
        let Some(place) = self.outstanding.iter().position(|o| o.packet_id == id) else { return };
        let message = &mut self.outstanding[place];
        let done = match kind {
            wire::PUBACK => true,
            wire::PUBREC if reason >= 0x80 => true,
            wire::PUBREC => {
                message.received = true;
                wire::put_acknowledgement(&mut self.out, wire::PUBREL, id);
                false
            }
            _ => message.received,
        };
        if kind != wire::PUBCOMP {
            if reason >= 0x80 {
                self.report.refused += 1;
            } else if self.report.acked.insert(message.seq) {
                self.report.ack_latency.add(now_us.saturating_sub(message.sent_unix_us));
            }
        }
        if done {
            self.outstanding.remove(place);
        }
    }
}

/// Sends what is in `out` (a CONNECT) and waits for the CONNACK; what follows it stays in `inbox`.
pub(crate) async fn greet(
    stream: &TcpStream,
    version: Version,
    out: &mut Vec<u8>,
    inbox: &mut Vec<u8>,
) -> io::Result<wire::Connack> {
    while !out.is_empty() {
        stream.writable().await?;
        flush(stream, out)?;
    }
    loop {
        stream.readable().await?;
        read(stream, inbox)?;
        let Some(frame) = wire::frame(inbox)? else { continue };
        if frame.kind() != wire::CONNACK {
            return Err(io::Error::other("something else than CONNACK came first"));
        }
        let (answer, len) = (wire::connack(frame, version)?, frame.len);
        if answer.code != 0 {
            return Err(io::Error::other(format!("CONNACK with code 0x{:02x}", answer.code)));
        }
        inbox.drain(..len);
        return Ok(answer);
    }
}

/// Writes as much as the socket takes.
pub(crate) fn flush(stream: &TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    match stream.try_write(out) {
        Ok(written) => {
            out.drain(..written);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads what the socket has.
pub(crate) fn read(stream: &TcpStream, inbox: &mut Vec<u8>) -> io::Result<()> {
    match stream.try_read_buf(inbox) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other side")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}
