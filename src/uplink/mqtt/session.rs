//! One MQTT connection: bytes out, bytes in, both at once; pings.
//!
//! Two buffers: what is queued and not yet written, and what was read and is not yet a whole packet. The first is bounded by
//! its user (who looks at [`Session::queued_bytes`]), the second by the largest packet that is accepted. One call of
//! [`Session::drive`] writes what the socket takes and reads what is there, at most [`READS_PER_TURN`] times, so that neither direction starves the other.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{
    super::{Answer, Delivery, Error, Event, Greeting, Session, Step, TooLarge, Version, dial::Wire},
    codec::{self, Incoming, MAX_INCOMING_BYTES, MAX_MESSAGE_BYTES, Publisher},
    inbound::{self, Asking, Size, Unsure},
    meaning,
};
use crate::message::QoS;

/// Bytes asked for in one read.
const READ_BYTES: usize = 16 * 1024;

/// Most reads in one turn.
const READS_PER_TURN: usize = 4;

/// Longest wait for the good-bye to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Shortest wait for the answer to a ping.
const MIN_PING_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to an MQTT broker, logged in.
pub struct MqttSession {
    wire: Box<dyn Wire>,
    version: Version,
    greeting: Greeting,
    publisher: Publisher,
    max_packet: usize,
    out: BytesMut,
    read: BytesMut,
    queued: u64,
    written: u64,
    needs_flush: bool,
    /// Whether something came since the last write.
    owes_tcp_ack: bool,
    pulse: Pulse,
    /// Position behind the last ping.
    ping_end: u64,
    /// Where there are subscriptions.
    asking: Option<Asking>,
    unsure: Option<Unsure>,
    /// Bytes that are still to come of a message that is larger than we take.
    skipping: usize,
}

/// When something last went each way; pure, so `now` is an argument.
#[derive(Debug, Clone, Copy)]
struct Pulse {
    /// Keep alive interval; `None` where it is switched off.
    interval: Option<Duration>,
    last_sent: Instant,
    last_received: Instant,
    /// When the ping that is not answered yet was queued or last made way towards the socket.
    ping_since: Option<Instant>,
}

/// What keep alive asks for.
#[derive(Debug, PartialEq, Eq)]
enum Beat {
    /// Nothing before this time.
    Rest(Instant),
    /// A ping is due.
    Ping,
    /// The answer to the last ping is overdue.
    Dead(Duration),
}

impl Pulse {
    fn new(keep_alive: Duration, now: Instant) -> Self {
        let interval = (!keep_alive.is_zero()).then_some(keep_alive);
        Self { interval, last_sent: now, last_received: now, ping_since: None }
    }

    /// `None` where keep alive is switched off.
    ///
    /// A ping is due when either direction was silent for three quarters of the interval: the upstream must hear us within it,
    /// and at QoS 0 only a ping makes the upstream say anything at all. Whatever comes is an answer.
    fn check(&self, now: Instant) -> Option<Beat> {
        let interval = self.interval?;
        if let Some(since) = self.ping_since {
            let limit = interval.max(MIN_PING_TIMEOUT);
            return Some(if now >= since + limit { Beat::Dead(limit) } else { Beat::Rest(since + limit) });
        }
        let due = self.last_sent.min(self.last_received) + interval * 3 / 4;
        Some(if now >= due { Beat::Ping } else { Beat::Rest(due) })
    }
}

impl MqttSession {
    pub(super) fn new(
        wire: Box<dyn Wire>,
        read: BytesMut,
        version: Version,
        greeting: Greeting,
        keep_alive: Duration,
        max_packet: usize,
    ) -> Self {
        Self {
            wire,
            version,
            greeting,
            publisher: Publisher::new(version),
            max_packet,
            out: BytesMut::new(),
            read,
            queued: 0,
            written: 0,
            needs_flush: false,
            owes_tcp_ack: false,
            pulse: Pulse::new(keep_alive, Instant::now()),
            ping_end: 0,
            asking: None,
            unsure: None,
            skipping: 0,
        }
    }

    /// The same with subscriptions.
    pub(super) fn asking(mut self, asking: Option<Asking>) -> Self {
        let is_unsure = self.greeting.session_present && self.greeting.qos == QoS::ExactlyOnce;
        self.unsure = (asking.is_some() && is_unsure).then(Unsure::new);
        self.asking = asking;
        self
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>, events: &mut Vec<Event>) -> Poll<Result<(), Error>> {
        let wrote = self.poll_write(cx);
        // Read even when writing failed: the upstream's last words say why.
        let read = self.poll_read(cx, events);
        match (wrote, read) {
            (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Err(cause)), _) => Poll::Ready(Err(self.io_error(cause))),
            (Poll::Ready(Ok(())), _) | (_, Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    }

    /// Ready when something was written, or flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wrote = false;
        while !self.out.is_empty() {
            match Pin::new(&mut self.wire).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.out.advance(count);
                    self.needs_flush = true;
                    self.owes_tcp_ack = false;
                    wrote = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        let mut flushed = false;
        if self.needs_flush {
            match Pin::new(&mut self.wire).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.needs_flush = false;
                    self.written = self.queued - self.out.len() as u64;
                    flushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        if wrote {
            let now = Instant::now();
            self.pulse.last_sent = now;
            // On a slow link the ping waits behind what was queued before it; its time runs from when it left.
            if self.written < self.ping_end {
                self.pulse.ping_since = self.pulse.ping_since.map(|_| now);
            }
        }
        if wrote || flushed { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready when something came.
    fn poll_read(&mut self, cx: &mut Context<'_>, events: &mut Vec<Event>) -> Poll<Result<(), Error>> {
        // What came behind the CONNACK is already here.
        let mut came = self.take_packets(events)?;
        for _ in 0..READS_PER_TURN {
            match self.poll_read_once(cx) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Error::Closed { url: self.greeting.url.clone(), step: Step::Session }));
                }
                Poll::Ready(Ok(_)) => {
                    self.pulse.last_received = Instant::now();
                    self.pulse.ping_since = None;
                    self.owes_tcp_ack = true;
                    came = true;
                    self.take_packets(events)?;
                }
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(self.io_error(cause))),
                Poll::Pending => break,
            }
        }
        if came { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_read_once(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.wire).poll_read(cx, &mut buffer))?;
        self.read.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Turns bytes into events; says whether there were any packets.
    fn take_packets(&mut self, events: &mut Vec<Event>) -> Result<bool, Error> {
        let mut any = false;
        let max = if self.asking.is_some() { MAX_MESSAGE_BYTES } else { MAX_INCOMING_BYTES };
        loop {
            if self.asking.is_some() && self.skip_oversized(max, events) {
                break;
            }
            let frame = codec::take_frame(&mut self.read, max).map_err(|cause| self.protocol_error(cause))?;
            let Some(frame) = frame else { break };
            any = true;
            match codec::read(self.version, frame).map_err(|cause| self.protocol_error(cause))? {
                Incoming::Event(Event::Completed(reply))
                    if self.unsure.as_mut().is_some_and(|unsure| unsure.was_released(reply.id)) => {}
                Incoming::Event(Event::Arrived(_)) if self.asking.is_none() => {
                    tracing::debug!(url = self.greeting.url, "message nobody asked for");
                }
                Incoming::Event(event) => events.push(event),
                Incoming::Subscribed(id, codes) => self.subscribed(id, &codes),
                Incoming::Pong => {}
                Incoming::Other(kind) => tracing::debug!(url = self.greeting.url, kind, "packet nobody asked for"),
                Incoming::Greeting(_) => return Err(self.protocol_error("a second CONNACK".to_owned())),
                Incoming::Disconnect(code, text) => {
                    return Err(Error::Disconnected { url: self.greeting.url.clone(), code, text });
                }
            }
        }
        Ok(any)
    }

    /// Takes a message that is larger than we take off the input, as it comes; true while more of it is to come.
    fn skip_oversized(&mut self, max: u32, events: &mut Vec<Event>) -> bool {
        if self.skipping == 0 {
            match inbound::oversized(&self.read, max) {
                Size::Fits => return false,
                Size::Unknown => return true,
                Size::TooLarge(arrived, bytes) => {
                    tracing::warn!(
                        url = self.greeting.url,
                        bytes,
                        max,
                        "a message that is larger than this gateway takes"
                    );
                    events.push(Event::Arrived(arrived));
                    self.skipping = bytes;
                }
            }
        }
        let here = self.skipping.min(self.read.len());
        self.read.advance(here);
        self.skipping -= here;
        self.skipping > 0 || self.read.is_empty() || self.skip_oversized(max, events)
    }

    /// The upstream has answered a SUBSCRIBE.
    fn subscribed(&mut self, id: u16, codes: &[u8]) {
        let refused = self.asking.as_mut().map(|asking| asking.answered(id, codes)).unwrap_or_default();
        for (subscription, code) in refused {
            let (filter, meaning) = (subscription.filter, meaning::publish(code));
            let url = &self.greeting.url;
            tracing::warn!(url, %filter, code, error = meaning, "the upstream refused a subscription; it is asked again later");
        }
    }

    fn ask(&mut self, now: Instant) -> Option<Instant> {
        let before = self.out.len();
        let look_at = self.asking.as_mut().and_then(|asking| asking.ask(self.version, now, &mut self.out));
        self.queued += (self.out.len() - before) as u64;
        look_at
    }

    fn io_error(&self, cause: io::Error) -> Error {
        Error::Io { url: self.greeting.url.clone(), step: Step::Session, cause }
    }

    fn protocol_error(&self, cause: String) -> Error {
        Error::Protocol { url: self.greeting.url.clone(), step: Step::Session, cause }
    }
}

impl Session for MqttSession {
    fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    fn queue(&mut self, delivery: &Delivery<'_>) -> Result<u64, TooLarge> {
        let is_new = delivery.qos == QoS::ExactlyOnce && !delivery.dup;
        if is_new && self.unsure.as_mut().is_some_and(|unsure| unsure.must_release(delivery.id)) {
            self.queue_release(delivery.id);
        }
        let before = self.out.len();
        self.publisher.write(delivery, self.max_packet, &mut self.out)?;
        self.queued += (self.out.len() - before) as u64;
        Ok(self.queued)
    }

    fn queue_answer(&mut self, answer: Answer) {
        let before = self.out.len();
        inbound::write_answer(self.version, answer, &mut self.out);
        self.queued += (self.out.len() - before) as u64;
    }

    fn queue_release(&mut self, id: u16) {
        let before = self.out.len();
        codec::write_release(self.version, id, &mut self.out);
        self.queued += (self.out.len() - before) as u64;
    }

    fn queued_bytes(&self) -> usize {
        self.out.len()
    }

    fn written(&self) -> u64 {
        self.written
    }

    async fn drive(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        // What is queued takes the acknowledgement of what came along; where nothing is, it goes by itself.
        if self.owes_tcp_ack && self.out.is_empty() {
            self.wire.acknowledge_now();
            self.owes_tcp_ack = false;
        }
        poll_fn(|cx| self.poll_drive(cx, events)).await
    }

    fn keep_alive(&mut self, now: Instant) -> Result<Option<Instant>, Error> {
        let ask_at = self.ask(now);
        match self.pulse.check(now) {
            None => Ok(ask_at),
            Some(Beat::Rest(until)) => Ok(Some(ask_at.map_or(until, |at| at.min(until)))),
            Some(Beat::Dead(limit)) => Err(Error::KeepAlive { url: self.greeting.url.clone(), limit }),
            Some(Beat::Ping) => {
                self.out.extend_from_slice(&codec::PINGREQ);
                self.queued += codec::PINGREQ.len() as u64;
                self.ping_end = self.queued;
                self.pulse.ping_since = Some(now);
                self.keep_alive(now)
            }
        }
    }

    async fn close(mut self, for_good: bool) {
        // With subscriptions the session is kept: messages for us gather there.
        codec::write_disconnect(self.version, for_good && self.asking.is_none(), &mut self.out);
        let bye = async {
            self.wire.write_all(&self.out).await?;
            self.wire.flush().await?;
            self.wire.shutdown().await
        };
        // The connection may be broken already; then there is nobody to say good-bye to.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, bye).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_due_when_either_direction_was_silent() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut pulse = Pulse::new(40 * second, start);
        assert_eq!(pulse.check(start + 29 * second), Some(Beat::Rest(start + 30 * second)));
        assert_eq!(pulse.check(start + 30 * second), Some(Beat::Ping));
        pulse.last_sent = start + 25 * second;
        assert_eq!(pulse.check(start + 30 * second), Some(Beat::Ping));
        pulse.ping_since = Some(start + 30 * second);
        assert_eq!(pulse.check(start + 69 * second), Some(Beat::Rest(start + 70 * second)));
        assert_eq!(pulse.check(start + 70 * second), Some(Beat::Dead(40 * second)));
    }

    #[test]
    fn a_keep_alive_of_zero_switches_pings_off() {
        let start = Instant::now();
        assert_eq!(Pulse::new(Duration::ZERO, start).check(start + Duration::from_secs(9999)), None);
    }
}
