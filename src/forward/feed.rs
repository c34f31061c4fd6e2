//! Reading ahead: what one stream has in memory, and what it should read next; pure but for the store's watch.
//!
//! Two chunks of a stream are in memory at most: one being sent while the other is being read. The streams of an uplink share
//! [`READ_AHEAD_BYTES`], but no stream gets chunks smaller than [`MIN_CHUNK_BYTES`]; a message larger than a chunk is read alone. While connected
//! no row is read twice; a disconnect forgets everything in memory.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::Route;
use crate::store::{Position, Sequence, Stored};

/// Bytes of messages that one uplink reads ahead.
const READ_AHEAD_BYTES: usize = 1024 * 1024;

/// Smallest chunk.
const MIN_CHUNK_BYTES: usize = 16 * 1024;

/// Most messages in a chunk.
const CHUNK_MESSAGES: usize = 1024;

/// What a message costs in memory beyond its bytes, about.
const OVERHEAD_BYTES: usize = 256;

/// When to look again although the position did not change: rows above those in flight may have been purged meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One stream on its way upstream.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) route: Route,
    position: watch::Receiver<Position>,
    paused: Arc<AtomicBool>,
    chunk_bytes: usize,
    /// The next row to read.
    next: Sequence,
    /// Messages with the time at which they were read.
    buffer: VecDeque<(Instant, Stored)>,
    buffered_bytes: usize,
    is_reading: bool,
    /// Counts the restarts: what was read before the last one is of no use.
    generation: u32,
    /// The position at which, and when, a read found nothing.
    dry: Option<(Position, Instant)>,
}

/// A read to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) from: Sequence,
    pub(super) max_messages: usize,
    pub(super) max_bytes: usize,
    /// To be given back with the rows.
    pub(super) generation: u32,
}

impl Feed {
    /// `feeds`: how many streams share the uplink.
    pub(super) fn new(
        route: Route,
        position: watch::Receiver<Position>,
        paused: Arc<AtomicBool>,
        feeds: usize,
    ) -> Self {
        let chunk_bytes = (READ_AHEAD_BYTES / (2 * feeds.max(1))).max(MIN_CHUNK_BYTES);
        Self {
            route,
            position,
            paused,
            chunk_bytes,
            next: 0,
            buffer: VecDeque::new(),
            buffered_bytes: 0,
            is_reading: false,
            generation: 0,
            dry: None,
        }
    }

    /// Forgets what is in memory, and what is being read, and begins at `next`.
    pub(super) fn restart(&mut self, next: Sequence) {
        self.generation = self.generation.wrapping_add(1);
        self.next = next;
        self.buffer = VecDeque::new();
        self.buffered_bytes = 0;
        self.is_reading = false;
        self.dry = None;
    }

    /// The read to make now, if any.
    pub(super) fn wanted(&mut self, now: Instant) -> Option<Read> {
        if self.is_reading || self.is_full() {
            return None;
        }
        let position = *self.position.borrow();
        let from = self.next.max(position.head);
        let was_dry = self.dry.is_some_and(|(at, when)| at == position && now < when + LOOK_AGAIN);
        if from >= position.next || was_dry {
            return None;
        }
        self.is_reading = true;
        self.dry = Some((position, now));
        let generation = self.generation;
        Some(Read { from, max_messages: CHUNK_MESSAGES, max_bytes: self.chunk_bytes, generation })
    }

    /// Whether everything there is has been read and taken, so that only news can bring something; not where a read found nothing, for it is
    /// made again.
    pub(super) fn is_at_rest(&self) -> bool {
        let position = *self.position.borrow();
        self.buffer.is_empty() && !self.is_reading && self.next.max(position.head) >= position.next
    }

    /// Rows came, of the read with this generation.
    pub(super) fn arrived(&mut self, now: Instant, generation: u32, rows: Vec<Stored>) {
        if generation != self.generation {
            return;
        }
        self.is_reading = false;
        if let Some(last) = rows.last() {
            self.next = last.seq + 1;
            self.dry = None;
        }
        for row in rows {
            self.buffered_bytes += cost(&row);
            self.buffer.push_back((now, row));
        }
    }

    /// Messages in memory, in order, with the time at which they were read.
    pub(super) fn rows(&self) -> impl Iterator<Item = &(Instant, Stored)> {
        self.buffer.iter()
    }

    /// Whether there is nothing in memory, and nothing more to come as far as is known.
    pub(super) fn is_at_end(&self) -> bool {
        self.buffer.is_empty() && self.is_read()
    }

    /// Whether all there is is in memory, or as much as there is room for.
    pub(super) fn is_read(&self) -> bool {
        let position = *self.position.borrow();
        let was_dry = self.dry.is_some_and(|(at, _)| at == position);
        !self.is_reading && (self.is_full() || was_dry || self.next.max(position.head) >= position.next)
    }

    fn is_full(&self) -> bool {
        self.buffered_bytes > self.chunk_bytes || self.buffer.len() > CHUNK_MESSAGES
    }

    /// The next message and when it was read.
    pub(super) fn front(&self) -> Option<&(Instant, Stored)> {
        self.buffer.front()
    }

    /// Whether an operator has paused the stream: nothing new is to be sent.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Forgets messages in memory that have left the stream since they were read: purged, dropped, expired.
    pub(super) fn forget_what_left(&mut self) {
        let head = self.position.borrow().head;
        while self.buffer.front().is_some_and(|(_, row)| row.seq < head) {
            self.pop();
        }
    }

    /// The next message has been dealt with.
    pub(super) fn pop(&mut self) {
        if let Some((_, row)) = self.buffer.pop_front() {
            self.buffered_bytes -= cost(&row);
        }
    }
}

fn cost(row: &Stored) -> usize {
    row.bytes as usize + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::{Message, QoS},
        store::StreamId,
        topic::{TopicName, TopicTemplate},
    };

    fn feed(head: Sequence, next: Sequence) -> (watch::Sender<Position>, Feed) {
        let (sender, position) = watch::channel(Position { head, next });
        let route = Route {
            stream: StreamId(0),
            name: "s".to_owned(),
            from: Vec::new(),
            topic: TopicTemplate::identity(),
            priority: 0,
            envelope: crate::forward::Envelope::None,
            ttl: None,
        };
        (sender, Feed::new(route, position, Arc::default(), 1))
    }

    fn row(seq: Sequence, bytes: u32) -> Stored {
        Stored {
            seq,
            bytes,
            accepted_unix_ms: 0,
            clock_synced: true,
            age_ms: 0,
            message: Message {
                topic: TopicName::new("t").unwrap(),
                payload: bytes::Bytes::new(),
                qos: QoS::AtLeastOnce,
                retain: false,
                client: "".into(),
                properties: None,
            },
        }
    }

    #[test]
    fn one_chunk_is_read_while_another_is_sent_and_no_more() {
        let now = Instant::now();
        let (_sender, mut feed) = feed(1, 1_000_000);
        let first = feed.wanted(now).unwrap();
        assert_eq!(first.from, 1);
        assert_eq!(feed.wanted(now), None, "one read at a time");
        feed.arrived(now, 0, (1..=900).map(|seq| row(seq, 100)).collect());
        assert_eq!(feed.wanted(now).unwrap().from, 901);
        feed.arrived(now, 0, (901..=1800).map(|seq| row(seq, 100)).collect());
        assert_eq!(feed.wanted(now), None, "two chunks are enough");
        (0..900).for_each(|_| feed.pop());
        assert_eq!(feed.wanted(now).unwrap().from, 1801);
    }

    #[test]
    fn what_was_purged_is_forgotten() {
        let now = Instant::now();
        let (sender, mut feed) = feed(1, 10);
        feed.wanted(now).unwrap();
        feed.arrived(now, 0, (1..10).map(|seq| row(seq, 100)).collect());
        sender.send(Position { head: 8, next: 10 }).unwrap();
        feed.forget_what_left();
        assert_eq!(feed.front().map(|(_, row)| row.seq), Some(8));
        sender.send(Position { head: 10, next: 10 }).unwrap();
        feed.forget_what_left();
        assert_eq!((feed.front(), feed.buffered_bytes), (None, 0));
    }

    #[test]
    fn an_empty_read_is_not_repeated_until_something_changes() {
        let now = Instant::now();
        let (sender, mut feed) = feed(1, 10);
        feed.restart(5);
        assert_eq!(feed.wanted(now).unwrap().from, 5);
        feed.arrived(now, 1, Vec::new());
        assert_eq!(feed.wanted(now), None);
        assert!(feed.wanted(now + LOOK_AGAIN).is_some());
        feed.arrived(now, 1, Vec::new());
        sender.send(Position { head: 8, next: 12 }).unwrap();
        assert_eq!(feed.wanted(now).unwrap().from, 8);
    }
}
