//! The beginning of a connection: CONNECT within its time, who may come in, the session, CONNACK.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use bytestring::ByteString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Connection, Durable, Inbound, PublishRate, Tally, Wire, aliases::Aliases, arrivals::Arrivals, connected::Connected,
    inbound::wrong_payload,
};
use crate::{
    broker::{
        CONNECT_TIMEOUT, ListenerSettings,
        access::Badge,
        clients::Presence,
        hub::{Hub, Who},
        limits::{
            CLIENT_ID_MAX, CONNECT_MAX, LAST_SAVE, LAST_WRITE, OUTGOING_WINDOW, READ_MIN, TAKEOVER, TOPIC_ALIAS_MAX,
        },
        listener::Listener,
        packet::{
            ConnAckProperties, Connect, DecodeError, Decoder, Manner, Reason, Version, connack, connack_refusal,
            decode_connect, version_of,
        },
        pending::Place,
        sessions::{Claim, ClaimError},
        transport::{self, Accepted, Socket},
    },
    intake::{SessionWill, StoreError},
    message::Message,
};

/// Why a client may not come in.
pub(super) struct Refusal {
    reason: Reason,
    /// The word for the metric.
    word: &'static str,
    cause: String,
}

/// A connection whose client has not been let in yet.
pub(super) struct Door {
    pub(super) hub: Arc<Hub>,
    pub(super) listener: Arc<Listener>,
    pub(super) address: String,
    pub(super) certificate_name: Option<ByteString>,
    /// When it was accepted.
    pub(super) began: Instant,
    wire: Wire,
    /// Made when the client is let in.
    pub(super) badge: Option<Arc<Badge>>,
}

/// Serves one connection from its first byte to its last. `place` is its place among those that wait for their CONNECT.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    listener: Arc<Listener>,
    (accepted, address): (Accepted, String),
    place: Place,
) {
    let guard = Panicked { address: address.clone() };
    let refused = |word, cause: &str| {
        hub.refused(Who { listener: &listener.settings.name, address: &address, client_id: "" }, word, cause);
    };
    let knocking = Box::pin(knock(&hub, &listener, accepted, &address, &place));
    let knocking = timeout(CONNECT_TIMEOUT, knocking);
    let connect = tokio::select! {
        biased;
        () = listener.leaving.clone().cancelled_owned() => None,
        () = place.evicted() => {
            refused("pending-full", "too many connections without a CONNECT, or too many bytes of them");
            None
        }
        connect = knocking => connect.unwrap_or_else(|_| {
            refused("connect-timeout", "no complete CONNECT within 10 s");
            None
        }),
    };
    drop(place);
    // Boxes of their own, for what one step needs is given back before the next: thousands of connections only live.
    if let Some((door, connect)) = connect
        && let Some((connection, connected)) = Box::pin(door.enter(connect)).await
    {
        Box::pin(Box::new(connection).run()).await;
        drop(connected);
    }
    drop(guard);
}

/// From the accepted connection to its CONNECT; `None` when there is none and nothing is left to do.
async fn knock(
    hub: &Arc<Hub>,
    listener: &Arc<Listener>,
    accepted: Accepted,
    address: &str,
    place: &Place,
) -> Option<(Door, Connect)> {
    let began = Instant::now();
    // In a box of its own, for a handshake needs more memory than the connection after it.
    let opened = Box::pin(transport::open(accepted, listener.tls.as_deref(), &listener.settings)).await;
    let Socket { reader, writer, certificate_name } = match opened {
        Ok(socket) => socket,
        Err(refused) => {
            if let Some(transport::Refused { word, cause }) = refused {
                hub.refused(Who { listener: &listener.settings.name, address, client_id: "" }, word, cause);
            }
            return None;
        }
    };
    let mut door = Door {
        hub: Arc::clone(hub),
        listener: Arc::clone(listener),
        address: address.to_owned(),
        certificate_name,
        began,
        wire: Wire::new(reader, writer),
        badge: None,
    };
    let connect = door.read_connect(place).await?;
    Some((door, connect))
}

/// Says so when a connection's task panics: nobody waits for its result.
struct Panicked {
    address: String,
}

impl Drop for Panicked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(address = %self.address, "a connection was ended by a bug in the gateway");
        }
    }
}

impl Door {
    pub(super) fn who<'a>(&'a self, client_id: &'a str) -> Who<'a> {
        Who { listener: &self.listener.settings.name, address: &self.address, client_id }
    }

    fn refused(&self, client_id: &str, word: &'static str, cause: &str) {
        self.hub.refused(self.who(client_id), word, cause);
    }

    /// Reads the CONNECT; `None` when there is none and nothing is left to do.
    async fn read_connect(&mut self, place: &Place) -> Option<Connect> {
        let max = self.listener.settings.max_packet.min(CONNECT_MAX);
        loop {
            let version = version_of(&self.wire.input);
            let stranger = transport::stranger(&self.wire.input);
            match decode_connect(&mut self.wire.input, max) {
                Ok(Some(connect)) => {
                    self.hub.metrics.connects.inc();
                    self.hub.metrics.received.packets.inc();
                    return Some(connect);
                }
                Ok(None) => {}
                Err(error) => {
                    self.refused("", error.word(), stranger.unwrap_or(&error.to_string()));
                    self.answer_error(&error, version).await;
                    return None;
                }
            }
            self.wire.input.reserve(READ_MIN);
            place.holds(self.wire.input.capacity());
            match self.wire.reader.read_buf(&mut self.wire.input).await {
                Ok(read @ 1..) => self.hub.metrics.received.bytes.inc_by(read as u64),
                // A client that goes without a word is no news: port scans and health checks do that.
                Ok(0) => return None,
                Err(error) => {
                    if let Some(word) = transport::offence(&error) {
                        self.refused("", word, &error.to_string());
                    }
                    return None;
                }
            }
        }
    }

    /// CONNACK for a CONNECT that does not parse, where the specifications have one.
    async fn answer_error(&mut self, error: &DecodeError, version: Option<Version>) {
        let version = if let DecodeError::Version { answer_v5, .. } = error {
            Some(if *answer_v5 { Version::V5 } else { Version::V311 })
        } else {
            // 3.1.1 has no code for the rest: the connection is closed (MQTT 3.1.1, section 4.8).
            version.filter(|version| *version == Version::V5)
        };
        if let Some(version) = version {
            self.answer(Manner::unknown(version), error.reason(), "").await;
        }
    }

    async fn answer(&mut self, manner: Manner, reason: Reason, why: &str) {
        connack_refusal(&mut self.wire.output, manner, reason, why);
        self.hub.metrics.sent.packets.inc();
        self.hub.metrics.sent.bytes.inc_by(self.wire.output.len() as u64);
        let Wire { writer, output, .. } = &mut self.wire;
        // Whether the answer arrives or not, the connection ends.
        let _ = timeout(LAST_WRITE, async {
            writer.write_all_buf(output).await?;
            writer.shutdown().await
        })
        .await;
    }

    /// Lets the client in, or tells it why not.
    async fn enter(mut self, mut connect: Connect) -> Option<(Connection, Connected)> {
        let manner = connect.manner();
        let client_id = connect.client_id.clone();
        let assigned = client_id.is_empty();
        match self.admit(&mut connect, assigned).await {
            Ok(Some((claim, place, kick, due_will))) => {
                if let Some(will) = due_will {
                    // Full only while the store takes nothing, and then this client is not let in either.
                    let _ = self.hub.publisher.send_timeout(will.into(), LAST_SAVE).await;
                }
                self.start(connect, assigned, claim, kick, place).await
            }
            Ok(None) => None,
            Err(Refusal { reason, word, cause }) => {
                self.refused(&client_id, word, &cause);
                self.answer(manner, reason, &cause).await;
                None
            }
        }
    }

    /// The session, the place among the listener's connections, and a will that is due; `None` when somebody with the
    /// same client id came meanwhile.
    #[allow(clippy::type_complexity, reason = "used once, taken apart at once")]
    async fn admit(
        &mut self,
        connect: &mut Connect,
        assigned: bool,
    ) -> Result<Option<(Claim, OwnedSemaphorePermit, CancellationToken, Option<Message>)>, Refusal> {
        check(connect)?;
        let admission = self.authenticate(connect).await?;
        if assigned {
            connect.client_id = assign_client_id();
        }
        self.check_connack(connect, assigned)?;
        let full =
            || Refusal::new(Reason::QUOTA_EXCEEDED, "connections-full", "the listener has max_connections clients");
        let mut place = self.listener.places.free().try_acquire_owned().ok();
        // A client whose old connection is half dead must be able to replace it, however full the listener is.
        if place.is_none() && !self.hub.sessions.is_connected(&connect.client_id) {
            return Err(full());
        }
        let kick = self.listener.leaving.child_token();
        self.badge = Some(self.make_badge(admission, connect, &kick)?);
        let claimed = self.hub.sessions.claim(&connect.client_id, connect.clean_start, &kick).await;
        let (mut claim, due_will) = match claimed {
            Ok(claimed) => claimed,
            Err(ClaimError::TakenOver) => return Ok(None),
            Err(error @ ClaimError::Full) => {
                return Err(Refusal::new(Reason::QUOTA_EXCEEDED, "sessions-full", &error.to_string()));
            }
            Err(error @ ClaimError::Busy) => return Err(Refusal::new(Reason::BUSY, "busy", &error.to_string())),
        };
        if !claim.kept.present {
            claim.expiry_s = 0;
        }
        if place.is_none() {
            let freed = timeout(TAKEOVER, self.listener.places.free().acquire_owned()).await;
            place = freed.ok().and_then(Result::ok);
        }
        let place = place.ok_or_else(full)?;
        Ok(Some((claim, place, kick, due_will)))
    }

    /// Whether the client takes a packet as large as our CONNACK. Every other packet that we cannot leave out is smaller,
    /// but for a SUBACK or UNSUBACK.
    fn check_connack(&self, connect: &Connect, assigned: bool) -> Result<(), Refusal> {
        let mut longest = BytesMut::new();
        connack(&mut longest, connect.version, false, &self.properties(connect, assigned));
        if longest.len() <= connect.manner().max_packet {
            return Ok(());
        }
        let cause = format!("its Maximum Packet Size leaves no room for a CONNACK of {} bytes", longest.len());
        Err(Refusal::new(Reason::PACKET_TOO_LARGE, "maximum-packet-size", &cause))
    }

    fn properties<'a>(&self, connect: &'a Connect, assigned: bool) -> ConnAckProperties<'a> {
        let settings = &self.listener.settings;
        let keep_alive_s = keep_alive_s(connect, settings.max_keep_alive_s);
        ConnAckProperties {
            session_expiry_s: None,
            receive_maximum: settings.max_inflight,
            maximum_packet_size: settings.max_packet,
            topic_alias_maximum: TOPIC_ALIAS_MAX,
            server_keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            assigned_client_id: assigned.then_some(&*connect.client_id),
        }
    }

    /// Prepares the session: a new one on a clean start, saved where it outlives the connection. True = resumed.
    async fn open_session(
        hub: &Hub,
        settings: &ListenerSettings,
        claim: &mut Claim,
        connect: &Connect,
    ) -> Result<bool, StoreError> {
        if connect.clean_start || !claim.kept.present {
            claim.end(&hub.intake).await?;
        }
        let resumed = claim.kept.present;
        claim.expiry_s = connect.session_expiry_s;
        // A resumed session that is to end with this connection must end with it after a crash, too.
        let is_stored = connect.session_expiry_s > 0 || claim.kept.stored.is_some();
        if is_stored {
            claim.kept.limits = settings.queue_limits();
            claim.kept.will = connect.will.as_ref().map(|will| SessionWill {
                message: will.message.clone(),
                delay_s: u32::try_from(will.delay.as_secs()).unwrap_or(u32::MAX),
            });
            claim.save(&hub.intake).await?;
        }
        claim.kept.present = true;
        Ok(resumed)
    }

    async fn start(
        mut self,
        mut connect: Connect,
        assigned: bool,
        mut claim: Claim,
        kick: CancellationToken,
        place: OwnedSemaphorePermit,
    ) -> Option<(Connection, Connected)> {
        let version = connect.version;
        if let Some(will) = &mut connect.will {
            will.message.client = connect.client_id.clone();
        }
        let opened = tokio::select! {
            biased;
            () = kick.cancelled() => return None,
            opened = timeout(
                LAST_SAVE,
                Self::open_session(&self.hub, &self.listener.settings, &mut claim, &connect),
            ) => opened.unwrap_or(Err(StoreError::Deadline)),
        };
        let session_present = match opened {
            Ok(session_present) => session_present,
            Err(error) => {
                self.refused(&connect.client_id, "store", &error.to_string());
                self.answer(connect.manner(), Reason::UNAVAILABLE, "the store cannot take the session").await;
                return None;
            }
        };
        let settings = &self.listener.settings;
        let properties = self.properties(&connect, assigned);
        connack(&mut self.wire.output, version, session_present, &properties);
        let (presence, gone) = self.presence(&connect, &kick);
        claim.announce(&presence);
        let connected = Connected::enter(&self.hub, &self.listener, place, gone);
        tracing::debug!(
            listener = settings.name, address = self.address, client = %connect.client_id, ?version,
            certificate_name = self.certificate_name.as_deref(), session_present, keep_alive_s = connect.keep_alive_s, "client connected"
        );
        Some((self.connection(connect, claim, kick, presence), connected))
    }

    fn connection(
        self,
        connect: Connect,
        mut claim: Claim,
        kick: CancellationToken,
        presence: Arc<Presence>,
    ) -> Connection {
        let Self { hub, listener, address, wire, badge, .. } = self;
        let badge = badge.expect("who was admitted has a badge");
        claim.subscriber().set_badge(&badge);
        claim.kept.outgoing.connect(connect.receive_maximum);
        let window = connect.receive_maximum.min(OUTGOING_WINDOW);
        hub.fanout.connect(claim.subscriber(), window);
        let durable = claim.kept.id.map(|id| {
            let kept = &claim.kept;
            claim.subscriber().connect_queue(window, kept.limits, kept.resume);
            Box::new(Durable::new(id, window, kept.resume, kept.sent))
        });
        let keep_alive_s = keep_alive_s(&connect, listener.settings.max_keep_alive_s);
        let silence_max = (keep_alive_s > 0).then(|| Duration::from_secs(u64::from(keep_alive_s)) * 3 / 2);
        let manner = connect.manner();
        let client_id = connect.client_id;
        let will = connect.will;
        Connection {
            decoder: Decoder::new(connect.version, listener.settings.max_packet, client_id, TOPIC_ALIAS_MAX),
            version: connect.version,
            inbound: Inbound {
                arrivals: Arrivals::default(),
                lane: None,
                returns: None,
                batch: Vec::new(),
                batch_bytes: 0,
                undecided_bytes: 0,
                submitting: None,
                verdicts: std::collections::VecDeque::new(),
                held: Vec::new(),
                submitted: 0,
                unacknowledged: 0,
                quota_used: 0,
                persistent: claim.kept.stored.is_some(),
            },
            publish_rate: PublishRate::new(listener.settings.max_publish_rate),
            tally: Tally::default(),
            durable,
            wants_turn: false,
            saving: None,
            request: None,
            pause: None,
            inbox: std::collections::VecDeque::new(),
            replay: std::collections::VecDeque::new(),
            client_max_packet: manner.max_packet,
            reason_strings: manner.reason_strings,
            aliases: Aliases::new(connect.topic_alias_maximum),
            silence_max,
            will,
            told_denial: false,
            timer: Box::pin(sleep(silence_max.map_or(super::IDLE, |max| max.min(super::IDLE)))),
            kicked: Box::pin(kick.cancelled_owned()),
            hub,
            listener,
            address,
            badge,
            presence,
            wire,
            claim,
        }
    }
}

impl Refusal {
    pub(super) fn new(reason: Reason, word: &'static str, cause: &str) -> Self {
        Self { reason, word, cause: cause.to_owned() }
    }
}

/// What can be refused without looking further than the CONNECT.
fn check(connect: &Connect) -> Result<(), Refusal> {
    if connect.enhanced_auth {
        return Err(Refusal::new(Reason::BAD_AUTH_METHOD, "auth-method", "asks for enhanced authentication"));
    }
    let client_id = &connect.client_id;
    if client_id.is_empty() && connect.version == Version::V311 && !connect.clean_start {
        let cause = "an empty client id needs a clean session";
        return Err(Refusal::new(Reason::CLIENT_ID_INVALID, "client-id", cause));
    }
    if connect.will.as_ref().is_some_and(|will| wrong_payload(&will.message)) {
        let cause = "the payload of the will is not UTF-8, as its Payload Format Indicator says";
        return Err(Refusal::new(Reason::PAYLOAD_FORMAT, "payload-format", cause));
    }
    if client_id.len() > CLIENT_ID_MAX {
        let cause = format!("a client id of {} bytes; at most {CLIENT_ID_MAX} are taken", client_id.len());
        return Err(Refusal::new(Reason::CLIENT_ID_INVALID, "client-id", &cause));
    }
    Ok(())
}

/// The keep alive that holds: the client's, or the listener's where that is shorter and the client can be told of it
/// (MQTT 5, section 3.2.2.3.14). A client of 3.1.1 cannot, and is left its own.
pub(super) fn keep_alive_s(connect: &Connect, max_s: u16) -> u16 {
    let too_long = connect.keep_alive_s == 0 || connect.keep_alive_s > max_s;
    if connect.version == Version::V5 && max_s > 0 && too_long { max_s } else { connect.keep_alive_s }
}

/// A client id that nobody else has: 128 random bits.
fn assign_client_id() -> ByteString {
    ByteString::from(format!("auto-{:032x}", fastrand::u128(..)))
}
