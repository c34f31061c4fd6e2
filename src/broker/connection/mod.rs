//! One client's connection: one task that owns the socket, the session and everything in between.
//!
//! ```text
//! socket ─read─▶ input ─decode─▶ arrivals ─batch─▶ lane ─▶ store
//!    ▲                              │                        │
//!    └─write── output ◀─acks in order ◀──verdicts── returns ◀┘
//!                 ▲                      │
//!                 ├── pump ◀─ mailbox ◀──┴─ fan-out (this and other connections)
//!                 └── pump ◀─ queue in the store, for a session that outlives the connection (see `durable`)
//! ```
//!
//! 1. All packets that one read brought are decoded; their publishes become one batch on the connection's lane.
//! 2. A verdict, which exists only after the synced commit, gives the message to local subscribers and settles its
//!    arrival; acknowledgements leave from the front of the arrivals, so in order, all of a batch in one write.
//! 3. While the store takes no more (or holds back what a 3.1.1 client must not lose), nothing is decoded; the socket is
//!    read a little further, to notice its end, and then left alone: TCP slows the client down.
//! 4. While a local subscriber is given a moment to catch up (see `fanout`), the same holds, and verdicts wait too.
//! 5. While the client has published more than its rate allows, PUBLISHes wait at the front of the input (see
//!    `publish_rate`); PINGREQs behind them are answered, here and while the store holds back.
//! 6. While the client takes no more, nothing is decoded and nothing pumped; after
//!    [`WRITE_STALL`](super::limits::WRITE_STALL) it is disconnected.
//!
//! 7. Acknowledgements of what the client was sent are taken also while nothing else is, if they are next in the input:
//!    they make the room that others, or this client itself, may be waiting for.
//! 8. Retained messages for a new subscription are looked up page by page as the client takes them; after
//!    [`RETAINED_SCAN`](super::limits::RETAINED_SCAN) topics others have their turn.
//! 9. A connection that ends has what it submitted decided first, for 20 s at most; what takes longer, or is left by a
//!    panic, is finished without it (see `remains`), and its will is sent. No wait for the store is without a deadline.
//!
//! Bounds: input one packet and one read; output 96 KiB and one packet; arrivals `max_inflight` and QoS 0 up to 2048, 4 MiB
//! and what one read brought.
//! A crash loses the buffers; whatever was acknowledged is in the store, whatever was not the client sends again, and
//! what the client had not acknowledged is sent again from its queue, if its session has one.

mod admission;
mod aliases;
mod arrivals;
mod connected;
mod durable;
mod ending;
mod handshake;
mod inbound;
mod outbound;
mod outgoing;
mod publish_rate;
mod remains;
mod submission;
mod subscribe;
mod tally;
mod upkeep;
mod window;
mod wire;

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Sleep,
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use aliases::Aliases;
use durable::{Durable, Progress};
use ending::Ending;
pub(crate) use handshake::serve;
pub(crate) use outgoing::Outgoing;
use publish_rate::PublishRate;
use submission::{Inbound, Submitting, returned, room, submission};
pub(crate) use subscribe::Replay;
use subscribe::{Request, Saving};
use tally::Tally;
use wire::Wire;

use super::{
    access::Badge,
    clients::Presence,
    fanout::Delivery,
    hub::{Hub, Who},
    limits::{IDLE, READ_MAX, UNDECIDED_BYTES, UNDECIDED_MAX, WRITE_HIGH},
    listener::Listener,
    packet::{Decoder, Manner, Version, Will, is_acknowledgement},
    sessions::Claim,
};
use crate::intake::{Lane, Returned, StoreError};

/// The connection of one client, after its CONNECT was accepted.
struct Connection {
    hub: Arc<Hub>,
    listener: Arc<Listener>,
    address: String,
    /// Who it is and what it may.
    badge: Arc<Badge>,
    /// What an operator sees of it.
    presence: Arc<Presence>,
    version: Version,
    claim: Claim,
    kicked: Pin<Box<WaitForCancellationFutureOwned>>,
    wire: Wire,
    tally: Tally,
    decoder: Decoder,
    /// `None` where the listener sets no limit.
    publish_rate: Option<Box<PublishRate>>,
    inbound: Inbound,
    saving: Option<Saving>,
    /// A SUBSCRIBE or UNSUBSCRIBE that waits for what the client published before it.
    request: Option<Request>,
    /// Subscribers are given a moment to catch up with this publisher.
    pause: Option<Pause>,
    /// Where the session outlives the connection: its queue in the store.
    durable: Option<Box<Durable>>,
    /// There is more to do, and others are to have their turn first.
    wants_turn: bool,
    /// Taken from the mailbox and not sent yet.
    inbox: VecDeque<Delivery>,
    /// Retained messages for new subscriptions; they go before the inbox.
    replay: VecDeque<Delivery>,
    /// Largest packet that the client takes.
    client_max_packet: usize,
    /// Whether it asked for Reason Strings.
    reason_strings: bool,
    /// Topic aliases towards the client; `None` where it takes none.
    aliases: Option<Box<Aliases>>,
    /// 1.5 times the keep alive interval.
    silence_max: Option<Duration>,
    will: Option<Will>,
    /// The log has it that access rules stop this client.
    told_denial: bool,
    timer: Pin<Box<Sleep>>,
}

/// Everything that can wake a connection.
enum Event {
    Kicked,
    Submitted(Result<Lane, StoreError>),
    Room(Result<(), StoreError>),
    Returned(Option<Returned>),
    Saved(Result<(), StoreError>),
    Resumed,
    MayPublish,
    Written(io::Result<usize>),
    Read(io::Result<usize>),
    Mail,
    Queue(Progress),
    Turn,
    Tick,
}

impl Connection {
    /// Serves the client until something ends it. Boxed, for a future keeps its arguments twice.
    async fn run(mut self: Box<Self>) {
        let ending = loop {
            if let Err(ending) = self.work().await {
                break ending;
            }
            let event = self.next_event().await;
            if let Err(ending) = self.handle(event) {
                break ending;
            }
        };
        // In a box of its own: the end of a connection needs more memory than all its life.
        Box::pin((*self).finish(ending)).await;
    }

    /// Does everything that can be done without waiting.
    async fn work(&mut self) -> Result<(), Ending> {
        self.take_up_request()?;
        if self.is_listening() {
            while self.may_decode() && !self.must_wait_to_publish() {
                match self.next_packet()? {
                    Some(packet) => self.packet(packet).await?,
                    None if self.wire.ended => return Err(Ending::Lost(None)),
                    None => break,
                }
            }
            self.proceed(true)?;
            self.inbound.begin_submit();
        } else {
            self.take_acknowledgements().await?;
        }
        if !self.is_listening() && self.wire.ended && !self.inbound.held.is_empty() {
            // Nobody is left who could be acknowledged, and the client keeps what was not.
            return Err(Ending::Lost(None));
        }
        self.answer_early_pings();
        self.pump();
        self.tally.packets_out += self.wire.new_packets();
        self.tally.enter(&self.hub.metrics);
        self.note_presence();
        Ok(())
    }

    /// Says what an operator may want to know.
    fn note_presence(&self) {
        let kept = &self.claim.kept;
        let in_flight = self.durable.as_ref().map_or(kept.outgoing.unfinished(), |durable| durable.in_flight());
        self.presence.note(in_flight, self.inbox.len() + self.replay.len(), kept.subscriptions.len());
    }

    /// Takes acknowledgements that are next in the input also while the client is not listened to: they make room, and what
    /// it is held back for may be a queue that only this client can empty.
    async fn take_acknowledgements(&mut self) -> Result<(), Ending> {
        while is_acknowledgement(&self.wire.input) && self.wire.output.len() < WRITE_HIGH {
            match self.next_packet()? {
                Some(packet) => self.packet(packet).await?,
                None => break,
            }
        }
        Ok(())
    }

    /// Whether the client is listened to: what it said before has gone to the store.
    fn is_listening(&self) -> bool {
        self.may_decode() && self.inbound.batch.is_empty() && self.inbound.submitting.is_none()
    }

    /// Whether another packet may be taken off the input.
    fn may_decode(&self) -> bool {
        let inbound = &self.inbound;
        let max_inflight = usize::from(self.listener.settings.max_inflight);
        self.saving.is_none()
            && self.request.is_none()
            && self.pause.is_none()
            && !self.durable.as_ref().is_some_and(|durable| durable.is_opening())
            && inbound.held.is_empty()
            && inbound.arrivals.len() < UNDECIDED_MAX.max(max_inflight)
            && inbound.undecided_bytes < UNDECIDED_BYTES
            && (self.version == Version::V5 || inbound.unacknowledged < max_inflight)
            && self.wire.output.len() < WRITE_HIGH
    }

    async fn next_event(&mut self) -> Event {
        self.inbound.begin_submit();
        if let Some(durable) = &mut self.durable {
            durable.begin_submit();
        }
        let may_decode = self.is_listening() && !self.is_made_to_wait();
        let want_mail = self.wants_mail();
        let wants_turn = self.wants_turn;
        let Self { kicked, wire, inbound, saving, pause, publish_rate, durable, claim, timer, .. } = self;
        let Inbound { lane, returns, submitting, held, submitted, .. } = inbound;
        let wants_room = !held.is_empty() && submitting.is_none() && *submitted == 0;
        let want_read = !wire.ended && (may_decode || wire.input.len() < READ_MAX);
        if want_read {
            wire.make_room();
        }
        let Wire { reader, writer, input, output, .. } = wire;
        tokio::select! {
            biased;
            () = kicked => Event::Kicked,
            lane = submission(submitting), if submitting.is_some() => Event::Submitted(lane),
            room = room(lane), if wants_room => Event::Room(room),
            returned = returned(returns), if *submitted > 0 && pause.is_none() => Event::Returned(returned),
            saved = saved(saving), if saving.is_some() => Event::Saved(saved),
            () = paused(pause), if pause.is_some() => Event::Resumed,
            () = publish_rate::allowed(publish_rate), if publish_rate.is_some() => Event::MayPublish,
            written = writer.write_buf(output), if !output.is_empty() => Event::Written(written),
            read = reader.read_buf(input), if want_read => Event::Read(read),
            progress = progress(durable), if durable.as_ref().is_some_and(|durable| durable.is_busy()) => Event::Queue(progress),
            () = claim.subscriber().woken(), if want_mail => Event::Mail,
            () = tokio::task::yield_now(), if wants_turn => Event::Turn,
            () = timer.as_mut() => Event::Tick,
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Ending> {
        match event {
            Event::Kicked if self.hub.stopping.is_cancelled() => Err(Ending::Stopping),
            Event::Kicked if self.listener.leaving.is_cancelled() => Err(Ending::ListenerGone),
            Event::Kicked if self.badge.is_revoked() => Err(Ending::Revoked),
            Event::Kicked if self.presence.is_expelled() => Err(Ending::Expelled),
            Event::Kicked => Err(Ending::TakenOver),
            Event::Submitted(lane) => {
                self.inbound.submitted(lane?);
                Ok(())
            }
            Event::Room(room) => {
                room?;
                self.resubmit();
                Ok(())
            }
            Event::Returned(returned) => {
                self.returned(returned.ok_or(Ending::StoreGone)?);
                self.proceed(true)
            }
            Event::Saved(saved) => {
                saved?;
                self.saved();
                Ok(())
            }
            Event::Resumed => {
                self.pause = None;
                self.proceed(true)
            }
            Event::MayPublish => {
                self.may_publish_again();
                Ok(())
            }
            Event::Written(written) => {
                self.tally.bytes_out += self.wire.was_written(written)?;
                Ok(())
            }
            Event::Read(read) => {
                self.tally.bytes_in += self.wire.was_read(read)?;
                Ok(())
            }
            Event::Mail => {
                if self.inbox.is_empty() && self.replay.is_empty() {
                    self.fetch_mail();
                }
                Ok(())
            }
            Event::Queue(progress) => self.progressed(progress),
            Event::Turn => Ok(()),
            Event::Tick => self.tick(Instant::now()),
        }
    }

    /// How the client wants to be answered.
    fn manner(&self) -> Manner {
        Manner { version: self.version, max_packet: self.client_max_packet, reason_strings: self.reason_strings }
    }

    /// Says once for a connection that access rules stop something; the others are only counted.
    fn denied(&mut self, action: &'static str, topic: &str) {
        if !std::mem::replace(&mut self.told_denial, true) {
            Hub::denied(self.who(), action, topic);
        }
    }

    pub(super) fn who(&self) -> Who<'_> {
        Who { listener: &self.listener.settings.name, address: &self.address, client_id: self.claim.client_id() }
    }
}

async fn saved(saving: &mut Option<Saving>) -> Result<(), StoreError> {
    match saving {
        Some(saving) => saving.commit.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn progress(durable: &mut Option<Box<Durable>>) -> Progress {
    match durable {
        Some(durable) => durable.progress().await,
        None => std::future::pending().await,
    }
}

async fn paused(pause: &mut Option<Pause>) {
    match pause {
        Some(pause) => pause.as_mut().await,
        None => std::future::pending().await,
    }
}

/// A moment for subscribers to catch up.
type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A future that is kept across events.
type Commit = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;
