//! Downlinks: messages of an upstream (commands) that local clients are to get, also those who come later.
//!
//! # The way of a command
//!
//! ```text
//! upstream ──▶ uplink ──▶ forward ──arrivals──▶ reception ──▶ store ──▶ delivery ──▶ local clients
//!    ▲                       ▲                    │ (1)        (2)       │  ▲  (3)       │
//!    └──PUBACK───────────────┘◀──────answers──────┘◀─ commit             ▼  └──receipt───┘ (4)
//!                                                                      store
//! ```
//!
//! 1. One `reception` for each uplink: the first downlink of it, in the order of the configuration, whose filter matches takes a
//!    message, and says its topic here.
//! 2. It waits in a queue of the store's own (name `\0downlink/<name>`), in order. Only when that is committed and synced the
//!    upstream gets its acknowledgement. At QoS 2 the packet id is remembered in the same transaction, so that the
//!    message is taken once across crashes of either side; where the upstream has lost its session, the ids are forgotten first.
//! 3. One `delivery` for each downlink offers what waits, oldest first, whenever a message or a subscriber comes. Where a session
//!    that outlives its connection wants it (or it is retained, see below), it moves into the queues of these sessions and counts as
//!    delivered, both in one transaction.
//! 4. Where only sessions that end with their connections want it, it is offered to these from memory and leaves the disk when the
//!    first of them has acknowledged it (at QoS 0: when it was written to one). If all of them go before, it waits again.
//!
//! Books, for each downlink, in the store: `received = delivered + expired + dropped + waiting`.
//!
//! # What it keeps to
//!
//! - Of each topic the order is kept (see `desk`); a command for somebody who is away blocks no other topic.
//! - A command that nobody took within `ttl`, or within its own message expiry interval, is expired. Time runs as everywhere in
//!   the store: monotonic within a boot.
//! - Access rules hold as for any other message; who may not read a topic is not there for it.
//! - No loops: streams do not take what came down, and an upstream of MQTT 5 is told not to send back what went up (No Local).
//!   MQTT 3.1.1 cannot say that: there, what a stream sends upstream must not match the filters of a downlink.
//! - Retained messages of the upstream are the state of something, and are kept as such, as a bridge does: published here with the
//!   retain flag, they become the retained message of their topic at once, and are delivered by that: whoever comes later gets
//!   them by subscribing, and they do not wait. Where there is no room for one more retained message it waits like a command.
//!
//! # Constraints
//!
//! - Per uplink: 256 messages and 16 MiB between connection and store (`uplink::INBOX_MESSAGES`). An upstream of MQTT 5 is told to send 64
//!   and wait; for one of 3.1.1 see `uplink::inbound`. What arrives is committed in batches of at most 128.
//! - Per downlink: [`WAITING_BYTES`] may wait; beyond it, and while store or disk are full, nothing is acknowledged and the
//!   upstream holds what it has. The connection, and forwarding over it, go on. QoS 0 is dropped and counted.
//! - 1024 messages are out at clients, 64 of each topic; pages of 256 messages and 256 KiB are in memory.
//! - A message is at most 256 KiB. Larger ones, and those whose topic would be none, are refused: the upstream is told (MQTT 5), and it
//!   is counted (`tidegate_downlink_refused_total`).
//!
//! # What a crash does
//!
//! | it happens | then |
//! | --- | --- |
//! | before the commit | the upstream has no acknowledgement and sends it again |
//! | after it, before PUBACK | it is sent again: at QoS 1 a command comes twice, as the protocol has it; at QoS 2 it is known by its id |
//! | after PUBREC, before PUBREL | the id is remembered; PUBREL, or PUBLISH again, finds it |
//! | while it is out at a client without a lasting session | it waits, and is offered again: that client may get it twice |
//! | while it moves into queues | it is in one place or the other, never in both |
//! | damage takes the queue itself | what was in it is counted as lost by the store; it is made anew, and what is being taken in goes there |
//!
//! A downlink that is no longer configured keeps what waits; when it comes back it goes on. Time goes on for what waits.

mod delivery;
mod desk;
mod metrics;
mod reception;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    delivery::Delivery,
    metrics::{Books, Refused, Shelf, Shown},
    reception::{Place, Reception},
};
use crate::{
    broker::{Broker, Locals},
    message::QoS,
    stats::DownlinkStats,
    store::{self, QueueLimits, RESERVED, SessionId, SessionRecord, StoreError, WhenFull},
    topic::{TopicFilter, TopicTemplate},
    uplink::{Arrivals, Inbound, Subscription, inbound},
};

/// Most bytes that wait in one downlink.
pub const WAITING_BYTES: u64 = 64 << 20;

/// A downlink, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Its name, `[A-Za-z0-9_.-]{1,64}`.
    pub name: String,
    /// Place of its uplink in the configuration.
    pub from: usize,
    /// What is asked of the upstream; never empty.
    pub filters: Vec<TopicFilter>,
    /// The topic here.
    pub topic: TopicTemplate,
    /// Highest QoS of what is asked for.
    pub qos: QoS,
    /// How long a command waits for somebody to take it.
    pub ttl: Duration,
}

/// Why downlinks ended, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum DownlinkError {
    /// The store no longer gives or takes anything.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The metrics exist already.
    #[error("the metrics of the downlinks cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A defect in this program.
    #[error("a task of the downlinks failed: {0}")]
    Task(#[from] JoinError),
}

/// What is shown of the downlinks; it outlives them, so that it is registered once whatever the configuration becomes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Figures {
    books: Arc<Books>,
    refused: Refused,
}

/// All running downlinks. Dropping it stops them as a crash would.
#[derive(Debug)]
pub struct Downlinks {
    stop: CancellationToken,
    tasks: JoinSet<Result<(), DownlinkError>>,
    figures: Figures,
}

impl Figures {
    /// Of no downlinks yet.
    pub fn register(store: &store::Handle, registry: &prometheus::Registry) -> Result<Self, DownlinkError> {
        let books = Arc::new(Books::new(store.clone())?);
        let refused = Refused::register(registry)?;
        registry.register(Box::new(Arc::clone(&books).collector()))?;
        Ok(Self { books, refused })
    }

    /// A way to ask for the books.
    pub fn watcher(&self) -> impl Fn() -> Vec<DownlinkStats> + Send + Sync + use<> {
        let books = Arc::clone(&self.books);
        move || books.stats()
    }
}

/// The two ends of what comes down each of so many uplinks: the first are for their forwarders, the second for [`start`].
pub fn connect(downlinks: &[Settings], uplinks: usize) -> (Vec<Inbound>, Vec<Arrivals>) {
    let subscriptions = |place| -> Vec<Subscription> {
        let ours = downlinks.iter().filter(|downlink| downlink.from == place);
        ours.flat_map(|it| it.filters.iter().map(|filter| Subscription { filter: filter.clone(), qos: it.qos }))
            .collect()
    };
    (0..uplinks).map(|place| inbound(subscriptions(place))).unzip()
}

/// Starts them. `uplinks` are the names of the uplinks, `arrivals` what [`connect`] gave, in the same order.
///
/// Does not wait for the store: a full disk keeps nothing from starting.
pub fn start(
    downlinks: &[Settings],
    uplinks: &[String],
    arrivals: Vec<Arrivals>,
    store: &store::Handle,
    broker: &Broker,
    registry: &prometheus::Registry,
) -> Result<Downlinks, DownlinkError> {
    let figures = Figures::register(store, registry)?;
    Ok(start_again(figures, downlinks, uplinks, arrivals, store, broker))
}

/// The same with figures that there are already; those before must have stopped.
pub fn start_again(
    figures: Figures,
    downlinks: &[Settings],
    uplinks: &[String],
    arrivals: Vec<Arrivals>,
    store: &store::Handle,
    broker: &Broker,
) -> Downlinks {
    let shown = |settings: &Settings| Shown {
        name: settings.name.clone(),
        from: uplinks.get(settings.from).cloned().unwrap_or_default(),
        queue: Arc::new(Queue { name: settings.name.clone(), id: AtomicU32::new(0) }),
    };
    let lost = uplinks.iter().cloned().zip(arrivals.iter().map(|it| Arc::clone(&it.lost))).collect();
    let shelf = Arc::new(Shelf { downlinks: downlinks.iter().map(shown).collect(), lost });
    figures.books.show(Arc::clone(&shelf));
    figures.refused.keep(uplinks);
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    // Without any nothing runs that could end, for an end is taken for a failure.
    if !downlinks.is_empty() {
        let downlinks = downlinks.to_vec();
        let arrivals = uplinks.iter().cloned().zip(arrivals).collect();
        let (store, locals, refused, stopped) = (store.clone(), broker.locals(), figures.refused.clone(), stop.clone());
        tasks.spawn(async move {
            let places = tokio::select! {
                places = places(downlinks, &store, &shelf) => places?,
                () = stopped.cancelled() => return Ok(()),
            };
            run(places, arrivals, store, locals, refused, stopped).await
        });
    }
    Downlinks { stop, tasks, figures }
}

/// Finds or makes the queue of each downlink.
async fn places(downlinks: Vec<Settings>, store: &store::Handle, shelf: &Shelf) -> Result<Vec<Place>, DownlinkError> {
    let mut places = Vec::with_capacity(downlinks.len());
    for (settings, shown) in downlinks.into_iter().zip(&shelf.downlinks) {
        shown.queue.renew(store).await?;
        places.push(Place { settings, queue: Arc::clone(&shown.queue), news: Arc::new(Notify::new()) });
    }
    Ok(places)
}

/// Runs all receptions and deliveries until they are stopped, or one of them ends.
async fn run(
    places: Vec<Place>,
    uplinks: Vec<(String, Arrivals)>,
    store: store::Handle,
    locals: Locals,
    refused: Refused,
    stop: CancellationToken,
) -> Result<(), DownlinkError> {
    let mut tasks = JoinSet::new();
    for (from, (uplink, arrivals)) in uplinks.into_iter().enumerate() {
        let ours: Vec<Place> = places.iter().filter(|place| place.settings.from == from).cloned().collect();
        if !ours.is_empty() {
            let reception = Reception::new(uplink, ours, arrivals, store.clone(), refused.clone(), stop.clone());
            tasks.spawn(reception.run());
        }
    }
    for place in places {
        tasks.spawn(Delivery::new(place, store.clone(), locals.clone(), stop.clone()).run());
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
        if !stop.is_cancelled() {
            return Err(StoreError::Closed.into());
        }
    }
    // Where there is no downlink at all there is nothing that could end.
    stop.cancelled().await;
    Ok(())
}

/// Where the messages of a downlink wait.
#[derive(Debug)]
struct Queue {
    name: String,
    /// 0 until it is known.
    id: AtomicU32,
}

impl Queue {
    fn id(&self) -> SessionId {
        SessionId(self.id.load(Ordering::Acquire))
    }

    /// Finds the queue by its name, or makes it: damage may have taken it away. True where it is another one than before.
    async fn renew(&self, store: &store::Handle) -> Result<bool, StoreError> {
        let id = store.save_session(record(&self.name)).await?;
        Ok(self.id.swap(id.0, Ordering::AcqRel) != id.0)
    }
}

/// The queue of a downlink as the store has it.
fn record(name: &str) -> SessionRecord {
    SessionRecord {
        client_id: format!("{RESERVED}downlink/{name}").into(),
        expiry_s: u32::MAX,
        state: bytes::Bytes::new(),
        received: Vec::new(),
        limits: QueueLimits { max_messages: 0, max_bytes: WAITING_BYTES, when_full: WhenFull::Reject },
        will: None,
    }
}

impl Downlinks {
    /// A way to ask for the books that outlives this.
    pub fn watcher(&self) -> impl Fn() -> Vec<DownlinkStats> + Send + Sync + use<> {
        self.figures.watcher()
    }

    /// What is shown of them.
    pub fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// Waits until something ends, which nothing does of itself unless something is wrong. Cancel safe.
    pub async fn ended(&mut self) -> DownlinkError {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => error.into(),
            Some(Ok(Ok(()))) => StoreError::Closed.into(),
            None => std::future::pending().await,
        }
    }

    /// Stops them in order: takes and offers nothing more, and enters what clients have acknowledged until now.
    pub async fn stop(mut self) -> Result<(), DownlinkError> {
        self.end().await
    }

    /// The same, for those that are replaced.
    pub async fn end(&mut self) -> Result<(), DownlinkError> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// The name under which packet ids of an upstream are remembered.
fn ids_of(uplink: &str, url: &str) -> bytestring::ByteString {
    format!("{RESERVED}uplink/{uplink}/{url}").into()
}
