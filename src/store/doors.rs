//! The doors of all streams: what is published of each, and the terms on which it takes messages.
//!
//! A stream has a place from the moment at which this process learns of it, and keeps it to the end: [`StreamId`]s stay what they are,
//! whatever the configuration becomes. Places are added at the end and never used again. What the configuration says of a stream can
//! change; one that it does not have any more takes nothing by itself, and what was on its way is still taken.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{
    api::{Position, ReplayPosition, StreamId, StreamSettings, WhenFull},
    books::{Books, Fit, Limits},
    clock::{Boots, Now},
    figures::stream_stats,
    schema::StreamSql,
    shared::{OFFLINE, QOS0_FULL, locked},
};
use crate::stats::StreamStats;

/// All of them; cheap to ask.
#[derive(Debug, Default)]
pub(super) struct Doors(RwLock<List>);

#[derive(Debug, Default)]
struct List {
    all: Vec<Arc<Door>>,
    /// Places of the configured streams, in configuration order.
    configured: Vec<usize>,
}

/// What is published of a stream after each commit that touches it.
#[derive(Debug)]
pub(super) struct Door {
    /// Its durable id.
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) sql: StreamSql,
    terms: Mutex<Terms>,
    pub(super) position: watch::Sender<Position>,
    pub(super) paused: Arc<AtomicBool>,
    pub(super) replay: watch::Sender<ReplayPosition>,
    pub(super) published: Mutex<Published>,
    /// QoS 0 messages of a live-only stream not yet entered in the books.
    pub(super) offline: AtomicU64,
    /// QoS 0 messages dropped while not even the books could be written.
    pub(super) qos0_full: AtomicU64,
}

/// What the configuration says.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// Whether it still has the stream.
    configured: bool,
    limits: Limits,
    when_full: WhenFull,
}

/// The books as of the last commit.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) books: Books,
    /// Boot and monotonic time of the oldest message; meaningless while the backlog is empty.
    pub(super) head_at: (i64, u64),
}

impl Doors {
    /// The doors of the streams that are configured, in order, and then of the others.
    pub(super) fn new(all: Vec<Arc<Door>>, configured: usize) -> Self {
        Self(RwLock::new(List { all, configured: (0..configured).collect() }))
    }

    fn list(&self) -> RwLockReadGuard<'_, List> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, place: usize) -> Option<Arc<Door>> {
        self.list().all.get(place).cloned()
    }

    /// The door at a place that there is.
    pub(super) fn at(&self, place: usize) -> Arc<Door> {
        self.get(place).expect("places come from the store and are never taken back")
    }

    pub(super) fn of(&self, stream: StreamId) -> Option<Arc<Door>> {
        self.get(stream.0 as usize)
    }

    /// All of them, by place.
    pub(super) fn all(&self) -> Vec<Arc<Door>> {
        self.list().all.clone()
    }

    /// Those of the configured streams in configuration order, then the others.
    pub(super) fn in_order(&self) -> Vec<Arc<Door>> {
        let list = self.list();
        let others = (0..list.all.len()).filter(|place| !list.configured.contains(place));
        list.configured.iter().copied().chain(others).map(|place| Arc::clone(&list.all[place])).collect()
    }

    /// The places of the configured streams, in configuration order.
    pub(super) fn configured(&self) -> Vec<usize> {
        self.list().configured.clone()
    }

    /// The place of the stream of this name, configured or not.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.list().all.iter().position(|door| door.name == name)
    }

    /// Adds doors behind those that there are.
    pub(super) fn add(&self, new: Vec<Arc<Door>>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).all.extend(new);
    }

    /// Says which streams are configured from now on, and on which terms: by place, in configuration order.
    pub(super) fn arrange(&self, configured: &[(usize, StreamSettings)]) {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        list.configured = configured.iter().map(|(place, _)| *place).collect();
        for (place, door) in list.all.iter().enumerate() {
            let terms = match configured.iter().find(|(of, _)| *of == place) {
                Some((_, settings)) => Terms::new(settings, true),
                None => Terms::new(&StreamSettings::not_configured(&door.name), false),
            };
            *locked(&door.terms) = terms;
        }
    }
}

impl StreamSettings {
    /// What holds for a stream that the configuration does not have any more: all that it has is kept.
    pub(super) fn not_configured(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ttl: None,
            max_messages: None,
            max_bytes: None,
            when_full: WhenFull::Reject,
            retain_sent: Duration::MAX,
        }
    }

    /// Its limits.
    pub(super) fn limits(&self) -> Limits {
        Limits { max_messages: self.max_messages, max_bytes: self.max_bytes }
    }
}

impl Terms {
    fn new(settings: &StreamSettings, configured: bool) -> Self {
        Self { configured, limits: settings.limits(), when_full: settings.when_full }
    }
}

impl Door {
    pub(super) fn new(id: i64, books: &Books, settings: &StreamSettings, configured: bool) -> Self {
        Self {
            id,
            sql: StreamSql::new(id),
            name: settings.name.clone(),
            terms: Mutex::new(Terms::new(settings, configured)),
            position: watch::Sender::new(books.position()),
            paused: Arc::new(AtomicBool::new(books.operated.paused)),
            replay: watch::Sender::new(books.operated.replay_position()),
            published: Mutex::new(Published { books: books.clone(), head_at: (0, 0) }),
            offline: AtomicU64::new(0),
            qos0_full: AtomicU64::new(0),
        }
    }

    pub(super) fn is_configured(&self) -> bool {
        locked(&self.terms).configured
    }

    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let terms = *locked(&self.terms);
        terms.when_full != WhenFull::Reject || locked(&self.published).books.fit(terms.limits, bytes) != Fit::Full
    }

    pub(super) fn stats(&self, known_boots: &Boots, now: Now) -> StreamStats {
        let terms = *locked(&self.terms);
        let published = locked(&self.published);
        // Under the lock: the writer moves these into the books under it too.
        let offline = self.offline.load(Ordering::Relaxed);
        let qos0_full = self.qos0_full.load(Ordering::Relaxed);
        let books = &published.books;
        let mut dropped = books.dropped.clone();
        for (reason, count) in [(OFFLINE, offline), (QOS0_FULL, qos0_full)] {
            if count > 0 {
                dropped.add(reason, count);
            }
        }
        StreamStats {
            accepted: books.accepted + offline + qos0_full,
            dropped: dropped.entries(),
            limit_messages: terms.limits.max_messages,
            limit_bytes: terms.limits.max_bytes,
            ..stream_stats(&self.name, terms.configured, books, published.head_at, known_boots, now)
        }
    }
}
